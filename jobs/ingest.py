"""Ingest, and what its rows cannot tell: what lies beside them in archives and folders, and is no row.

Rows in: the manifest's. Rows out: those of `curation.manifests.INGEST_OPERATOR`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from curation.folders import said, scan, shown
from curation.manifests import is_scanned, read_manifest
from jobs import curate
from jobs.context import JobContext, JobResult

UNREFERENCED_FILE, LEFT_OUT_FILE = "unreferenced.json", "left_out.json"
_FIRST = 100

log = logging.getLogger(__name__)


def run(ctx: JobContext) -> JobResult:
    """Run the ingest operator over the input `manifest`; see `jobs.curate.run`.

    Where members of archives or files of a scanned folder are left over, their number is the metric `unreferenced` or
    `left_out`, and the file of that name tells the first of each kind; of a folder's files a line of the log tells too.
    """
    result = curate.run(ctx)
    path = ctx.files["manifest"] if "manifest" in ctx.files else ctx.inputs["manifest"].path
    if is_scanned(path, ctx.config):
        return _with_left_out(ctx, result, path)
    if next(Path(ctx.media_root).glob("*.zip"), None) is None:
        return result  # nothing to read the manifest once more for
    if rest := read_manifest(path, ctx.config).unreferenced:
        result = _with(result, ctx.out, UNREFERENCED_FILE, {"count": len(rest), "first": rest[:_FIRST]})
    return result


def _with_left_out(ctx: JobContext, result: JobResult, path: Path) -> JobResult:
    if left_out := scan(path).left_out:
        kinds: dict[str, list[str]] = {}
        for kind, name in left_out:
            kinds.setdefault(kind, []).append(shown(name))
        told = {kind: {"count": len(names), "first": names[:_FIRST]} for kind, names in sorted(kinds.items())}
        result = _with(result, ctx.out, LEFT_OUT_FILE, {"count": len(left_out), "kinds": told})
        log.warning("%s: of the files below %s these are no clips: %s", ctx.stage, path, said(left_out))
    return result


def _with(result: JobResult, out: Path, file: str, content: Mapping[str, Any]) -> JobResult:
    """The result with a file of what is left over, and the metric of its name."""
    (out / file).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    metrics = {**result.metrics, file.removesuffix(".json"): float(content["count"])}
    return replace(result, metrics=metrics, artifacts=(*result.artifacts, file))
