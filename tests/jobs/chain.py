"""Curation stages run one after another, as the DAG does, without its store."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curation.operator import Input
from jobs.context import EarlierOutput, InputRef, JobContext, JobResult
from jobs.curate import run
from jobs.runtime import RuntimeConfig
from lumina.config import Config


class Chain:
    """Runs stages one after another, as the DAG does; rows may be taken from the stages of `earlier`."""

    def __init__(
        self, root: Path, media_root: Path, weights: Mapping[str, str] | None = None, earlier: Chain | None = None
    ) -> None:
        self.root, self.media_root, self.weights = root, str(media_root), dict(weights or {})
        self.earlier = earlier
        self.refs: dict[str, InputRef] = {}
        self.progress: list[tuple[int, int]] = []
        self.runtime = RuntimeConfig()
        self.aside: Any = None

    def run(self, stage: str, operator: str, config: Config, **inputs: str) -> JobResult:
        out, work = self.root / stage / "out", self.root / stage / "work"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        work.mkdir(exist_ok=True)
        result = run(
            JobContext(
                stage=stage,
                fingerprint="",
                operator=operator,
                config=config,
                runtime=self.runtime,
                inputs={key: self.refs[name] for key, name in inputs.items()},
                weights=self.weights,
                media_root=self.media_root,
                out=out,
                work=work,
                progress=lambda done, total, unit: self.progress.append((done, total)),
                log_metrics=lambda metrics, step: None,
                earlier=self._earlier(stage),
                aside=self.aside,
            )
        )
        self.refs[stage] = InputRef(stage, out, result.digest)
        assert sum(count for name, count in result.counts.items() if name != "in") == result.counts["in"]
        return result

    def _earlier(self, stage: str) -> tuple[EarlierOutput, ...]:
        if self.earlier is None or stage not in self.earlier.refs:
            return ()
        path = self.earlier.refs[stage].path
        return (EarlierOutput("sha256:earlier", lambda wanted: path),)

    def rows(self, stage: str) -> list[dict[str, Any]]:
        return Input(self.refs[stage].path).rows().to_pylist()

    def by_uri(self, stage: str) -> dict[str, dict[str, Any]]:
        uris = {row["clip_id"]: row["uri"] for row in self.rows("ingest")}
        return {uris[row["clip_id"]]: row for row in self.rows(stage)}
