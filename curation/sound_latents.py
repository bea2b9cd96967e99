"""Encode sound: latents of each clip's sound by AudioLDM's VAE, mean and deviation, so that training can sample.

Rows in: all selected clips. Rows out: the same, with latents for clips of 0.64 s or more in which something is heard;
the others leave as they leave `curation.sound`, for its reasons. Sound is the mono mix on the film's clock: AudioLDM
takes the first channel of a file instead, and everything after that is as released.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curation.audio import clip_audio
from curation.decoder import Decoder
from curation.operator import Env, Halves, Input, Operator, Report, RowsFunction, map_rows
from curation.schema import (
    AUDIO_LATENTS,
    STATUS_COLUMNS,
    Reason,
    Status,
    iterate,
    set_aside,
    status_not_ok,
    to_table,
)
from curation.sound import FLOOR_DBFS, loudness, why_unheard
from curation.sound_clips import LAYOUT, ClipConfig, Row, clip_lengths, plan_clips, planned_schema
from curation.tensors import DType, pack
from lumina.training.data.index import SOUNDS, write_index
from lumina.video_to_audio.lengths import LATENT_RATE, Lengths

if TYPE_CHECKING:
    import pyarrow.dataset as ds
    from numpy.typing import NDArray
    from torch import Tensor

GPU_BATCH = 16
"""Sounds that a GPU encodes together."""
STATS_FILE = "latent_stats.json"
_PLANNED = planned_schema(AUDIO_LATENTS)


class EncodeSoundConfig(ClipConfig):
    """Which sounds become latents, and how."""

    silent_dbfs: float = Field(default=-60.0, ge=FLOOR_DBFS, le=0)
    """Level in dB of full scale below which 20 ms count as silence: a clip that is silent throughout is filtered."""
    min_cover: float = Field(default=0.9, ge=0, le=1)
    """Share of the window that the audio track has to fill; 0 is any."""
    batch_size: int | None = Field(default=None, ge=1)
    """Sounds of one length that the VAE encodes together. Last bits then may depend on which they are; alone (1) they
    do not. None is 16 on GPUs, and 1 on CPUs."""

    def on(self, device: str) -> Self:
        """The same for a device ("cpu", "cuda"), with nothing left to it."""
        batch_size = self.batch_size or (GPU_BATCH if device.startswith("cuda") else 1)
        return super().on(device).model_copy(update={"batch_size": batch_size})

    @property
    def recipe_id(self) -> str:
        """Name of the recipe, with a digest of what decides the latents."""
        return self.recipe("audioldm-mono/1", "silent_dbfs", "min_cover", "batch_size")


def _plan(inputs: Mapping[str, Input], config: EncodeSoundConfig, env: Env) -> pa.Table:
    from lumina.system_prompts import text_id

    recipe_id = config.on(env.device).recipe_id

    def more(row: Row, found: Lengths) -> Row:
        return {
            "bucket": str(found.latents),
            "text_id": text_id(row["caption"]),
            "sets": None if row["stages"] is None else " ".join(sorted(row["stages"])),
            "recipe_id": recipe_id,
        }

    return plan_clips(inputs, AUDIO_LATENTS, ENCODE_SOUND_OPERATOR.name, config, more)


def _make(config: EncodeSoundConfig, env: Env) -> RowsFunction:
    import torch

    from lumina.video_to_audio.log_mel import filter_bank
    from lumina.video_to_audio.networks.codec import encode, load_encoder

    # One thread: sums in a fixed order, so the latents do not depend on the machine's cores.
    torch.set_num_threads(1)
    stored, computed = config.types_on(env.device)
    vae, scale = load_encoder(env.weights["audio_codec"], env.device, getattr(torch, computed))
    decoder = Decoder(env.limits)

    def load(table: pa.Table) -> tuple[list[Row], dict[str, NDArray[np.float32]]]:
        waves: dict[str, NDArray[np.float32]] = {}

        def listen(row: Row) -> Row:
            window_s = min(row["duration_s"], config.window_s)
            heard = clip_audio(decoder, row, env, window_s)
            levels = loudness(heard.waveform, config.silent_dbfs)
            unheard = why_unheard(heard, levels, window_s, config.silent_dbfs, config.min_cover)
            if unheard is not None:
                raise unheard
            waves[row["clip_id"]] = heard.waveform
            return {}

        return map_rows(table, _PLANNED, ENCODE_SOUND_OPERATOR.name, listen).to_pylist(), waves

    def latents_of(rows: list[Row], waves: Mapping[str, NDArray[np.float32]]) -> Tensor:
        """[N, 2, C, T, R]"""
        frames = clip_lengths(rows[0], config.window_s).mel_frames
        found = encode(
            vae, scale, torch.stack([filter_bank(torch.tensor(waves[row["clip_id"]]), frames) for row in rows])
        )
        steps = found.mean.shape[2]
        if str(steps) != rows[0]["bucket"]:
            raise ValueError(
                f"{env.weights['audio_codec']} makes {steps} latent steps of {frames} mel frames, and not "
                f"{rows[0]['bucket']}: weights.audio_codec must be a codec of {LATENT_RATE} steps a second"
            )
        return torch.stack([found.mean, found.std], dim=1)

    def compute(found: tuple[list[Row], dict[str, NDArray[np.float32]]]) -> pa.Table:
        rows, waves = found
        loaded = [row for row in rows if row["clip_id"] in waves]
        latents = dict(zip(waves, latents_of(loaded, waves), strict=True)) if loaded else {}
        return to_table((_packed(row, latents.get(row["clip_id"]), stored) for row in rows), AUDIO_LATENTS)

    return Halves(load, compute)


def _packed(row: Row, latent: Tensor | None, stored: DType) -> Row:
    if latent is None:  # set aside while its sound was read: it belongs to no bucket
        return row | {"bucket": None}
    if not bool(latent.isfinite().all()):
        detail = "the VAE returned values that are not finite"
        stage = ENCODE_SOUND_OPERATOR.name
        return row | {"bucket": None} | status_not_ok(stage, Status.QUARANTINED, Reason.NOT_FINITE, detail)
    packed = pack(latent, stored)
    return row | {
        "audio_latent_bytes": packed.data,
        "audio_latent_shape": packed.shape,
        "audio_latent_dtype": packed.dtype,
        "latent_sha256": hashlib.sha256(packed.data).hexdigest(),
    }


def latent_stats(rows: ds.Dataset) -> dict[str, Any]:
    """Mean and deviation of each channel over the latents that training may draw, and the number of clips.

    Of rows that are ok and of split train: {"mean": [C], "std": [C], "clips": n}, from exact sums of the clips' sums,
    so that neither order nor number of workers shows. What is drawn has the mean squares of the mean and of the
    deviation together. ValueError if there is no such row.
    """
    names = ("audio_latent_bytes", "audio_latent_shape", "audio_latent_dtype")
    wanted = (pc.field("status") == Status.OK) & (pc.field("split") == "train")
    sums: list[tuple[NDArray[np.float64], NDArray[np.float64], int]] = []
    # 400 KB a clip: what is read ahead counts.
    batches = rows.to_batches(columns=[*names], filter=wanted, batch_readahead=1, fragment_readahead=1)
    for data, shape, dtype in (tuple(row.values()) for batch in batches for row in batch.to_pylist()):
        mean, std = _floats(data, dtype).reshape(shape)
        sums.append((mean.sum((1, 2)), (np.square(mean) + np.square(std)).sum((1, 2)), mean[0].size))
    if not sums:
        raise ValueError(
            "no clip of split train is left to encode. "
            f"{set_aside(iterate(rows.to_table(columns=[*STATUS_COLUMNS])))}; see select.heldout_fraction, too"
        )
    firsts, seconds, counts = zip(*sums, strict=True)
    count = sum(counts)
    means = [math.fsum(channel) / count for channel in zip(*firsts, strict=True)]
    squares = [math.fsum(channel) / count for channel in zip(*seconds, strict=True)]
    stds = [math.sqrt(max(0.0, square - mean * mean)) for mean, square in zip(means, squares, strict=True)]
    return {"mean": means, "std": stds, "clips": len(sums)}


def _floats(data: bytes, dtype: str) -> NDArray[np.float64]:
    """Without torch, which the driver does not load; a bfloat16 is the first half of a float32."""
    if dtype == "bfloat16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    return np.frombuffer(data, "<f4").astype(np.float64)


def _report(rows: ds.Dataset, _config: EncodeSoundConfig, out: Path) -> Report:
    (out / STATS_FILE).write_text(json.dumps(latent_stats(rows)) + "\n", encoding="utf-8")
    write_index(out, SOUNDS)
    return Report(files=(STATS_FILE,))


ENCODE_SOUND_OPERATOR = Operator(
    name="encode_sound",
    config=EncodeSoundConfig,
    schema=AUDIO_LATENTS,
    reads_media=True,
    weights=("audio_codec",),
    depends=("torch", "diffusers", "scipy"),
    tier="tolerance",
    inputs=("select",),
    plan=_plan,
    map=_make,
    rows_per_batch=lambda config: config.batch_size or 1,
    group="bucket",
    passthrough_columns=("uri", "source", "caption", "text_id", "split", "sets"),
    runs_network=lambda _config: True,
    report=_report,
    layout=lambda _config: LAYOUT,
)
"""Reads the input `select`; weights `audio_codec`."""
