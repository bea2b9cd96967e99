"""The reader: which rows, which frames, bounded memory, and errors that name the place."""

from __future__ import annotations

import os
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lumina.cost import forward_cost
from lumina.training.data.batches import Slot
from lumina.training.data.latents import LatentDataset
from lumina.training.objective import Objective
from tests.lumina.training import toy


def test_rows_frames_and_texts(tmp_path: Path) -> None:
    latents, text = toy.write(tmp_path)
    data = LatentDataset([latents], text)
    assert [clip.clip_id for clip in data.clips] == [f"clip{i:03d}" for i in range(12)]
    video, image = data.clips[1], data.clips[7]
    # A video's first latent is dropped; an image's only one is not.
    assert data.latent(video).shape == video.shape == (toy.CHANNELS, 4, 8, 8)
    assert data.latent(image).shape == image.shape == (toy.CHANNELS, 1, 8, 8)
    stored = pq.read_table(latents).to_pylist()[1]
    whole = torch.frombuffer(bytearray(stored["vae_latent_bytes"]), dtype=torch.float32)
    assert torch.equal(data.latent(video), whole.view(stored["vae_latent_shape"])[:, 1:])
    assert data.text(video.text_id).shape == (3, toy.TEXT_WIDTH)
    assert not data.text(video.text_id_dropped).any()


@pytest.mark.parametrize("frames", [None, 2])
def test_the_plan_knows_what_the_network_will_see(tmp_path: Path, frames: int | None) -> None:
    latents, text = toy.write(tmp_path)
    data, config = LatentDataset([latents], text), toy.stage()
    for task in (toy.IMAGE, toy.FINE, toy.COARSE.model_copy(update={"latent_frames": frames})):
        of_task = data.of_task(task, config)
        for index, entry in enumerate(of_task.plan.entries):
            batch = Objective(config, data).micro_batch(0, task, of_task.items([Slot(0, index)]))
            assert entry.tokens == batch.tokens
            size = batch.x_1[0].shape[1:]
            cost = forward_cost(config.model, (size[0], size[1], size[2]), task.patch, 0)
            assert entry.cost == cost.linear + cost.attention


def test_a_small_cache_reads_the_same(tmp_path: Path) -> None:
    latents, text = toy.write(tmp_path)
    large, small = LatentDataset([latents], text), LatentDataset([latents], text, cache_bytes=1)
    for one, two in zip([*large.clips] * 2, [*small.clips] * 2, strict=True):
        assert torch.equal(large.latent(one), small.latent(two))
    assert len(small._latents._groups) == 1


def test_few_files_are_open_and_threads_may_share_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, text = toy.write(tmp_path)
    whole = pq.read_table(latents / "data" / "part-0.parquet")
    (latents / "data" / "part-0.parquet").unlink()
    for row in range(len(whole)):
        pq.write_table(whole.slice(row, 1), latents / "data" / f"part-{row}.parquet")
    monkeypatch.setattr("lumina.training.data.blobs.OPEN_FILES", 3)
    data = LatentDataset([latents], text, cache_bytes=1)
    expected = {row["clip_id"]: row["vae_latent_bytes"] for row in whole.to_pylist()}

    def read(number: int) -> None:
        clip = data.clips[number % len(data.clips)]
        whole_clip = data._latents.read(clip.row)
        assert whole_clip.numpy().tobytes() == expected[clip.clip_id]

    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(read, range(400)))
    assert len(data._latents._open) == 3
    assert len(os.listdir("/proc/self/fd")) <= before + 3


def test_no_more_files_are_open_than_the_system_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, text = toy.write(tmp_path)
    for allowed, most in ((64, 16), (10**6, 1024), (resource.RLIM_INFINITY, 1024)):
        monkeypatch.setattr(resource, "getrlimit", lambda _which, allowed=allowed: (allowed, allowed))
        assert LatentDataset([latents], text)._latents._most_open == most


