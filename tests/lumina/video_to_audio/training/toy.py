"""Sounds small enough to train on in a test: what is seen tells the latent's sign, written as the encoders write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from curation.schema import AUDIO_LATENTS, CAPTION_FEATURES, MEDIA_FEATURES, to_table
from lumina.system_prompts import text_id
from lumina.training.data.index import CAPTIONS, FEATURES, SOUNDS, Layout, write_index
from lumina.video_to_audio.config import VideoToAudioConfig
from lumina.video_to_audio.training.dataset import SoundDataset
from lumina.video_to_audio.training.stage import SoundStageConfig

CHANNELS, ROWS, TEXT_TOKENS = 2, 4, 5
MODEL = VideoToAudioConfig(
    dim=32, n_layers=1, n_heads=2, n_kv_heads=1, multiple_of=32, latent_rows=ROWS, in_channels=CHANNELS, visual_dim=6,
    text_dim=5, text_tokens=TEXT_TOKENS, sync_dim=3,
)  # fmt: skip
TABLES = ("sounds", "visual", "sync", "captions")


def stage(steps: int = 6, **changes: Any) -> SoundStageConfig:
    """A stage whose batch takes several passes; the epsilon makes no full steps of rounding noise."""
    values = {"model": MODEL, "batch_size": 4, "micro_batch_size": 2, "lr": 1e-3, "eps": 1e-6, "ema_every": 2}
    return SoundStageConfig.model_validate({"steps": steps, **values, **changes})


def write(root: Path, clips: int = 6, **changes: Any) -> list[Path]:
    """Write the four tables; return their directories. Of clip001 on every other is in the set `aligned`, and the last
    two are held out; `changes` are of the sounds' rows."""
    rng = np.random.default_rng(0)
    ids, signs = [f"clip{number:03d}" for number in range(clips)], rng.choice([-1.0, 1.0], size=clips)
    sounds, captions = [], [_features("text_id", text_id(""), rng.standard_normal((TEXT_TOKENS, 5)))]
    visual, sync = [], []
    for number, (clip_id, sign) in enumerate(zip(ids, signs, strict=True)):
        steps = 16 if number % 3 else 20
        latent = np.empty((2, CHANNELS, steps, ROWS), np.float32)
        latent[0], latent[1] = sign * 2 + 1, 0.1
        captions.append(_features("text_id", text_id(f"text {number}"), rng.standard_normal((2 + number % 2, 5))))
        visual.append(_features("clip_id", clip_id, np.full((5, 6), sign) * np.linspace(0.5, 1, 6)))
        sync.append(_features("clip_id", clip_id, rng.standard_normal((8, 3))))
        row = {
            "clip_id": clip_id,
            "status": "ok",
            "split": "train" if number < clips - 2 else "heldout",
            "bucket": str(steps),
            "source": "web" if number % 2 else "film",
            "sets": "aligned all" if number % 2 else "all",
            "text_id": text_id(f"text {number}"),
            "audio_latent_shape": list(latent.shape),
            "audio_latent_dtype": "float32",
            "audio_latent_bytes": latent.tobytes(),
        }
        sounds.append(row | changes)
    stats = {"mean": [1.0] * CHANNELS, "std": [2.0] * CHANNELS, "clips": clips}
    tables = ((sounds, AUDIO_LATENTS, SOUNDS), (visual, MEDIA_FEATURES, FEATURES), (sync, MEDIA_FEATURES, FEATURES))
    for name, (rows, schema, layout) in zip(TABLES, (*tables, (captions, CAPTION_FEATURES, CAPTIONS)), strict=True):
        rewrite(root / name, rows, schema, layout)
    (root / "sounds" / "latent_stats.json").write_text(json.dumps(stats))
    return [root / name for name in TABLES]


def rewrite(directory: Path, rows: list[dict[str, Any]], schema: Any, layout: Layout) -> None:
    """Write a table and its index."""
    (directory / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(to_table(rows, schema), directory / "data" / "part-0.parquet", row_group_size=3)
    write_index(directory, layout)


def dataset(root: Path, clips: str | None = None) -> SoundDataset:
    """What was written there."""
    return SoundDataset(*(root / name for name in TABLES), clips)  # type: ignore[arg-type]


def _features(key: str, name: str, values: np.ndarray) -> dict[str, Any]:
    values = values.astype(np.float16)
    shape = {"feature_shape": list(values.shape), "feature_dtype": "float16"}
    return {key: name, "status": "ok", "feature_bytes": values.tobytes(), **shape}
