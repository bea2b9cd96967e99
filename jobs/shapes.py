"""Stage `render_shapes`: write the Shapes world as real H.264 clips and PNG stills with a CSV manifest.

Rows out: one per file. Every clip is a scene of its own, drawn from the seed, its source and its number.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from jobs.context import Job, JobContext, JobResult
from jobs.files import files_digest
from lumina.audio_tracks import AudioCodec, AudioTrack
from lumina.config import Config

if TYPE_CHECKING:
    from lumina.shapes import Source

_CHUNK = 40
COLUMNS = ("video", "caption", "source", "scene")


class RenderSoundConfig(Config):
    """Clips with sound: shapes that hop and bounce, with a tone each time."""

    duration_s: float = Field(default=4.0, gt=0, le=10)
    """Length of a clip in seconds, in place of that of the silent ones."""
    codec: AudioCodec = "aac"
    """`aac`, which plays everywhere; `flac` or `alac`, which lose nothing."""


class RenderShapesConfig(Config):
    """What the demo's raw data is."""

    clips: dict[str, int] = Field(default={"synthetic": 240, "handheld": 330, "web": 330})
    """Number of clips of each source (synthetic, handheld, web)."""
    images: dict[str, int] = Field(default={"synthetic": 160, "handheld": 220, "web": 220})
    """Number of still images of each source."""
    side: int = Field(default=96, ge=32, multiple_of=2)
    """Height and width in pixels."""
    fps: int = Field(default=16, ge=1)
    """Frames per second of the files."""
    duration_s: float = Field(default=2.2, gt=0, le=2.2)
    """Length of a clip in seconds; scenes last 2.2 s."""
    seed: int = 20
    """Seed of all scenes."""
    flaws: Literal["mild", "strong"] = "mild"
    """How far `handheld` and `web` fall behind: `mild`, hardly to be noticed by a small model; `strong`, as those of
    real sources, with a camera that drifts and loses its focus, clips uploaded again, and more wrong captions."""
    speed_told: Literal["mostly", "always", "never"] = "mostly"
    """Whether captions say how fast things move; `never` leaves it to the motion score, `mostly` is in four of five."""
    sound: RenderSoundConfig | None = None
    """Render clips of scenes with sound; None: silent ones."""

    @field_validator("clips", "images")
    @classmethod
    def _known_sources(cls, counts: dict[str, int]) -> dict[str, int]:
        known = ("synthetic", "handheld", "web")
        for name, count in counts.items():
            if name not in known:
                raise ValueError(f"unknown source {name!r}; the Shapes world has {', '.join(known)}")
            if count < 0:
                raise ValueError(f"the number of files of source {name!r} must not be negative, got {count}")
        return counts


@dataclass(frozen=True)
class _Chunk:
    source: str
    media: str
    first: int
    stop: int


@partial(Job, depends=("av", "opencv-python-headless", "numpy"))
def run(ctx: JobContext) -> JobResult:
    """Write `<source>/<number>.mp4`, `images/<source>-<number>.png` and `clips.csv` (config: RenderShapesConfig)."""
    import ray

    config: RenderShapesConfig = ctx.config
    chunks = [
        _Chunk(source, media, first, min(first + _CHUNK, count))
        for media, counts in (("video", config.clips), ("image", config.images))
        for source, count in sorted(counts.items())
        for first in range(0, count, _CHUNK)
    ]
    total = sum(chunk.stop - chunk.first for chunk in chunks)
    task = ray.remote(num_cpus=1, max_retries=2)(_render_chunk)
    references = [task.remote(config, chunk, str(ctx.out)) for chunk in chunks]
    rows: list[dict[str, str]] = []
    # In submission order, so that the manifest's rows do not depend on which task ends first.
    for reference in references:
        rows.extend(ray.get(reference))
        ctx.progress(len(rows), total, "files")
    with (ctx.out / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return JobResult(kind="files", digest=files_digest(ctx.out), counts={"in": total, "ok": total})


def _render_chunk(config: RenderShapesConfig, chunk: _Chunk, out: str) -> list[dict[str, str]]:
    import cv2

    from lumina.video import write_h264

    cv2.setNumThreads(1)
    source = _source(config, chunk.source)
    rows = []
    for number in range(chunk.first, chunk.stop):
        if chunk.media == "video":
            name = f"{chunk.source}/{number:05d}.mp4"
        else:
            name = f"images/{chunk.source}-{number:05d}.png"
        path = Path(out) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if chunk.media == "video" and config.sound is not None:
            frames, caption, truth, track = _sound_film(config, config.sound, source, number)
        else:
            frames, caption, truth = _film(config, source, chunk.media, number)
            track = None
        if chunk.media == "video":
            write_h264(path, frames, config.fps, crf=source.crf, sound=track)
        elif not cv2.imwrite(str(path), frames[0, :, :, ::-1]):
            raise OSError(f"{path}: the image could not be written")
        rows.append({"video": name, "caption": caption, "source": chunk.source, "scene": truth})
    return rows


def _source(config: RenderShapesConfig, name: str) -> Source:
    from lumina.shapes import SOURCES, STRONG

    return (STRONG if config.flaws == "strong" else SOURCES)[name]


def _film(config: RenderShapesConfig, source: Source, media: str, number: int) -> tuple[NDArray[np.uint8], str, str]:
    """Frames, caption and the true facts as JSON."""
    from lumina.randomness import generator
    from lumina.shapes import caption, film, sample_scene

    rng = generator(config.seed, "shapes", media, source.name, number)
    scene = sample_scene(rng)
    image = media == "image"
    num_frames = 1 if image else round(config.duration_s * config.fps)
    frames = film(scene, source, rng, num_frames=num_frames, height=config.side, width=config.side, fps=config.fps)
    told = scene if rng.random() >= source.wrong_captions else sample_scene(rng)
    facts = [{"color": s.color, "kind": s.kind, "direction": s.direction, "speed": s.speed} for s in scene.shapes]
    return frames, caption(told, rng, speed=config.speed_told, image=image), json.dumps(facts)


def _sound_film(
    config: RenderShapesConfig, sound: RenderSoundConfig, source: Source, number: int
) -> tuple[NDArray[np.uint8], str, str, AudioTrack]:
    """As `_film`, and the audio track, which ends with the last frame."""
    from lumina.randomness import generator
    from lumina.shapes import film, sample_sound_scene, sound_caption, waveform

    rng = generator(config.seed, "shapes/sound", source.name, number)
    scene = sample_sound_scene(rng)
    num_frames = max(1, round(sound.duration_s * config.fps))
    frames = film(scene, source, rng, num_frames=num_frames, height=config.side, width=config.side, fps=config.fps)
    told = scene if rng.random() >= source.wrong_captions else sample_sound_scene(rng)
    duration_s = num_frames / config.fps
    track = AudioTrack(waveform(scene.events(duration_s), duration_s), codec=sound.codec)
    return frames, sound_caption(told, rng), json.dumps(scene.truth(duration_s)), track