def test_threads_read_at_the_same_time_and_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, text = toy.write(tmp_path)
    whole = pq.read_table(latents / "data" / "part-0.parquet")
    for row in range(len(whole)):
        pq.write_table(whole.slice(row, 1), latents / "data" / f"part-{row}.parquet")
    data = LatentDataset([latents], text)
    together, read, real = threading.Barrier(2), [], pq.ParquetFile

    class Slow(real):  # type: ignore[misc, valid-type]
        def read_row_group(self, *args: object, **kwargs: object) -> pa.Table:
            read.append(self)
            together.wait(10)
            return super().read_row_group(*args, **kwargs)

    monkeypatch.setattr(pq, "ParquetFile", Slow)
    one, two = data.clips[0], data.clips[1]
    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(data.latent, [one, two, one, two]))
    assert len(read) == 2
    assert found[0].data_ptr() == found[2].data_ptr() != found[1].data_ptr() == found[3].data_ptr()


def test_a_file_that_cannot_be_read_fails_everyone_who_wants_it(tmp_path: Path) -> None:
    latents, text = toy.write(tmp_path)
    data = LatentDataset([latents], text)
    path = latents / "data" / "part-0.parquet"
    whole = path.read_bytes()
    path.unlink()
    for _ in range(2):
        with ThreadPoolExecutor(4) as executor:
            tries = [executor.submit(data.latent, data.clips[0]) for _ in range(4)]
            assert {type(one.exception()) for one in tries} == {FileNotFoundError}
    # Nothing stays behind of the failure.
    path.write_bytes(whole)
    assert data.latent(data.clips[0]).shape == data.clips[0].shape


def test_a_selection_restricts_the_sources(tmp_path: Path) -> None:
    latents, text = toy.write(tmp_path)
    both, web, other = (LatentDataset([latents], text, sources) for sources in (None, ["web"], ["synthetic"]))
    assert {clip.source for clip in web.clips} == {"web"}
    assert [*web.clips] == [clip for clip in both.clips if clip.source == "web"]
    assert (web.counts("source"), other.counts("source")) == ({"web": 4}, {"synthetic": 8})
    # Nor does validation look at what a stage does not train on.
    assert [len(data.heldout) for data in (both, web, other)] == [1, 1, 0]
    with pytest.raises(
        ValueError, match=r"Rows of the latents: 8 of sources that were not selected, 4 of other media, 1 "
    ):
        LatentDataset([latents], text, ["web"]).of_task(toy.IMAGE.model_copy(update={"media": "none"}), toy.stage())
    with pytest.raises(ValueError, match="the selection names source film"):
        LatentDataset([latents], text, ["film", "web"])


def test_errors_name_the_place(tmp_path: Path) -> None:
    latents, text = toy.write(tmp_path)
    with pytest.raises(ValueError, match="holds no Parquet file"):
        LatentDataset([tmp_path / "absent"], text)
    with pytest.raises(ValueError, match="clip apart comes twice"):
        LatentDataset([latents, latents], text)
    with pytest.raises(ValueError, match=r"column clip_id, split, .* is missing"):
        LatentDataset([text], text)
    long = toy.COARSE.model_copy(update={"latent_frames": 8})
    with pytest.raises(ValueError, match=r"task coarse: clip clip000 of bucket .* needs 8 frames"):
        LatentDataset([latents], text).of_task(long, toy.stage())
    path = latents / "data" / "part-0.parquet"
    table = pq.read_table(path)
    shapes = [[9, 9, 9, 9]] * len(table)
    table = table.set_column(table.column_names.index("vae_latent_shape"), "vae_latent_shape", [shapes])
    pq.write_table(table, path)
    names = table.column_names
    small = table.set_column(names.index("vae_latent_bytes"), "vae_latent_bytes", [[b""] * len(table)])
    pq.write_table(small, tmp_path / "latents" / "data" / "part-1.parquet")
    with pytest.raises(ValueError, match=r"part-1.parquet: column vae_latent_bytes is binary, not large_binary"):
        LatentDataset([latents], text)
    (tmp_path / "latents" / "data" / "part-1.parquet").unlink()
    broken = LatentDataset([latents], text)
    with pytest.raises(ValueError, match=r"part-0.parquet, row group 0, row 0: vae_latent_bytes holds"):
        broken.latent(broken.clips[0])
