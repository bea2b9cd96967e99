"""Near-duplicates from files to clusters, what selection makes of them, and that no worker has a say in it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from curation import duplicate_clusters
from curation.decode import PROBE_OPERATOR, ProbeConfig
from curation.duplicate_clusters import DUPLICATES_OPERATOR, SUMMARY_FILE, DuplicatesConfig
from curation.embeddings import EMBEDDINGS, EMBEDDINGS_OPERATOR, WEIGHTS
from curation.frame_hashes import HASHED
from curation.hashed_clips import FRAME_HASHES_OPERATOR, FrameHashesConfig
from curation.manifests import INGEST_OPERATOR, IngestConfig
from curation.operator import Env, Input, Operator, apply
from curation.schema import Reason, Status, status_not_ok, to_table
from curation.selection import SELECT_OPERATOR, SelectConfig
from curation.semantic_config import EmbeddingsConfig, SemanticConfig
from curation.semantic_duplicates import whole_numbers
from jobs.context import InputRef
from lumina.faults import MachineError
from lumina.randomness import generator
from lumina.shapes import SOURCES
from lumina.shapes.scene import sample_scene
from lumina.shapes.sources import film
from lumina.video import write_h264
from tests.curation.in_memory import computed
from tests.curation.selected import write_rows
from tests.jobs.chain import Chain

FPS = 8
ZOO_CLIP = Path(__file__).resolve().parents[2] / "lumina/zoo/clip"
Frames = NDArray[np.uint8]
Tables = dict[str, Input]


def _scene(number: int) -> Frames:
    rng = generator(3, "near duplicates", number)
    return film(sample_scene(rng), SOURCES["synthetic"], rng, num_frames=18, height=128, width=128, fps=FPS)


def _copies(frames: Frames) -> dict[str, Frames]:
    return {
        "smaller": np.stack([cv2.resize(frame, (96, 96), interpolation=cv2.INTER_AREA) for frame in frames]),
        "cropped": frames[:, 12:, 12:],
        "boxed": np.pad(frames, ((0, 0), (16, 16), (0, 0), (0, 0))),
        "later": frames[FPS:],
        "encoded": frames,
        "mirror": frames[:, :, ::-1],
    }


def _embedded(tables: Tables, root: Path, alike: dict[str, int], broken: str = "") -> Input:
    """Embeddings of the clips: those with a number point in its direction, the others in their own."""
    clips = _by_name(tables, tables["clips"].rows())
    rows = []
    for place, (name, clip) in enumerate(sorted(clips.items(), reverse=True)):
        status = {column: clip[column] for column in ("status", "reason", "reason_stage", "detail")}
        if name == broken:
            status = status_not_ok("embeddings", Status.QUARANTINED, Reason.NOT_FINITE, "no direction")
        vector = whole_numbers(np.eye(40)[alike.get(name, place + 10)])
        rows.append({"clip_id": clip["clip_id"], "embedding": vector if status["status"] == "ok" else None, **status})
    return Input(write_rows(root / "embeddings", to_table(rows, EMBEDDINGS)))


def _found(operator: Operator, config: Any, **inputs: Input) -> pa.Table:
    """The result of an operator that reduces."""
    rows = computed(operator, inputs, config, Env(""))
    assert operator.survey is not None
    assert operator.reduce is not None
    surveyed = operator.survey(ds.dataset(rows), inputs, config)
    return rows if surveyed is None else operator.reduce(rows, config, surveyed)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """Six scenes, copies of two of them from another source, a still of one and a broken file."""
    root = tmp_path_factory.mktemp("near")
    clips = root / "clips"
    clips.mkdir()
    lines = ["video,caption,source"]
    for number in range(6):
        frames = _scene(number)
        write_h264(clips / f"{number}.mp4", frames, fps=FPS)
        lines.append(f"{number}.mp4,a clip,first")
        for name, copy in _copies(frames).items() if number < 2 else ():
            write_h264(clips / f"{number}{name}.mp4", np.ascontiguousarray(copy), fps=FPS, crf=30)
            lines.append(f"{number}{name}.mp4,a clip,second")
    cv2.imwrite(str(clips / "0still.png"), _scene(0)[0][..., ::-1])
    (clips / "broken.mp4").write_bytes(b"no film")
    lines += ["0still.png,a still,first", "broken.mp4,a clip,first"]
    (clips / "clips.csv").write_text("\n".join(lines) + "\n")
    env, found = Env(str(clips)), {"manifest": Input(clips)}

    def add(name: str, rows: pa.Table) -> None:
        found[name] = Input(write_rows(root / name, rows))

    add("ingest", computed(INGEST_OPERATOR, {"manifest": found["manifest"]}, IngestConfig(), env))
    add("clips", computed(PROBE_OPERATOR, {"clips": found["ingest"]}, ProbeConfig(), env))
    add("frame_hashes", computed(FRAME_HASHES_OPERATOR, {"clips": found["clips"]}, FrameHashesConfig(), env))
    add("duplicates", _found(DUPLICATES_OPERATOR, DuplicatesConfig(), frame_hashes=found["frame_hashes"]))
    return found


def _by_name(tables: Tables, rows: pa.Table) -> dict[str, dict[str, Any]]:
    names = {row["clip_id"]: Path(row["uri"]).stem for row in tables["ingest"].rows().to_pylist()}
    return {names[row["clip_id"]]: row for row in rows.to_pylist()}


def _selected(tables: Tables, **policy: Any) -> dict[str, dict[str, Any]]:
    inputs = {name: tables[name] for name in ("clips", "duplicates")}
    return _by_name(tables, _found(SELECT_OPERATOR, SelectConfig(**policy), **inputs))


def test_copies_are_in_one_cluster_mirror_images_in_one_family_and_other_clips_apart(tables: Tables) -> None:
    rows = _by_name(tables, tables["duplicates"].rows())
    for number in ("0", "1"):
        for kind in ("smaller", "cropped", "boxed", "later", "encoded"):
            assert rows[number + kind]["cluster"] == rows[number]["cluster"], number + kind
        assert rows[f"{number}mirror"]["cluster"] != rows[number]["cluster"]
        assert rows[f"{number}mirror"]["family"] == rows[number]["family"]
    others = [*(str(number) for number in range(6)), "0still", "broken"]
    assert len({rows[name]["family"] for name in others}) == len(others)
    assert rows["broken"]["reason_stage"] == "probe"


def test_clusters_and_those_across_sources_are_counted_and_said(tables: Tables, tmp_path: Path) -> None:
    report = DUPLICATES_OPERATOR.report(ds.dataset(tables["duplicates"].path / "data"), DuplicatesConfig(), tmp_path)
    counts = {"clusters": 2, "clips_in_clusters": 12, "clusters_across_sources": 2, "mirrored": 2}
    assert report.metrics == counts
    [line] = report.warnings
    assert line.startswith("2 clusters of clips that show the same span sources")
    assert line.endswith(": 'first' and 'second' (2)")
    across = [{"sources": ["first", "second"], "clusters": 2}]
    assert json.loads((tmp_path / SUMMARY_FILE).read_text()) == counts | {"across": across}


def test_neither_the_order_of_rows_nor_how_many_wrote_them_changes_anything(tables: Tables, tmp_path: Path) -> None:
    hashed = tables["frame_hashes"].rows()
    shuffled = hashed.take(pa.array(np.random.Generator(np.random.Philox(1)).permutation(len(hashed))))
    (tmp_path / "hashed" / "data").mkdir(parents=True)
    size = -(-len(hashed) // 4)
    for number in range(4):
        pq.write_table(shuffled.slice(number * size, size), tmp_path / "hashed" / "data" / f"{number}.parquet")

    def digests(name: str, hashes: Path) -> list[str]:
        chain = Chain(tmp_path / name, tmp_path)
        chain.refs = {"frame_hashes": InputRef("frame_hashes", hashes, ""), "probe": InputRef("probe", clips, "")}
        found = chain.run("duplicates", "curation.duplicate_clusters:DUPLICATES_OPERATOR", DuplicatesConfig(),
                          frame_hashes="frame_hashes")  # fmt: skip
        policy = SelectConfig(heldout_fraction=0.3)
        selected = chain.run("select", "curation.selection:SELECT_OPERATOR", policy, clips="probe",
                             duplicates="duplicates")  # fmt: skip
        return [found.digest, selected.digest]

    clips = tables["clips"].path
    assert digests("shuffled", tmp_path / "hashed") == digests("sorted", tables["frame_hashes"].path)


def test_a_folder_for_temporary_files_that_is_full_is_an_error_in_words(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, kept = [], os.posix_fallocate

    def full(file: int, offset: int, size: int) -> None:
        if size % (8 * len(HASHED)) == 0:
            return kept(file, offset, size)
        asked.append((offset, size % (9 * 16 * 16 * 3)))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(MachineError, match=r"TMPDIR\): thumbnails: No space left on device; free some space"):
        _found(DUPLICATES_OPERATOR, DuplicatesConfig(), frame_hashes=tables["frame_hashes"])
    assert asked == [(0, 0)]


def test_the_largest_that_passes_the_rules_is_kept_and_named(tables: Tables) -> None:
    rows = _selected(tables, sources={"second": {"min_duration_s": 2}})
    kept = {name for name, row in rows.items() if row["keep"]}
    whole = [[number, f"{number}encoded"] for number in "01"]  # of pictures of one size the lowest id is kept
    first = [min(names, key=lambda name: rows[name]["clip_id"]) for names in whole]
    assert kept == {*"2345", *first, "0mirror", "1mirror", "0still"}
    # What bars add to a picture does not count.
    assert (rows["0boxed"]["status"], rows["0boxed"]["reason"], rows["0boxed"]["failed_rules"]) == (
        "filtered", "near_duplicate", ["near_duplicate"])  # fmt: skip
    assert rows["0boxed"]["width"] * rows["0boxed"]["height"] > rows["0"]["width"] * rows["0"]["height"]
    assert rows[first[0]]["clip_id"] in rows["0boxed"]["detail"]
    assert rows["0later"]["failed_rules"] == ["min_duration"]
    # Where a rule takes the largest away, the next is kept.
    smaller = _selected(tables, sources={"second": {"min_fps": 50}})
    assert {name for name, row in smaller.items() if row["keep"]} == {*"012345", "0still"}


def test_where_nothing_passes_the_rules_nothing_is_a_copy(tables: Tables) -> None:
    rows = _selected(tables, min_fps=1000, sources={"first": {"min_area": 10**9}})
    assert {row["reason"] for row in rows.values()} == {"min_fps", "min_area", "decode_error"}


def test_of_a_quota_copies_take_nothing(tables: Tables) -> None:
    rows = _selected(tables, max_clips_per_source=4)
    copy = rows["0boxed"]
    assert copy["detail"].endswith("the best of its cluster")  # a quota may yet take that one
    assert sum(row["keep"] and row["media"] == "video" for row in rows.values() if row["source"] == "first") == 4
    # One of them may stand in for what the quota of the other source takes.
    assert sum(row["keep"] for row in rows.values() if row["source"] == "second") in (3, 4)


def test_where_a_quota_takes_the_best_the_next_of_a_source_with_room_stands_in(tables: Tables) -> None:
    stood_in = set()
    for seed in range(12):
        rows = _selected(tables, seed=seed, max_clips_per_source=4)
        kept = [name for name, row in rows.items() if row["keep"] and row["media"] == "video"]
        counts = [sum(rows[name]["source"] == source for name in kept) for source in ("first", "second")]
        for number in "01":
            members = [name for name in rows if name.startswith(number) and "mirror" not in name and name != "0still"]
            left = [name for name in members if name in kept]
            reasons = {name: rows[name]["reason"] for name in members if name not in left}
            assert len(left) <= 1
            if left and "source_quota" in reasons.values():
                stood_in.update(left)
                named = [name for name in members if reasons.get(name) == "near_duplicate"]
                assert all(rows[left[0]]["clip_id"] in rows[name]["detail"] for name in named)
        assert counts[0] == 4
        assert counts[1] == 3 + any(name in stood_in for name in kept)
    assert {rows[name]["source"] for name in stood_in} == {"second"}


def test_like_embeddings_are_semantic_duplicates_told_apart_from_near_ones(
    tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Any] = []
    semantic_pairs = duplicate_clusters.semantic_pairs
    monkeypatch.setattr(
        duplicate_clusters, "semantic_pairs", lambda *given: (compared.append(given[0]), semantic_pairs(*given))[1]
    )
    alike = {"2": 1, "0cropped": 1, "3": 2, "4": 2, "5": 3, "0still": 3}
    inputs = {"frame_hashes": tables["frame_hashes"], "embeddings": _embedded(tables, tmp_path, alike, "1later")}
    config = DuplicatesConfig(semantic=SemanticConfig())
    table = _found(DUPLICATES_OPERATOR, config, **inputs)
    rows = _by_name(tables, table)
    # Of films and stills, and although a clip has none, embeddings stay in their file.
    assert [isinstance(one, np.memmap) for one in compared] == [True, True]
    assert rows["2"]["semantic"] == rows["0"]["semantic"] == rows["0mirror"]["semantic"]
    assert rows["3"]["semantic"] == rows["4"]["semantic"]
    assert len({rows[name]["family"] for name in "2345"}) == 4
    # A still is no copy of a film.
    assert rows["5"]["semantic"] != rows["0still"]["semantic"]
    assert (rows["1later"]["reason_stage"], rows["1later"]["reason"]) == ("embeddings", "not_finite")
    for name, row in _by_name(tables, tables["duplicates"].rows()).items():
        assert row["semantic"] is None
        assert [row[kind] for kind in ("cluster", "family")] == [rows[name][kind] for kind in ("cluster", "family")]
    found = {**tables, "duplicates": Input(write_rows(tmp_path / "duplicates", table))}
    report = DUPLICATES_OPERATOR.report(ds.dataset(found["duplicates"].path / "data"), config, tmp_path)
    assert report.metrics["clusters"] == 2
    assert report.metrics["semantic_groups"] == 2
    assert report.metrics["semantic_groups_across_sources"] == 1
    assert report.metrics["clips_in_semantic_groups"] == 10
    assert report.warnings[1].startswith("1 clusters of clips that mean the same span sources")
    selected = _selected(found)
    group = [name for name in selected if name[0] in "02" and name != "0still"]
    assert sum(selected[name]["keep"] for name in group) == 1
    assert {selected[name]["reason"] for name in group} == {None, "near_duplicate", "semantic_duplicate"}
    best = next(selected[name] for name in group if selected[name]["keep"])
    semantic = {row["detail"] for row in selected.values() if row["reason"] == "semantic_duplicate"}
    assert f"means the same as clip {best['clip_id']}, the best of its cluster" in semantic
    assert {selected[name]["reason"] for name in "34"} == {None, "semantic_duplicate"}
    for seed in range(4):
        split = _selected(found, near_duplicates="all", heldout_fraction=0.5, seed=seed)
        assert len({split[name]["split"] for name in group}) == len({split[name]["split"] for name in "34"}) == 1


def test_embeddings_of_another_run_are_refused(tables: Tables, tmp_path: Path) -> None:
    embedded = _embedded(tables, tmp_path, {}).rows()
    fewer = Input(write_rows(tmp_path / "fewer", embedded.slice(1)))
    with pytest.raises(ValueError, match="the tables differ: 20 rows of frame_hashes, 19 of embeddings"):
        _found(
            DUPLICATES_OPERATOR,
            DuplicatesConfig(semantic=SemanticConfig()),
            frame_hashes=tables["frame_hashes"],
            embeddings=fewer,
        )


def test_clips_are_embedded_by_the_network_and_copies_are_alike(tables: Tables) -> None:
    names = ["0", "0smaller", "1", "0still", "broken"]
    ids = [_by_name(tables, tables["clips"].rows())[name]["clip_id"] for name in names]
    rows = tables["clips"].rows()
    some = rows.filter(pa.compute.is_in(rows["clip_id"], pa.array(ids)))
    env = Env(str(tables["manifest"].path), {WEIGHTS: str(ZOO_CLIP)})
    assert EMBEDDINGS_OPERATOR.map is not None
    found = apply(EMBEDDINGS_OPERATOR, EMBEDDINGS_OPERATOR.map(EmbeddingsConfig(), env), some)
    vectors = {name: row["embedding"] for name, row in _by_name(tables, found).items()}
    assert vectors.pop("broken") is None
    whole, smaller, other, still = (np.array(vectors[name], float) for name in names[:4])
    assert abs(np.linalg.norm(whole) - 4000) < 20
    assert whole @ smaller > 0.98 * 4000**2
    assert whole @ other < whole @ still


def test_all_are_kept_on_demand(tables: Tables) -> None:
    assert all(row["keep"] for name, row in _selected(tables, near_duplicates="all").items() if name != "broken")


def test_no_family_lies_on_both_sides_of_the_held_out_split(tables: Tables) -> None:
    splits = set()
    for seed in range(5):
        rows = _selected(tables, near_duplicates="all", heldout_fraction=0.5, seed=seed)
        for number in ("0", "1"):
            family = {row["split"] for name, row in rows.items() if name.startswith(number) and name != "0still"}
            assert len(family) == 1
            splits |= family
    assert splits == {"train", "heldout"}


def test_a_policy_that_says_nothing_of_duplicates_is_the_one_that_it_was() -> None:
    policy = SelectConfig(min_fps=8)
    assert len({policy.policy_id, SelectConfig(min_fps=8, near_duplicates="all").policy_id}) == 2
    without = {name: value for name, value in policy.model_dump().items() if name != "near_duplicates"}
    assert SelectConfig(**without).policy_id == policy.policy_id
