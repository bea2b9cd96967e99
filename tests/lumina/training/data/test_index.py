"""The index: the rows and the order that Python would give, a few bytes of each, and no other file opened."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.latents import ENCODE_LATENTS_OPERATOR, EncodeLatentsConfig
from curation.operator import dataset
from curation.prompts import ENCODE_TEXT_OPERATOR, EncodeTextConfig
from curation.schema import AUDIO_LATENTS, LATENTS, MEDIA_FEATURES, TEXT, to_table
from lumina.training.data.batches import BatchPlan, Entry
from lumina.training.data.index import CLIPS, FEATURES, INDEX_FILE, SOUNDS, TEXTS, Index, text_key, write_index
from lumina.training.data.latents import Clip, LatentDataset
from tests.lumina.training import toy


def _clip(clip_id: str, bucket: str = "32x32x9", **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "clip_id": clip_id,
        "status": "ok",
        "split": "train",
        "media": "video",
        "source": "web",
        "bucket": bucket,
        "vae_latent_bytes": b"",
        "vae_latent_shape": [4, 3, 4, 4],
        "vae_latent_dtype": "bfloat16",
        "text_id": f"text of {clip_id}",
        "text_id_dropped": "dropped",
        "motion_score": 1.5,
    }
    return values | changes


def _latents(directory: Path, *files: list[dict[str, Any]], group: int = 2) -> Path:
    (directory / "data").mkdir(parents=True)
    for number, rows in enumerate(files):
        pq.write_table(to_table(rows, LATENTS), directory / "data" / f"part-{number}.parquet", row_group_size=group)
    return directory


def _texts(directory: Path, names: list[str]) -> Path:
    rows = [
        {"text_id": name, "status": "ok", "text_feature_shape": [1, 16], "text_feature_dtype": "float32"}
        | {"text_feature_bytes": b""}
        for name in names
    ]
    (directory / "data").mkdir(parents=True)
    pq.write_table(to_table(rows, TEXT), directory / "data" / "part-0.parquet")
    return directory


def test_what_the_stages_write_is_what_the_files_hold(tmp_path: Path) -> None:
    latents, text = toy.write(tmp_path)
    counted = pq.read_table(text / "data" / "part-0.parquet")
    counted = counted.append_column("tokens_cut", pa.array([0] * len(counted)))
    pq.write_table(counted, text / "data" / "part-0.parquet", row_group_size=4)
    scanned = LatentDataset([latents], text)
    plans = {task.name: scanned.of_task(task, toy.stage()) for task in toy.stage().tasks}
    for operator, out, config in (
        (ENCODE_LATENTS_OPERATOR, latents, EncodeLatentsConfig()),
        (ENCODE_TEXT_OPERATOR, text, EncodeTextConfig()),
    ):
        # Workers map it; nobody wants to see it in MLflow.
        assert operator.report(dataset(out / "data"), config, out).files == ()
        assert (out / INDEX_FILE).exists()
        # Nobody opens what the index lists before a row is read.
        shutil.move(out / "data", out / "elsewhere")
    mapped = LatentDataset([latents], text)
    assert list(mapped.clips) == list(scanned.clips)
    assert list(mapped.heldout) == list(scanned.heldout)
    assert mapped.counts("source") == scanned.counts("source") == Counter(clip.source for clip in scanned.clips)
    for task in toy.stage().tasks:
        found = mapped.of_task(task, toy.stage())
        assert list(found.clips) == list(plans[task.name].clips)
        assert list(found.plan.entries) == list(plans[task.name].plan.entries)
        assert [found.plan.batch(step) for step in range(9)] == [plans[task.name].plan.batch(step) for step in range(9)]
    for out in (latents, text):
        shutil.move(out / "elsewhere", out / "data")
    for clip in mapped.clips:
        assert mapped.latent(clip).equal(scanned.latent(clip))
        assert mapped.text(clip.text_id).equal(scanned.text(clip.text_id))


def test_a_clip_is_what_its_row_says(tmp_path: Path) -> None:
    # Columns of one value each would hide that two of them are mixed up.
    rows = [
        _clip("b", "64x32x9", source="film", vae_latent_shape=[4, 3, 4, 8], motion_score=None),
        _clip("a", "32x64x1", media="image", vae_latent_shape=[4, 1, 8, 4], motion_score=0.0, text_id="text of b"),
        _clip("a", "32x32x9", split="heldout", text_id_dropped="alone"),
    ]
    latents = _latents(tmp_path / "latents", rows)
    data = LatentDataset([latents], _texts(tmp_path / "text", ["text of a", "text of b", "dropped", "alone"]))
    one, two = (
        Clip("a", "web", "image", "32x64x1", "train", (4, 1, 8, 4), "text of b", "dropped", 0.0, row=1),
        Clip("b", "film", "video", "64x32x9", "train", (4, 2, 4, 8), "text of b", "dropped", None, row=2),
    )
    assert list(data.clips) == [one, two]
    assert data.clips[-1] == two
    assert list(data.clips[:1]) == [one]
    held = Clip("a", "web", "video", "32x32x9", "heldout", (4, 2, 4, 4), "text of a", "alone", 1.5, row=0)
    assert list(data.heldout) == [held]
    places = [data._index.place(clip.row) for clip in (held, one, two)]
    assert [(place.group, place.offset, place.shape) for place in places] == [
        (1, 0, (4, 3, 4, 4)),
        (0, 1, (4, 1, 8, 4)),
        (0, 0, (4, 3, 4, 8)),
    ]
    assert {(place.path, place.dtype) for place in places} == {(latents / "data" / "part-0.parquet", "bfloat16")}


_IDS = st.text("ab\0é", max_size=3) | st.sampled_from(["samestart", "samestart1", "samestart0", "samestar"])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(_IDS, st.sampled_from(["8x8", "16x8", "8x16"])), unique=True, min_size=1, max_size=24))
def test_rows_come_in_the_order_of_ids_and_buckets(names: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        parts = [names[::3], names[1::3], names[2::3]]
        directories = [
            _latents(Path(folder) / str(number), [_clip(*name) for name in part[::2]], [_clip(*n) for n in part[1::2]])
            for number, part in enumerate(parts)
        ]
        for directory in directories[:2]:
            write_index(directory, CLIPS)
        for some in (directories[:1], directories):
            index = Index(some, CLIPS)
            found = [(index.value("clip_id", row), index.value("bucket", row)) for row in index.by_clip().tolist()]
            assert found == sorted(name for part in parts[: len(some)] for name in part)
            codes, buckets = index.codes("bucket")
            assert [buckets[code] for code in codes] == [index.value("bucket", row) for row in range(len(index))]


def test_plans_are_those_of_entries_one_by_one(tmp_path: Path) -> None:
    sources = ("web", "film", "synthetic")
    rows = [
        _clip(
            f"{number * 7919 % 100:02}",
            f"32x32x{4 * frames + 1}",
            source=sources[number % 3],
            vae_latent_shape=[4, 1 + frames, 4, 4],
            split="heldout" if number % 11 == 0 else "train",
        )
        for number, frames in ((number, 2 + 2 * (number % 4)) for number in range(100))
    ]
    text = _texts(tmp_path / "text", [f"text of {row['clip_id']}" for row in rows] + ["dropped"])
    directories = [_latents(tmp_path / str(part), rows[part::2][:20], rows[part::2][20:]) for part in range(2)]
    task = toy.COARSE.model_copy(update={"source_weights": {"film": 1.5, "web": 0}, "batch_size": 6})
    config = toy.stage(tasks=(task,), cluster_batches=3)
    data = LatentDataset(directories, text, ["film", "web", "synthetic"]).of_task(task, config)
    trained = sorted((row for row in rows if row["split"] == "train"), key=lambda row: row["clip_id"])
    assert [clip.clip_id for clip in data.clips] == [row["clip_id"] for row in trained]
    entries = [
        Entry(clip.clip_id, clip.source, clip.bucket, kind.tokens, kind.cost)
        for clip, kind in zip(data.clips, data.plan.entries, strict=True)
    ]
    assert [entry.tokens for entry in entries] == [(row["vae_latent_shape"][1] - 1) // 2 for row in trained]
    plan = BatchPlan(task, entries[::-1], config.seed, config.cluster_batches)
    assert [data.plan.batch(step) for step in range(40)] == [plan.batch(step) for step in range(40)]
    for rank in range(2):
        assert data.plan.micro_batches(3, rank, 2) == plan.micro_batches(3, rank, 2)


def test_a_clip_takes_less_than_200_bytes(tmp_path: Path) -> None:
    # Ids as curation makes them: 32 hexadecimal digits.
    rows = [_clip(f"{number:032x}", text_id=f"{number:032x}") for number in range(4000)]
    latents = _latents(tmp_path / "latents", rows, group=64)
    text = _texts(tmp_path / "text", [*(row["text_id"] for row in rows), "dropped"])
    write_index(latents, CLIPS)
    write_index(text, TEXTS)
    data = LatentDataset([latents], text)
    task = data.of_task(toy.FINE, toy.stage())
    plan = task.plan
    held = [data.clips.rows, data.heldout.rows, task.clips.rows, plan.entries.kind, *plan.entries.sources.values()]
    on_disk = sum((path / INDEX_FILE).stat().st_size for path in (latents, text))
    assert on_disk + sum(array.nbytes for array in held) < 200 * len(rows)


def test_errors_name_the_place(tmp_path: Path) -> None:
    latents = _latents(tmp_path / "latents", [_clip("a"), _clip("b", status="quarantined"), _clip("c", split="test")])
    texts = _texts(tmp_path / "text", ["text of a", "dropped"])
    data = LatentDataset([latents], texts)
    with pytest.raises(ValueError, match=r"no image to train on. Rows of the latents: 1 .*, 1 .*, 1 .*") as caught:
        data.of_task(toy.IMAGE, toy.stage())
    assert {"1 quarantined", "1 test", "1 of other media"} <= set(str(caught.value).split("latents: ")[1].split(", "))
    with pytest.raises(KeyError):
        data.text("text of b")
    again = _latents(tmp_path / "again", [_clip("a"), _clip("b", "8x8")])
    with pytest.raises(ValueError, match="clip a comes twice in bucket 32x32x9: give each latents input once"):
        LatentDataset([again, latents], texts)
    with pytest.raises(ValueError, match=r"clip b: .* has no features for its caption: encode again"):
        LatentDataset([again], texts)
    alone = _latents(tmp_path / "alone", [_clip("a", text_id_dropped="gone")])
    with pytest.raises(ValueError, match=r"clip a: .* has no features for text gone: encode again"):
        LatentDataset([alone], texts)
    twice = _latents(tmp_path / "twice", [_clip("a")], [_clip("a")])
    with pytest.raises(ValueError, match="clip a comes twice in bucket 32x32x9"):
        write_index(twice, CLIPS)
    with pytest.raises(ValueError, match="text same comes twice"):
        write_index(_texts(tmp_path / "same", ["same", "other", "same"]), TEXTS)


def test_a_damaged_index_is_an_error(tmp_path: Path) -> None:
    latents, texts = _latents(tmp_path / "latents", [_clip("a")]), _texts(tmp_path / "text", ["text of a", "dropped"])
    write_index(latents, CLIPS)
    write_index(texts, TEXTS)
    path = latents / INDEX_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"index.arrow cannot be read: .*; encode again"):
        LatentDataset([latents], texts)
    path.write_bytes((texts / INDEX_FILE).read_bytes())
    with pytest.raises(ValueError, match=r"index.arrow has the columns text_key, text_id, .*: encode again"):
        LatentDataset([latents], texts)


def test_nothing_that_is_well_is_an_index_of_nothing(tmp_path: Path) -> None:
    latents = _latents(tmp_path / "latents", [_clip("a", status="filtered")])
    texts = _texts(tmp_path / "text", ["dropped"])
    for written in (False, True):
        if written:
            write_index(latents, CLIPS)
        data = LatentDataset([latents], texts)
        assert len(data.clips) == len(data.heldout) == 0
        with pytest.raises(ValueError, match=r"no video to train on\. Rows of the latents: 1 filtered"):
            data.of_task(toy.FINE, toy.stage())


def test_sounds_have_the_order_of_clips_and_features_that_of_their_keys(tmp_path: Path) -> None:
    sound = {"status": "ok", "split": "train", "bucket": "3", "source": "web", "audio_latent_dtype": "float16"}
    sound |= {"audio_latent_shape": [2, 8, 3, 16], "audio_latent_bytes": b"", "text_id": "said"}
    rows = [
        sound | {"clip_id": "b", "sets": "aligned loud"},
        sound | {"clip_id": "a", "split": "heldout", "source": "film"},
        sound | {"clip_id": "c", "status": "failed", "split": None, "sets": ""},
    ]
    sounds, features = tmp_path / "sounds", tmp_path / "features"
    (sounds / "data").mkdir(parents=True)
    pq.write_table(to_table(rows, AUDIO_LATENTS), sounds / "data" / "part.parquet")
    (features / "data").mkdir(parents=True)
    feature = {"status": "ok", "feature_shape": [8, 4], "feature_dtype": "float16", "feature_bytes": b""}
    seen = [feature | {"clip_id": name} for name in "abc"] + [feature | {"clip_id": "d", "status": "failed"}]
    pq.write_table(to_table(seen, MEDIA_FEATURES), features / "data" / "part.parquet")
    for directory, layout in ((sounds, SOUNDS), (features, FEATURES)):
        scanned = Index([directory], layout)
        write_index(directory, layout)
        mapped = Index([directory], layout)
        for name in layout.schema.names:
            assert [mapped.value(name, row) for row in range(len(mapped))] == [
                scanned.value(name, row) for row in range(len(scanned))
            ]
        assert scanned.left_out == Counter({"failed": 1}) == mapped.left_out
    index = Index([sounds], SOUNDS)
    assert [index.value("clip_id", row) for row in index.by_clip().tolist()] == ["a", "b"]
    assert [index.value("sets", row) for row in range(2)] == ["", "aligned loud"]
    assert index.values("clip_key").tolist() == [text_key("a"), text_key("b")]
    assert index.place(0).shape == (2, 8, 3, 16)
    assert Index([features], FEATURES).values("clip_key").tolist() == sorted(map(text_key, "abc"))
    pq.write_table(to_table(seen[:1], MEDIA_FEATURES), features / "data" / "again.parquet")
    (features / INDEX_FILE).unlink()
    with pytest.raises(ValueError, match="clip a comes twice"):
        Index([features], FEATURES)
