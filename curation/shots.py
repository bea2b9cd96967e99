"""Split: a clip of several shots becomes one row per shot, found by PySceneDetect.

Rows in: ingested clips. Rows out: a clip of one shot as it is; of several, a row each, with its span and, as
`parent_id`, the id of the whole. No file is written. An image, and a clip whose owner gave its span, pass as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curation.clip_ids import clip_id
from curation.decoder import Decoder
from curation.duplicates import reasons_of_firsts
from curation.media import localized
from curation.operator import Env, Input, Operator, map_rows
from curation.schema import INGEST, Reason, Status, iterate, status_not_ok, to_table
from curation.video_files import watch_video
from lumina.config import Config

Span = tuple[float, float]
_THRESHOLDS = {"content": 27.0, "adaptive": 3.0}
_WIDTH = 256
"""Columns of the pictures that are compared: PySceneDetect's own choice."""


class ShotsConfig(Config):
    """Where a clip is cut."""

    detector: Literal["content", "adaptive"] = "adaptive"
    """`content`: two frames differ by more than `threshold`; `adaptive`: they differ that many times as much as their
    neighbours do, which a fast camera does not."""
    threshold: float | None = Field(default=None, gt=0)
    """None is PySceneDetect's own: 27 (of 255) for `content`, 3 (times) for `adaptive`."""
    black_level: int | None = Field(default=6, ge=1, le=255)
    """Mean brightness below which a frame counts as black: a cut through black is cut in its middle. None: no such."""
    min_shot_s: float = Field(default=0.5, gt=0)
    """No shot is shorter, in seconds: cuts that are too close to another or to an end are left out."""


def find_shots(path: Path, config: ShotsConfig) -> list[Span]:
    """The shots of a video file: (start, end) in seconds from its first frame, side by side from 0 to its end.

    RowError `no_video_stream` or `decode_error`.
    """
    detector = _Detector(config)
    line = watch_video(path, detector.see)
    return spans([line.stamps_s[cut] for cut in detector.cuts()], line.end_s, config.min_shot_s)


class _Detector:
    """PySceneDetect's detectors over the frames that pass, which are told apart by their number."""

    def __init__(self, config: ShotsConfig) -> None:
        from av.video.reformatter import VideoReformatter
        from scenedetect import AdaptiveDetector, ContentDetector, ThresholdDetector

        threshold = config.threshold or _THRESHOLDS[config.detector]
        # Each detector sees every cut; which are too close is decided for all of them together.
        kind = ContentDetector if config.detector == "content" else AdaptiveDetector
        self._detectors = [kind(threshold, min_scene_len=0)]
        if config.black_level is not None:
            self._detectors.append(ThresholdDetector(config.black_level, min_scene_len=0))
        self._reformatter = VideoReformatter()
        self._cuts: set[int] = set()
        self._seen = 0
        self._size: tuple[int, int] | None = None

    def see(self, frame: Any) -> None:
        """Look at the next frame (av.VideoFrame)."""
        import cv2
        from scenedetect import FrameTimecode

        # All of one size, whatever the film does: as small as PySceneDetect looks at it.
        self._size = self._size or small_size(frame.width, frame.height)
        picture = self._reformatter.reformat(frame, format="bgr24", threads=1).to_ndarray()
        image = cv2.resize(picture, self._size, interpolation=cv2.INTER_LINEAR)
        now = FrameTimecode(self._seen, 1.0)
        for detector in self._detectors:
            self._add(detector.process_frame(now, image))
        self._seen += 1

    def cuts(self) -> list[int]:
        """Numbers of the frames with which shots begin, but for the first."""
        from scenedetect import FrameTimecode

        for detector in self._detectors:
            self._add(detector.post_process(FrameTimecode(self._seen - 1, 1.0)))
        return sorted(cut for cut in self._cuts if 0 < cut < self._seen)

    def _add(self, cuts: Sequence[Any]) -> None:
        self._cuts.update(cut.frame_num for cut in cuts)


def small_size(width: int, height: int) -> tuple[int, int]:
    """Size at which shots are told apart: no wider than `_WIDTH`, the aspect kept."""
    scale = min(1.0, _WIDTH / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def shots_of(path: Path, settings: Mapping[str, Any]) -> list[Span]:
    """`find_shots`, for the decoding process: `settings` are those of a ShotsConfig."""
    return find_shots(path, ShotsConfig(**settings))


def spans(cuts: Sequence[float], end: float, min_s: float) -> list[Span]:
    """Cut 0 to `end` at the ascending `cuts` (seconds), but at none that leaves less than `min_s` on a side of it."""
    kept = [0.0]
    for cut in cuts:
        if cut - kept[-1] >= min_s and end - cut >= min_s:
            kept.append(cut)
    return list(zip(kept, [*kept[1:], end], strict=True))


_SHOTS = pa.schema([*INGEST, pa.field("shots", pa.list_(pa.list_(pa.float64())))])


def _plan(inputs: Mapping[str, Input], _config: ShotsConfig, _env: Env) -> pa.Table:
    return inputs["clips"].rows().sort_by("clip_id")


def _make(config: ShotsConfig, env: Env) -> Callable[[pa.Table], pa.Table]:
    decoder = Decoder(env.limits)

    def look(row: dict[str, Any]) -> dict[str, Any]:
        if row["media"] != "video" or row["span_start_s"] is not None:
            return {}
        with localized(row["uri"], env.media_root, env.stores) as path:
            return {"shots": decoder.whole_file("curation.shots:shots_of", path, config.model_dump(mode="json"))}

    return lambda table: map_rows(table, _SHOTS, SPLIT_OPERATOR.name, look)


def _expand(table: pa.Table, _config: ShotsConfig) -> pa.Table:
    """One row per shot."""
    broken = reasons_of_firsts(table, table, SPLIT_OPERATOR.name)
    return to_table(_exploded(row | broken.get(row["clip_id"], {}) for row in iterate(table)), INGEST)


def _exploded(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if len(row["shots"] or ()) < 2:
            yield row
            continue
        for start, end in row["shots"]:
            name = clip_id(row["sha256"], start, end)
            yield row | {"clip_id": name, "parent_id": row["clip_id"], "span_start_s": start, "span_end_s": end}


def _reduce(table: pa.Table, _config: ShotsConfig, _surveyed: Any) -> pa.Table:
    """A shot that is a row of its own already, since the manifest lists its span, is set aside."""
    taken = set(table.filter(pc.is_null(table["parent_id"]))["clip_id"].to_pylist())

    def told_apart(row: dict[str, Any]) -> dict[str, Any]:
        name = first = row["clip_id"]
        if row["parent_id"] is None or first not in taken:
            return row
        span, occurrence = (row["span_start_s"], row["span_end_s"]), 0
        while name in taken:
            occurrence += 1
            name = clip_id(row["sha256"], *span, occurrence)
        detail = f"the manifest lists this span itself (clip_id {first})"
        aside = status_not_ok(SPLIT_OPERATOR.name, Status.FILTERED, Reason.DUPLICATE_CONTENT, detail)
        return row | aside | {"clip_id": name}

    return to_table(map(told_apart, iterate(table)), INGEST)


SPLIT_OPERATOR = Operator(
    name="split",
    config=ShotsConfig,
    schema=INGEST,
    reads_media=True,
    depends=("scenedetect-headless",),
    computed=_SHOTS,
    inputs=("clips",),
    plan=_plan,
    map=_make,
    expand=_expand,
    reduce=_reduce,
)
"""Reads the input `clips`: the output of `ingest`."""
