"""Ingest, and what its rows cannot tell: members of the archives that no row of the manifest refers to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from curation.manifests import read_manifest
from jobs import curate
from jobs.context import JobContext, JobResult

UNREFERENCED_FILE = "unreferenced.json"
_FIRST = 100


def run(ctx: JobContext) -> JobResult:
    """Run the ingest operator over the input `manifest`; see `jobs.curate.run`.

    Where members are left over, their number is the metric `unreferenced`, and `unreferenced.json` names the first.
    """
    result = curate.run(ctx)
    if next(Path(ctx.media_root).glob("*.zip"), None) is None:
        return result  # no archives: nothing to read the manifest once more for
    path = ctx.files["manifest"] if "manifest" in ctx.files else ctx.inputs["manifest"].path
    rest = read_manifest(path, ctx.config).unreferenced
    if not rest:
        return result
    text = json.dumps({"count": len(rest), "first": rest[:_FIRST]}, indent=1, ensure_ascii=False)
    (ctx.out / UNREFERENCED_FILE).write_text(text + "\n", encoding="utf-8")
    return replace(
        result,
        metrics={**result.metrics, "unreferenced": float(len(rest))},
        artifacts=(*result.artifacts, UNREFERENCED_FILE),
    )
