"""Curves and pictures of a recorded run's stages, from what the store holds: what trackers that come later are told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lumina.files import read_json, read_jsonl
from lumina.training.loop_config import METRICS_FILE
from lumina.training.sample_config import FOLDER, STEP_FILE
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError

_COUNTS = ("step", "t_count/")
"""What is no curve."""


@dataclass(frozen=True)
class Picture:
    """A PNG of a series: the same prompt at another step."""

    key: str
    png: Path


@dataclass(frozen=True)
class Step:
    """All that a stage has of one step."""

    number: int
    time: float
    """Seconds since the epoch, as if all steps took as long."""
    metrics: Mapping[str, float]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class RecordedStage:
    """A finished stage of a run, and its steps in order."""

    name: str
    fingerprint: str
    kind: str
    steps: tuple[Step, ...]


def recorded_stages(store: Store, record: RunRecord) -> Iterator[RecordedStage]:
    """The finished stages of a run. What a stage measured in all belongs to its last step; 0 if it has none.

    Raises:
        PipelineError: No stage of the run is finished.
        StoreError: An output cannot be read.
    """
    found = False
    for name, entry in record.stages.items():
        manifest = store.lookup(name, entry.fingerprint) if entry.fingerprint else None
        if manifest is not None:
            found = True
            yield RecordedStage(name, manifest.fingerprint, manifest.kind, _steps(store, manifest))
    if not found:
        raise PipelineError(f"run {record.run} has no finished stage yet, so there is nothing to write")


def stage_folders(store: Store, record: RunRecord, out: Path) -> Iterator[tuple[RecordedStage, Path, Path]]:
    """The stages that have figures, each with an empty folder to write into, and the one to put it in place as.

    What was there of a stage is gone. Raises what `recorded_stages` raises.
    """
    for stage in recorded_stages(store, record):
        folder = out / record.run / stage.name
        part = folder.with_name(f".{stage.name}.part")
        for path in (part, folder):
            shutil.rmtree(path, ignore_errors=True)
        if stage.steps:
            part.mkdir(parents=True)
            yield stage, part, folder


def _steps(store: Store, manifest: Manifest) -> tuple[Step, ...]:
    metrics: dict[int, dict[str, float]] = {}
    pictures: dict[int, tuple[Picture, ...]] = {}
    last = 0
    if METRICS_FILE in {file.path for file in manifest.files}:
        for row in read_jsonl(store.fetch(manifest, lambda path: path == METRICS_FILE) / METRICS_FILE):
            last = int(row["step"])
            metrics[last] = {key: value for key, value in row.items() if not key.startswith(_COUNTS)}
    for number, folder, record in _samples(store, manifest):
        metrics.setdefault(number, {}).update(
            {
                f"sample/{metric}/{source}": found["value"]
                for source, figures in record.get("figures", {}).items()
                for metric, found in figures.items()
                if found["value"] is not None
            }
        )
        pictures[number] = tuple(Picture(_series(row), folder / row["strip"]) for row in record["rows"])
    if manifest.metrics:
        metrics.setdefault(last, {}).update(manifest.metrics)
    began, pace = datetime.fromisoformat(manifest.started).timestamp(), manifest.seconds / max(1, last)
    return tuple(
        Step(number, began + pace * number, metrics.get(number, {}), pictures.get(number, ()))
        for number in sorted(metrics.keys() | pictures.keys())
    )


def _series(row: Mapping[str, Any]) -> str:
    noise = f" {row['seed']}" if row["seed"] else ""
    return f"{row['source']}/{row['prompt']}{noise}"


def _samples(store: Store, manifest: Manifest) -> Iterator[tuple[int, Path, dict[str, Any]]]:
    records = sorted(file.path for file in manifest.files if file.path.endswith(f"/{STEP_FILE}"))
    if records:
        root = store.fetch(manifest, lambda path: path.startswith(f"{FOLDER}/"))
        for path in records:
            yield int(Path(path).parent.name.removeprefix("step-")), (root / path).parent, read_json(root / path)
