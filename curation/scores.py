"""Scores of clips by chosen scorers: picture quality, camera motion, networks for beauty and captions, OCR.

Rows in: probed clips. Rows out: the same ids with a number in each column of the scorers that are on. A clip that does
not decode is quarantined, as is one for which a scorer gives no finite number. Frames are decoded once for all scorers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from curation.decode import READ_COLUMNS, clip_times
from curation.decoder import Decoder
from curation.media import localized
from curation.operator import Env, Halves, Input, Operator, Report, RowsFunction, map_rows, quantile_report
from curation.schema import STATUS_COLUMNS, Reason, RowError, Status
from curation.score_columns import SCORERS, SCORES, columns_of, schema_of
from lumina.config import Config

if TYPE_CHECKING:
    import pyarrow.dataset as ds

    from curation.score_networks import Scorer


NETWORK_LIBRARIES, OCR_LIBRARIES = ("torch", "transformers"), ("rapidocr", "onnxruntime")


class QualityConfig(Config):
    """Sharpness, exposure, saturation, black bars, duplicate frames and interlacing combs. Needs no network."""

    short_side: int = Field(default=512, ge=32)
    """Pixels of the short side in which sharpness, exposure and saturation are measured; smaller clips stay as they
    are. Sharpness is of this scale: with another one its limits are others."""


class CameraConfig(Config):
    """Pan, zoom and shake. Needs no network."""

    short_side: int = Field(default=192, ge=32)
    """Pixels of the short side in which optical flow is estimated, at most."""
    interval_s: float = Field(default=0.05, gt=0)
    """Seconds between two frames that are compared, at least."""


class AestheticConfig(Config):
    """LAION's aesthetic predictor, as VBench uses it."""

    weights: str | None = None
    """CLIP ViT-L/14: a directory, or `hf:openai/clip-vit-large-patch14`."""
    head: str | None = None
    """LAION's linear head: `sa_0_4_vit_l_14_linear.pth`."""


class CaptionMatchConfig(Config):
    """Cosine of caption and frames by CLIP or SigLIP."""

    weights: str | None = None
    """The network with its tokenizer: a directory, `hf:` and a model of the hub, or `zoo:clip` for rendered shapes."""


class NsfwConfig(Config):
    """An image classifier of transformers."""

    weights: str | None = None
    """The classifier with its image processor: a directory, or `hf:` and a model of the hub."""
    label: str = "nsfw"
    """Name of the label whose probability is the score, as the classifier's config has it."""


class TextConfig(Config):
    """OCR by rapidocr: `pip install 'lumina-video[ocr]'`. Its networks run on the CPU."""

    short_side: int = Field(default=720, ge=32)
    """Pixels of the short side that is read; larger frames are reduced to it."""


_PLACES = ("weights", "head")


class ScoresConfig(Config):
    """Which scorers look at the clips, and at what of them. A scorer that is null is off; `{}` switches it on."""

    quality: QualityConfig | None = None
    """Sharpness, exposure, saturation, black bars, duplicate frames, combs."""
    camera: CameraConfig | None = None
    """Pan, zoom, shake."""
    aesthetic: AestheticConfig | None = None
    """How beautiful frames are."""
    caption_match: CaptionMatchConfig | None = None
    """How well the caption fits the frames."""
    nsfw: NsfwConfig | None = None
    """Whether frames are unfit to be shown."""
    text: TextConfig | None = None
    """How much of the picture is under text, and what it says."""
    window_s: float = Field(default=4.0, gt=0, le=60)
    """Seconds of a long clip that are looked at, from its start on."""
    samples: int = Field(default=8, ge=1, le=64)
    """Frames of the window, evenly spaced, that are looked at by all that does not need every frame."""

    @property
    def scorers(self) -> tuple[str, ...]:
        """Names of those that are on."""
        return tuple(name for name in SCORERS if getattr(self, name) is not None)

    def networks(self) -> dict[str, str | None]:
        """What the scorers that are on load, by its setting below `scores`, with its place where one is given."""
        on = {name: getattr(self, name) for name in self.scorers}
        return {f"{name}.{key}": value for name, one in on.items() for key, value in one if key in _PLACES}

    def identity(self) -> ScoresConfig:
        """Without the places of the networks, which are known by content."""
        on = {name: getattr(self, name) for name in self.scorers}
        placeless = dict.fromkeys(_PLACES)
        return self.model_copy(
            update={
                name: one.model_copy(update={key: None for key in placeless if key in type(one).model_fields})
                for name, one in on.items()
            }
        )


def _plan(inputs: Mapping[str, Input], config: ScoresConfig, _env: Env) -> pa.Table:
    # A corrected caption concerns no other scorer.
    captions = ["caption"] if config.caption_match is not None else []
    return inputs["clips"].rows(["clip_id", *READ_COLUMNS, "fps", *captions, *STATUS_COLUMNS]).sort_by("clip_id")


