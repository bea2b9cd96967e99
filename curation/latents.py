"""Encode latents: clips of one size and length per bucket, as the training loop reads them.

Rows in: all selected clips. Rows out: the same, with latents for those this stage wants; its neighbours' media and
clips that are too short are filtered. Frames never leave their machine: the decoding process resizes each as it comes,
and the next unit's are decoded while the VAE encodes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from curation.decode import clip_times, frames_at
from curation.decoder import Decoder
from curation.fitting import Fit
from curation.operator import (
    RANDOM_READ_BYTES,
    Env,
    Halves,
    Input,
    Layout,
    Operator,
    Report,
    RowsFunction,
    aside,
    map_rows,
)
from curation.prompts import system_prompts_of
from curation.schema import (
    LATENTS,
    SELECT,
    STATUS_COLUMNS,
    Reason,
    RowError,
    Status,
    iterate,
    set_aside,
    status_not_ok,
    to_table,
)
from curation.tensors import DType, pack
from lumina.config import Config
from lumina.models.config import EncodeRecipe
from lumina.precision import Precision, precision_on
from lumina.randomness import generator
from lumina.sizes import CELL, Size, best_crop_size, crop_sizes, largest_clip, num_cells, resize_crop
from lumina.training.data.index import CLIPS, write_index

if TYPE_CHECKING:
    import pyarrow.dataset as ds

Row = dict[str, Any]


class EncodeLatentsConfig(Config):
    """Which clips become latents of which size."""

    name: str = ""
    """Name of this section: the pipeline fills it in, so that the select table can be asked who may come in."""
    media: tuple[Literal["image", "video"], ...] = Field(default=("image", "video"), min_length=1)
    """Media that this stage encodes; the others are filtered."""
    resolution: int = Field(default=256, ge=CELL)
    """Side in pixels of a square crop. Other aspect ratios get about the same area, in whole 32-pixel cells."""
    max_ratio: float = Field(default=4.0, ge=1)
    """Longest side over shortest side of a crop; 1 makes every crop square."""
    fps: float | None = Field(default=None, gt=0)
    """Frames per second of the encoded clip; None keeps each clip's own. A clip with fewer repeats frames, see
    `lumina.frame_times` (the select stage's `min_fps` keeps such clips out)."""
    num_frames: int = Field(default=33, ge=5)
    """Most frames of a clip, 4n + 1. A shorter clip gives the largest 4n + 1 it has, from its first frame on."""
    min_frames: int = Field(default=5, ge=5)
    """Fewest frames of a clip, 4n + 1; clips with less are filtered."""
    recipe: EncodeRecipe = "whole-clip/1"
    """How the VAE is applied: `whole-clip/1`, or `released-chunks/1` for latents like those of the released script."""
    dtype: DType = "bfloat16"
    """Type in which latents are stored."""
    compression: Literal["none", "zstd"] = "none"
    """Compression of the files; zstd makes them about a fifth smaller, for object storage."""
    compute_dtype: Precision = "auto"
    """Type in which the VAE runs; `auto` is bfloat16 on GPUs and float32 on CPUs."""
    tiling: bool = False
    """Encode large frames in overlapping tiles: a few GB instead of up to 17 at 960 pixels, and slightly other numbers.
    Clips are encoded one by one, and eight frames at a time, in any case."""
    batch_size: int = Field(default=1, ge=1)
    """Clips of one bucket encoded together, cut from the shuffled order of each shard of up to 16,384 clips."""
    seed: int = 0
    """Seed of the order in which clips are written."""

    @field_validator("num_frames", "min_frames")
    @classmethod
    def _four_n_plus_one(cls, value: int) -> int:
        if value % 4 != 1:
            raise ValueError(f"must be 4n + 1 (5, 9, 13, ...), got {value}; nearest below: {largest_clip(value)}")
        return value

    @model_validator(mode="after")
    def _range(self) -> EncodeLatentsConfig:
        if self.min_frames > self.num_frames:
            raise ValueError(f"min_frames {self.min_frames} is larger than num_frames {self.num_frames}")
        if self.tiling and self.recipe != "whole-clip/1":
            raise ValueError(f"tiling is for recipe whole-clip/1, and {self.recipe} takes whole frames: leave one out")
        return self

    def on(self, device: str) -> Self:
        """The same for a device ("cpu", "cuda"), with nothing left to it."""
        return self.model_copy(update={"compute_dtype": precision_on(device, self.compute_dtype)})

    @property
    def recipe_id(self) -> str:
        """Name of the encode recipe, with a digest of the settings that decide what is encoded, and how."""
        without = {"name", "media", "seed", "recipe", "compression"} | (set() if self.tiling else {"tiling"})
        settings = self.model_dump(mode="json", exclude=without)
        digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()
        return f"{self.recipe}:{digest}"

    @property
    def sizes(self) -> list[Size]:
        """Crop sizes to choose from."""
        return crop_sizes(num_cells(self.resolution), CELL, self.max_ratio)


_PLANNED = pa.schema(
    [
        *LATENTS,
        *(SELECT.field(name) for name in ("uri", "track", "span_start_s", "duration_s")),
        pa.field("times_s", pa.list_(pa.float64())),
        pa.field("size", pa.list_(pa.int32())),
    ]
)


def encode_times(row: Row, config: EncodeLatentsConfig) -> list[float]:
    """Times of a clip to encode: at `config.fps` from its start, 4n + 1 of them, in seconds.

    RowError `too_few_frames` if fewer than `config.min_frames` fall into the clip.
    """
    if row["media"] == "image":
        return [0.0]
    rate = config.fps or row["fps"]
    times = clip_times(row, (step / rate for step in range(config.num_frames)))
    if len(times) < config.min_frames:
        detail = f"{len(times)} frames at {rate:.6g} fps, fewer than {config.min_frames}"
        raise RowError(Reason.TOO_FEW_FRAMES, detail, Status.FILTERED)
    return times[: largest_clip(len(times))]


def crop_of(size: Size, crop: Size) -> list[int]:
    """[resized width, resized height, left, top] of the centre crop that `lumina.sizes.resize_crop` cuts."""
    width, height = size
    while width >= 2 * crop[0] and height >= 2 * crop[1]:
        width, height = width // 2, height // 2
    scale = max(crop[0] / width, crop[1] / height)
    width, height = round(width * scale), round(height * scale)
    return [width, height, (width - crop[0]) // 2, (height - crop[1]) // 2]


def plan_row(row: Row, config: EncodeLatentsConfig, sizes: list[Size]) -> Row:
    """Decide bucket, frames and crop of a selected clip from its metadata alone.

    RowError, status filtered, for a clip that is not for this stage: `other_media`, the rule of `select.sets` that it
    fails, or `too_few_frames`.
    """
    if row["media"] not in config.media:
        detail = f"this stage encodes {' and '.join(config.media)}s"
        raise RowError(Reason.OTHER_MEDIA, detail, Status.FILTERED)
    _check_selected(row, config.name)
    times = encode_times(row, config)
    crop = best_crop_size((row["width"], row["height"]), sizes)
    return {
        "bucket": f"{crop[0]}x{crop[1]}x{len(times)}",
        "times_s": times,
        "crop": crop_of((row["width"], row["height"]), crop),
        "size": list(crop),
        "target_fps": None if row["media"] == "image" else config.fps or row["fps"],
        "recipe_id": config.recipe_id,
    }


def _check_selected(row: Row, name: str) -> None:
    """RowError with the rule that keeps a selected row out of the latents set `name`."""
    if row["stages"] is None or name in row["stages"]:
        return
    failed = json.loads(row["stage_failed"] or "{}").get(name)
    if failed is None:
        raise ValueError(
            f"the select table says nothing of the latents set {name!r} for clip {row['clip_id']}: it was made for "
            "other sets"
        )
    raise RowError(Reason(failed["reason"]), failed["detail"], Status.FILTERED)


def _plan(inputs: Mapping[str, Input], config: EncodeLatentsConfig, env: Env) -> pa.Table:
    from lumina.system_prompts import compose, text_id

    config = config.on(env.device)
    by_source, sizes = system_prompts_of(inputs), config.sizes
    selected = inputs["select"].rows()
    names = selected["clip_id"].to_pylist()
    order = sorted(
        range(len(names)), key=lambda at: (generator(config.seed, "write order", names[at]).random(), names[at])
    )

    def with_texts(row: Row) -> Row:
        text = by_source[row["source"]].text
        texts = {"text_id": text_id(compose(text, row["caption"])), "text_id_dropped": text_id(compose(text, ""))}
        return _planned(row | texts, config, sizes)

    return to_table(map(with_texts, iterate(selected.take(pa.array(order, pa.int64())))), _PLANNED)


def _planned(row: Row, config: EncodeLatentsConfig, sizes: list[Size]) -> Row:
    if row["status"] != Status.OK:
        return row
    try:
        return row | plan_row(row, config, sizes)
    except RowError as error:
        return row | aside(ENCODE_LATENTS_OPERATOR.name, error)


def _make(config: EncodeLatentsConfig, env: Env) -> RowsFunction:
    import torch

    from lumina.models.autoencoder import VideoAutoencoder

    # One thread: sums in a fixed order, so the latents do not depend on the machine's cores.
    torch.set_num_threads(1)
    vae = VideoAutoencoder.from_pretrained(
        env.weights["vae"], env.device, getattr(torch, config.on(env.device).compute_dtype)
    )
    if config.tiling:
        vae.enable_tiling()
    decoder = Decoder(env.limits)

    def load(row: Row, frames: dict[str, Any]) -> Row:
        read = frames_at(decoder, row, env, row["times_s"], Fit(resize_crop, (row["size"][0], row["size"][1])))
        frames[row["clip_id"]] = read.pixels
        return {"frame_times_s": read.stamps_s, "frames_shown": len(set(read.stamps_s))}

    def load_all(table: pa.Table) -> tuple[list[Row], dict[str, Any]]:
        frames: dict[str, Any] = {}
        rows = map_rows(table, _PLANNED, ENCODE_LATENTS_OPERATOR.name, partial(load, frames=frames)).to_pylist()
        return rows, frames

    def encode(found: tuple[list[Row], dict[str, Any]]) -> pa.Table:
        rows, frames = found
        loaded = [row for row in rows if row["status"] == Status.OK]
        encoded = {}
        if loaded:
            clips = torch.stack([torch.from_numpy(frames[row["clip_id"]]) for row in loaded])
            latents = vae.encode(clips, config.recipe)
            encoded = {row["clip_id"]: latent for row, latent in zip(loaded, latents, strict=True)}
        return to_table((_packed(row, encoded.get(row["clip_id"]), config) for row in rows), LATENTS)

    return Halves(load_all, encode)


def _packed(row: Row, latent: Any, config: EncodeLatentsConfig) -> Row:
    if latent is None:  # set aside while its frames were read: it belongs to no bucket
        return row | {"bucket": None}
    if not bool(latent.isfinite().all()):
        detail = "the VAE returned values that are not finite"
        stage = ENCODE_LATENTS_OPERATOR.name
        return row | {"bucket": None} | status_not_ok(stage, Status.QUARANTINED, Reason.NOT_FINITE, detail)
    packed = pack(latent, config.dtype)
    return row | {
        "vae_latent_bytes": packed.data,
        "vae_latent_shape": packed.shape,
        "vae_latent_dtype": packed.dtype,
        "latent_sha256": hashlib.sha256(packed.data).hexdigest(),
    }


def _report(rows: ds.Dataset, _config: EncodeLatentsConfig, out: Path) -> Report:
    if not rows.count_rows(filter=pc.field("status") == Status.OK):
        raise ValueError(f"no clip is left to encode. {set_aside(iterate(rows.to_table(columns=[*STATUS_COLUMNS])))}")
    write_index(out, CLIPS)
    return Report()


ENCODE_LATENTS_OPERATOR = Operator(
    name="encode_latents",
    config=EncodeLatentsConfig,
    schema=LATENTS,
    reads_media=True,
    weights=("vae",),
    depends=("torch", "diffusers"),
    tier="tolerance",
    inputs=("select", "tag"),
    plan=_plan,
    map=_make,
    rows_per_batch=lambda config: config.batch_size,
    group="bucket",
    passthrough_columns=(
        "uri",
        "source",
        "caption",
        "system_prompt_id",
        "text_id",
        "text_id_dropped",
        "motion_score",
        "split",
    ),
    runs_network=lambda _config: True,
    report=_report,
    layout=lambda config: Layout(
        "bucket",
        row_group_size=16,
        row_group_bytes=RANDOM_READ_BYTES,
        compression=config.compression,
        use_dictionary=False,
    ),
)
"""Reads the inputs `select` and `tag`; weights `vae`. One bucket per file; rows without latents in their own."""
