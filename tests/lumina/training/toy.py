"""A dataset small enough to train on in a test: the text says what the latents are, up to the frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lumina.models.config import NextDiTConfig
from lumina.training.stage import TaskConfig, TrainStageConfig

CHANNELS, TEXT_WIDTH = 4, 16
MODEL = NextDiTConfig(
    dim=32, n_layers=1, n_heads=2, n_kv_heads=1, cap_feat_dim=TEXT_WIDTH, in_channels=CHANNELS, multiple_of=32
)
LEVELS = (3.0, 0.4, 0.8, 1.2, 1.6)
"""Size of the numbers in each latent frame, so that no frame passes for another."""
IMAGE = TaskConfig(name="image", media="image", patch=(1, 2, 2), time_shift=1.0, batch_size=4)
FINE = TaskConfig(name="fine", media="video", patch=(1, 2, 2), time_shift=2.0, batch_size=4, micro_batch_size=1)
MIDDLE = TaskConfig(name="middle", media="video", patch=(2, 2, 2), time_shift=4.0, batch_size=4)
COARSE = TaskConfig(name="coarse", media="video", patch=(2, 4, 4), time_shift=8.0, batch_size=4)


def stage(steps: int = 6, **changes: object) -> TrainStageConfig:
    """A stage of three tasks."""
    values = {"tasks": (IMAGE, FINE, COARSE), "model": MODEL, "lr": 3e-3, "ema_every": 2, **changes}
    return TrainStageConfig.model_validate({"steps": steps, **values})


def write(root: Path, videos: int = 6, images: int = 6, bad_clip: str = "") -> tuple[Path, Path]:
    """Write a latents and a text dataset; return their directories. `bad_clip` gets latents that are not finite."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], size=(videos + images, CHANNELS)).astype(np.float32)
    rows = []
    for number, sign in enumerate(signs):
        media = "video" if number < videos else "image"
        shape = [CHANNELS, 5 if media == "video" else 1, 8, 8 if number % 2 else 4]
        clip_id = f"clip{number:03d}"
        levels = np.array(LEVELS if media == "video" else (1.0,), np.float32)
        latent = np.broadcast_to(sign[:, None, None, None] * levels[:, None, None], shape).copy()
        if clip_id == bad_clip:
            latent[0, 0] = latent[0, -1] = np.nan
        rows.append(
            {
                "clip_id": clip_id,
                "status": "ok",
                "split": "train",
                "media": media,
                "source": "web" if number % 3 == 0 else "synthetic",
                "bucket": f"{shape[3] * 8}x64x{shape[1] * 4 - 3}",
                "vae_latent_bytes": latent.tobytes(),
                "vae_latent_shape": shape,
                "vae_latent_dtype": "float32",
                "text_id": f"text{number}",
                "text_id_dropped": "dropped",
                "motion_score": 3.5 if media == "video" else None,
            }
        )
    rows.append({**rows[0], "clip_id": "failed", "status": "quarantined", "vae_latent_bytes": None})
    rows.append({**rows[0], "clip_id": "apart", "split": "heldout"})
    latents = pa.Table.from_pylist(rows)
    column = latents.column_names.index("vae_latent_bytes")
    latents = latents.set_column(column, "vae_latent_bytes", latents.column(column).cast(pa.large_binary()))
    _write(latents, root / "latents" / "data" / "part-0.parquet")
    texts = [np.tile(np.repeat(sign, TEXT_WIDTH // CHANNELS), (2 + row % 2, 1)) for row, sign in enumerate(signs)]
    names = [f"text{row}" for row in range(len(texts))]
    texts, names = [*texts, np.zeros((1, TEXT_WIDTH), np.float32)], [*names, "dropped"]
    table = pa.table(
        {
            "text_id": names,
            "status": ["ok"] * len(names),
            "text_feature_bytes": pa.array([text.astype(np.float32).tobytes() for text in texts], pa.large_binary()),
            "text_feature_shape": [list(text.shape) for text in texts],
            "text_feature_dtype": ["float32"] * len(names),
        }
    )
    _write(table, root / "text" / "data" / "part-0.parquet")
    return root / "latents", root / "text"


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True)
    pq.write_table(table, path, row_group_size=4, compression="none", use_dictionary=False)
