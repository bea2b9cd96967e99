"""TensorBoard event files of a recorded run: curves and pictures of its stages, from what the store holds."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
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
class _Picture:
    key: str
    step: int
    png: bytes


def write_events(store: Store, record: RunRecord, out: Path) -> list[Path]:
    """Write `out/<run>/<stage>/`, an event file of each stage that has figures; return these folders.

    What was there of the run is replaced. `tensorboard --logdir OUT` shows runs and stages side by side.

    Raises:
        PipelineError: TensorBoard is not installed, or no stage of the run is finished.
        StoreError: an output cannot be read.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise PipelineError(
            'TensorBoard is not installed here: pip install "lumina-video[tensorboard]", or track with MLflow alone'
        ) from error
    written = []
    for name, entry in record.stages.items():
        manifest = store.lookup(name, entry.fingerprint) if entry.fingerprint else None
        if manifest is None:
            continue
        points, pictures = list(_points(store, manifest)), list(_pictures(store, manifest))
        began, last = datetime.fromisoformat(manifest.started).timestamp(), max((step for step, _ in points), default=1)
        pace = manifest.seconds / max(1, last)
        folder = out / record.run / name
        part = folder.with_name(f".{name}.part")
        for path in (part, folder):
            shutil.rmtree(path, ignore_errors=True)
        writer = EventFileWriter(str(part))
        for step, values in points:
            numbers = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            writer.add_event(Event(wall_time=began + pace * step, step=step, summary=Summary(value=numbers)))
        for one in pictures:
            width, height = struct.unpack(">II", one.png[16:24])
            image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=one.png)
            shown = Summary(value=[Summary.Value(tag=one.key, image=image)])
            writer.add_event(Event(wall_time=began + pace * one.step, step=one.step, summary=shown))
        writer.close()
        part.rename(folder)
        written.append(folder)
    if not written:
        raise PipelineError(f"run {record.run} has no finished stage yet, so there is nothing to write")
    return written


def _points(store: Store, manifest: Manifest) -> Iterator[tuple[int, dict[str, float]]]:
    """Steps of the stage's curves, those of its clips among them; what it measured in all is of its last step."""
    names = {file.path for file in manifest.files}
    last = 0
    if METRICS_FILE in names:
        for row in read_jsonl(store.fetch(manifest, lambda path: path == METRICS_FILE) / METRICS_FILE):
            last = int(row["step"])
            yield last, {key: value for key, value in row.items() if not key.startswith(_COUNTS)}
    for step, record in _steps(store, manifest):
        ends = record.get("figures", {})
        yield (
            step,
            {
                f"sample/{metric}/{source}": found["value"]
                for source, figures in ends.items()
                for metric, found in figures.items()
                if found["value"] is not None
            },
        )
    if manifest.metrics:
        yield last, dict(manifest.metrics)


def _pictures(store: Store, manifest: Manifest) -> Iterator[_Picture]:
    for step, record in _steps(store, manifest):
        folder = store.output(manifest) / FOLDER / f"step-{step:08d}"
        for row in record["rows"]:
            noise = f" {row['seed']}" if row["seed"] else ""
            yield _Picture(f"{row['source']}/{row['prompt']}{noise}", step, (folder / row["strip"]).read_bytes())


def _steps(store: Store, manifest: Manifest) -> Iterator[tuple[int, dict[str, Any]]]:
    records = sorted(file.path for file in manifest.files if file.path.endswith(f"/{STEP_FILE}"))
    if records:
        root = store.fetch(manifest, lambda path: path.startswith(f"{FOLDER}/"))
        for path in records:
            yield int(Path(path).parent.name.removeprefix("step-")), read_json(root / path)
