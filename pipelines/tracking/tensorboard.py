"""TensorBoard event files of a recorded run: curves and pictures of its stages, from what the store holds."""

from __future__ import annotations

import struct
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.tracking.recorded_stages import Picture, RecordedStage, stage_folders


def write_events(store: Store, record: RunRecord, out: Path) -> list[Path]:
    """Write `out/<run>/<stage>/`, an event file of each stage that has figures; return these folders.

    What was there of a stage is replaced. `tensorboard --logdir OUT` shows runs and stages side by side.

    Raises:
        PipelineError: no stage of the run is finished.
        StoreError: an output cannot be read.
    """
    written = []
    for stage, part, folder in stage_folders(store, record, out):
        _write(stage, part)
        part.rename(folder)
        written.append(folder)
    return written


def _write(stage: RecordedStage, folder: Path) -> None:
    writer = EventsWriter(str(folder / "events"))
    try:
        for step in stage.steps:
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in step.metrics.items()]
            values += [Summary.Value(tag=picture.key, image=_image(picture)) for picture in step.pictures]
            writer.write_event(Event(wall_time=step.time, step=step.number, summary=Summary(value=values)))
    finally:
        writer.close()


def _image(picture: Picture) -> Summary.Image:
    png = picture.png.read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    return Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
