"""A small video-to-audio run with all that its page shows: films, sounds under conditions, figures and a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from jobs.context import JobContext, JobResult
from jobs.evaluate_sound import COMPARISON_FILE, SCHEMA
from lumina.config import Config
from lumina.evaluation.selection import METRICS_FILE
from lumina.parts import SOUND_FILE
from lumina.shapes.tones import SoundEvent, waveform
from lumina.video import write_h264
from lumina.video_to_audio.wav_files import write_wav
from pipelines.engine.stage import Execution, Pipeline, Stage

CLIPS = tuple(f"{number:x}{'0' * 31}" for number in range(4))
SECONDS, FPS, SIDE = 2.0, 10, 32
EVENTS = ((0.5, 400.0, True), (1.25, 2600.0, False))
"""Of every clip but the last, which is silent: s, Hz, whether it is seen."""
FOUND = {"truth": (0.51, 1.26), "given": (0.53, 1.7), "nothing": ()}
CAPTION = "A <red> square hops."
SAID = "train@2 against train@1 on the same 4 clips & noises: no difference is shown."
TRACK = {"stream": 0, "clock": "pts", "interval_s": 1 / FPS, "pixel_aspect": "1", "deinterlace": False}


class NoConfig(Config):
    """Nothing to set."""


class TrainConfig(Config):
    """What tells curves of sounds from those of clips."""

    media_drop: float = 0.1


class EvaluateConfig(Config):
    """Clips whose sounds are kept under all conditions."""

    shown: tuple[str, ...] = Field(default=CLIPS[:1])


def render(ctx: JobContext) -> JobResult:
    """Films."""
    for number, clip in enumerate(CLIPS):
        shown = np.full((int(FPS * SECONDS), SIDE, SIDE, 3), 60, np.uint8)
        for frame, image in enumerate(shown):
            image[8:24, (frame + number) % 16 : (frame + number) % 16 + 8] = (220, 40, 40)
        write_h264(ctx.out / f"{clip}.mp4", shown, FPS)
    return JobResult("files", "sha256:" + "1" * 64)


def probe(ctx: JobContext) -> JobResult:
    """Their rows."""
    own = {
        "media": "video",
        "track": json.dumps(TRACK),
        "span_start_s": None,
        "duration_s": SECONDS,
        "caption": CAPTION,
    }
    rows = [{"clip_id": clip, "uri": f"{clip}.mp4", "width": SIDE, "height": SIDE, **own} for clip in CLIPS]
    return _rows(ctx, rows)


def train(ctx: JobContext) -> JobResult:
    """A loss that falls."""
    lines = [{"step": step, "loss/sound": 2.0 ** (-step / 10)} for step in range(1, 21)]
    (ctx.out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return JobResult("checkpoint", "sha256:" + "2" * 64)


def evaluate(ctx: JobContext) -> JobResult:
    """Sounds of all clips: `given` misses what is off-screen and is too loud, `nothing` is silent."""
    config: EvaluateConfig = ctx.config
    rows = []
    for clip in CLIPS:
        events = EVENTS if clip != CLIPS[-1] else ()
        for condition, onsets in FOUND.items():
            found = onsets if events else ()
            name = f"sounds/{condition}/{clip}.wav"
            kept = condition != "nothing" or clip in config.shown
            if kept:
                (ctx.out / name).parent.mkdir(parents=True, exist_ok=True)
                write_wav(ctx.out / name, _sound(found, 2.0 if condition == "given" else 1.0), 16_000)
            row = {"sound_id": f"{condition}/{clip}", "clip_id": clip, "condition": condition}
            row |= {"sound": name if kept else None, "duration_s": SECONDS, "video_fps": float(FPS)}
            row |= {"events": len(events), "hits": {"truth": 2, "given": 1}.get(condition, 0) if events else 0}
            row |= {"class_hits": 1, "onset_times_s": list(found), "event_times_s": [one[0] for one in events]}
            row |= {"event_pitch_hz": [one[1] for one in events], "event_seen": [one[2] for one in events]}
            rows.append(row)
    content = {
        "schema": SCHEMA, "checkpoint": ctx.inputs["checkpoint"].stage, "clips": len(CLIPS), "confidence": 0.95,
        "conditions": {"nothing": _ends(0.125), "sync_shuffled": _ends(0.2), "given": _ends(0.6), "truth": _ends(0.9)},
        "given_minus": {"nothing": _ends(0.475), "sync_shuffled": _ends(0.4), "truth": _ends(-0.05)},
        "meaning": {"onset_f1_50ms": "F1 of onsets & events"},
    }  # fmt: skip
    (ctx.out / METRICS_FILE).write_text(json.dumps(content))
    return _rows(ctx, rows)


def compare(ctx: JobContext) -> JobResult:
    """What differs."""
    sides = {"before": _ends(0.5), "after": _ends(0.6), "difference": _ends(0.1)}
    figures = {name: {side: ends[name] for side, ends in sides.items()} for name in sides["before"]}
    content = {
        "before": {"checkpoint": "train@1"}, "after": {"checkpoint": "train@2"}, "clips": len(CLIPS),
        "figures": figures, "meaning": {}, "found": SAID,
    }  # fmt: skip
    (ctx.out / COMPARISON_FILE).write_text(json.dumps(content))
    return JobResult("files", "sha256:" + "3" * 64)


def export(ctx: JobContext) -> JobResult:
    """What `lumina sound` takes."""
    (ctx.out / SOUND_FILE).write_text("{}")
    return JobResult("files", "sha256:" + "4" * 64)


def _sound(onsets: tuple[float, ...], level: float) -> NDArray[np.int16]:
    tones = [SoundEvent(time, 400.0, "circle", None, 0.8) for time in onsets]
    return np.clip(32_000 * level * waveform(tones, SECONDS), -32_768, 32_767).astype(np.int16)


def _ends(value: float) -> dict[str, Mapping[str, float]]:
    return {"onset_f1_50ms": {"value": value, "low": value - 0.1, "high": value + 0.1}}


def _rows(ctx: JobContext, rows: list[dict[str, Any]]) -> JobResult:
    (ctx.out / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), ctx.out / "data" / "rows.parquet")
    return JobResult("rows", f"rows256-add/1:{len(rows)}:{'5' * 64}", counts={"in": len(rows), "ok": len(rows)})


def _stage(
    name: str, job: str, config: Config | None = None, media_root_from: str | None = None, **inputs: str
) -> Stage:
    execution = Execution(uses_cluster=False, media_root_from=media_root_from)
    return Stage(name, f"{__name__}:{job}", config or NoConfig(), inputs=inputs, execution=execution)


def pipeline() -> Pipeline:
    """Films, two trainings, an evaluation of each, their comparison and the export."""
    stages = [
        _stage("render_shapes", "render"),
        _stage("probe", "probe", media_root_from="media", media="render_shapes"),
        _stage("train@1", "train", TrainConfig()),
        _stage("train@2", "train", TrainConfig(), init="train@1"),
        *(
            _stage(f"evaluate@{name}", "evaluate", EvaluateConfig(), clips="probe", checkpoint=f"train@{name}")
            for name in "12"
        ),
        _stage("compare", "compare", before="evaluate@1", after="evaluate@2"),
        _stage("export", "export", checkpoint="train@2"),
    ]
    return Pipeline("video_to_audio", tuple(stages))
