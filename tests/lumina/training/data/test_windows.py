"""Which latent frames training sees: every frame has a value of its own, and the numbers are written by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lumina.training.data.latents import Clip, LatentDataset
from lumina.training.objective import DROPPED, Objective
from lumina.training.stage import TaskConfig
from lumina.training.validation import Validation
from lumina.training.video_workload import VideoWorkload
from tests.lumina.training import toy

FRAMES = {"short": 4, "long": 8, "still": 1, "apart": 8}
"""Latent frames as they are stored, of which frame f of every clip is f everywhere."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    root = tmp_path_factory.mktemp("windows")
    latents, text = toy.write(root)
    rows = []
    for name, frames in FRAMES.items():
        shape = [toy.CHANNELS, frames, 4, 4]
        values = np.broadcast_to(np.arange(frames, dtype=np.float32)[None, :, None, None], shape)
        rows.append(
            {
                "clip_id": name,
                "status": "ok",
                "split": "heldout" if name == "apart" else "train",
                "media": "image" if name == "still" else "video",
                "source": "web",
                "bucket": f"32x32x{frames}",
                "vae_latent_bytes": values.tobytes(),
                "vae_latent_shape": shape,
                "vae_latent_dtype": "float32",
                "text_id": "text1",
                "text_id_dropped": "dropped",
                "motion_score": {"long": 0.0, "apart": 2.5}.get(name),
            }
        )
    table = pa.Table.from_pylist(rows)
    column = table.column_names.index("vae_latent_bytes")
    table = table.set_column(column, "vae_latent_bytes", table.column(column).cast(pa.large_binary()))
    pq.write_table(table, latents / "data" / "part-0.parquet", compression="none", use_dictionary=False)
    return LatentDataset([latents], text)


def _clip(data: LatentDataset, name: str) -> Clip:
    [clip] = [clip for clip in [*data.clips, *data.heldout] if clip.clip_id == name]
    return clip


def _seen(latent: torch.Tensor) -> list[int]:
    """The frames of a latent, each of which must be whole."""
    frames = latent[0, :, 0, 0]
    assert torch.equal(latent, frames[None, :, None, None].expand_as(latent))
    return [int(frame) for frame in frames]


def _windows(data: LatentDataset, name: str, task: TaskConfig, steps: int) -> list[list[int]]:
    objective = Objective(toy.stage(), data)
    items = [(place, _clip(data, name)) for place in range(2)]
    batches = [objective.micro_batch(step, task, items) for step in range(steps)]
    return [_seen(latent) for batch in batches for latent in batch.x_1]


def test_the_first_latent_of_a_video_alone_is_dropped(data: LatentDataset) -> None:
    assert _seen(data.latent(_clip(data, "short"))) == [1, 2, 3]
    assert _seen(data.latent(_clip(data, "long"))) == [1, 2, 3, 4, 5, 6, 7]
    assert _seen(data.latent(_clip(data, "still"))) == [0]
    assert [_clip(data, name).shape[1] for name in FRAMES] == [3, 7, 1, 7]


def test_a_task_sees_all_that_it_can_cut(data: LatentDataset) -> None:
    assert _windows(data, "long", toy.FINE, 2) == [[1, 2, 3, 4, 5, 6, 7]] * 4
    assert _windows(data, "still", toy.IMAGE, 2) == [[0]] * 4
    # Patches of two frames leave one out: the first or the last of them.
    found = _windows(data, "short", toy.COARSE, 20)
    assert {tuple(window) for window in found} == {(1, 2), (2, 3)}


def test_windows_lie_anywhere_from_the_first_frame_to_the_last(data: LatentDataset) -> None:
    task = toy.FINE.model_copy(update={"latent_frames": 4})
    found = _windows(data, "long", task, 100)
    starts = [window[0] for window in found]
    assert found == [list(range(start, start + 4)) for start in starts]
    # 200 draws of four places: 50 each, give or take 6.1.
    counts = np.bincount(starts)
    assert counts[0] == 0
    assert len(counts) == 5
    assert all(25 <= count <= 75 for count in counts[1:])
    # The draws of the first steps, as they always were: step by step, and place by place.
    assert starts[:16] == [1, 3, 2, 2, 1, 2, 3, 1, 4, 3, 3, 2, 2, 1, 3, 1]


def test_held_out_clips_show_their_first_frames(data: LatentDataset) -> None:
    task = toy.FINE.model_copy(update={"latent_frames": 4})
    for tasks, frames in (((task,), 4), ((toy.FINE,), 7), ((toy.COARSE,), 6)):
        validation = Validation(VideoWorkload(toy.stage(tasks=tasks), data), 16, 0, 1)
        windows = [
            _seen(latent)
            for _, samples in validation._mine
            for latent in validation._workload.held_out_batch(samples).x_1
        ]
        assert windows == [list(range(1, frames + 1))] * 5


def test_an_unknown_motion_score_is_not_a_still_one(data: LatentDataset) -> None:
    objective = Objective(toy.stage(motion_drop=0), data)
    items = [(0, _clip(data, "short")), (1, _clip(data, "long"))]
    assert objective.micro_batch(0, toy.FINE, items).motion.tolist() == [DROPPED, 0.0]