def _make(config: ScoresConfig, env: Env) -> RowsFunction:
    decoder, scorers = Decoder(env.limits), _scorers(config, env)

    def load(table: pa.Table) -> tuple[pa.Table, dict[str, _Seen]]:
        seen: dict[str, _Seen] = {}

        def look(row: dict[str, Any]) -> dict[str, Any]:
            seen[row["clip_id"]] = _look(decoder, row, env, config, pixels=bool(scorers))
            return {}

        return map_rows(table, table.schema, SCORES_OPERATOR.name, look), seen

    def score(loaded: tuple[pa.Table, dict[str, _Seen]]) -> pa.Table:
        table, seen = loaded

        def measure(row: dict[str, Any]) -> dict[str, Any]:
            if row["clip_id"] not in seen:
                return {name: row[name] for name in STATUS_COLUMNS}
            return _scored(seen[row["clip_id"]], row.get("caption") or "", scorers)

        return map_rows(table, SCORES, SCORES_OPERATOR.name, measure)

    return Halves(load, score)


_Seen = tuple[dict[str, Any], NDArray[np.uint8]]
"""Columns that the decoding process measured, and the sampled frames [S, H, W, 3] where a network looks at them."""


def _look(decoder: Decoder, row: Mapping[str, Any], env: Env, config: ScoresConfig, pixels: bool) -> _Seen:
    # Neither OpenCV nor PyAV is for a plan.
    from curation.score_frames import found_in_frames, sampled

    start, times, is_film = row["span_start_s"] or 0.0, [0.0], row["media"] != "image"
    if is_film:
        window_s = min(row["duration_s"], config.window_s)
        times = clip_times(row, [index / row["fps"] for index in range(max(1, round(window_s * row["fps"])))])
    if not times:
        raise RowError(Reason.TOO_FEW_FRAMES, f"{row['duration_s']:.6g} s: no frame to score", Status.FILTERED)
    samples = sampled(len(times), config.samples)
    settings = {
        "media": row["media"],
        "track": row["track"],
        "times_s": [start + time for time in times],
        "samples": samples,
        "quality": config.quality and config.quality.model_dump(),
        "camera": config.camera.model_dump() if config.camera is not None and is_film else None,
        "pixels": pixels,
    }
    with localized(row["uri"], env.media_root, env.stores) as path:
        function = f"{found_in_frames.__module__}:{found_in_frames.__qualname__}"
        found, frames = decoder.array(function, path, settings)
    return {**found, "frames_scored": len(samples)}, frames


def _scorers(config: ScoresConfig, env: Env) -> list[Scorer]:
    """Those that look at pixels; errors are those of their loaders."""
    found = _networks(config, env) if config.networks() else []
    if config.text is not None:
        from curation import score_text

        found.append(score_text.text(config.text.short_side))
    return found


def _networks(config: ScoresConfig, env: Env) -> list[Scorer]:
    import torch

    from curation import score_networks

    # One thread: sums in a fixed order, so the scores do not depend on the machine's cores.
    torch.set_num_threads(1)
    weights, found = env.weights, []
    if config.aesthetic is not None:
        found.append(score_networks.aesthetic(weights["aesthetic.weights"], weights["aesthetic.head"], env.device))
    if config.caption_match is not None:
        found.append(score_networks.caption_match(weights["caption_match.weights"], env.device))
    if config.nsfw is not None:
        found.append(score_networks.nsfw(weights["nsfw.weights"], config.nsfw.label, env.device))
    return found


def _scored(seen: _Seen, caption: str, scorers: list[Scorer]) -> dict[str, Any]:
    columns, frames = seen
    for scorer in scorers:
        columns |= scorer(frames, caption)
    bad = [name for name, value in columns.items() if isinstance(value, float) and not math.isfinite(value)]
    if bad:
        raise RowError(Reason.NOT_FINITE, f"{', '.join(bad)} came out as no finite number")
    return columns


def _report(dataset: ds.Dataset, config: ScoresConfig, _out: Path) -> Report:
    return quantile_report(dataset, *columns_of(config.scorers))


def _runs_network(config: ScoresConfig) -> bool:
    return bool(config.networks())


SCORES_OPERATOR = Operator(
    name="scores",
    config=ScoresConfig,
    schema=SCORES,
    reads_media=True,
    # Decoders of lossy codecs round as the CPU's instructions do.
    tier="tolerance",
    inputs=("clips",),
    plan=_plan,
    map=_make,
    passthrough_columns=("uri",),
    runs_network=_runs_network,
    report=_report,
)
"""Reads the input `clips`, the output of `probe`; weights by their settings, `aesthetic.weights` and so on."""


def _alone(scorer: str, *weights: str, depends: tuple[str, ...] = ()) -> Operator:
    """A stage of one scorer, whose table has its columns alone: it comes and goes without the others."""
    return replace(SCORES_OPERATOR, schema=schema_of([scorer]), weights=weights, depends=depends)


QUALITY_OPERATOR = _alone("quality")
CAMERA_OPERATOR = _alone("camera")
AESTHETIC_OPERATOR = _alone("aesthetic", "aesthetic.weights", "aesthetic.head", depends=NETWORK_LIBRARIES)
CAPTION_MATCH_OPERATOR = _alone("caption_match", "caption_match.weights", depends=NETWORK_LIBRARIES)
NSFW_OPERATOR = _alone("nsfw", "nsfw.weights", depends=NETWORK_LIBRARIES)
TEXT_OPERATOR = _alone("text", depends=OCR_LIBRARIES)
