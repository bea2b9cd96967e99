from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from curation import manifest_rows, manifests
from curation.decode import ProbeConfig
from curation.digest import row_digest
from curation.duplicate_clusters import DuplicatesConfig
from curation.hashed_clips import FrameHashesConfig
from curation.latents import EncodeLatentsConfig
from curation.manifests import IngestConfig
from curation.motion_scores import MotionConfig
from curation.operator import Env, Input, Operator, map_rows
from curation.prompts import EncodeTextConfig
from curation.schema import Reason, RowError, status_not_ok, status_ok, to_table
from curation.scores import SCORES_OPERATOR, ScoresConfig
from curation.selection import SelectConfig
from curation.shots import ShotsConfig
from curation.sources import TagConfig
from curation.tensors import unpack
from jobs import curate, shards
from jobs.context import InputRef, JobResult
from jobs.parts import rows_written
from jobs.row_reuse import keep
from jobs.runtime import RuntimeConfig
from lumina import zoo
from lumina.config import Config
from lumina.training.data.index import INDEX_FILE
from lumina.training.data.latents import LatentDataset
from lumina.video import write_h264
from tests.jobs.chain import Chain
from tests.lumina.tiny import save_parts

STATUS = {"status": pa.string(), "reason": pa.string(), "reason_stage": pa.string(), "detail": pa.string()}
SQUARES = pa.schema({"clip_id": pa.string(), "number": pa.int64(), "square": pa.int64()} | STATUS)


class SquareConfig(Config):
    rows: int = 40
    broken: bool = False


def _plan(_inputs: Mapping[str, Input], config: SquareConfig, _env: Env) -> pa.Table:
    rows = [{"clip_id": f"{n:03}", "number": n, **status_ok()} for n in range(config.rows)]
    for row in rows[::10]:
        row |= status_not_ok("earlier", "filtered", Reason.MIN_AREA, "small")  # type: ignore[arg-type]
    return pa.Table.from_pylist(rows, schema=pa.schema([f for f in SQUARES if f.name != "square"]))


def _make(config: SquareConfig, _env: Env) -> Any:
    def square(row: dict[str, Any]) -> dict[str, Any]:
        if config.broken or row["number"] == 13:
            raise ZeroDivisionError("thirteen")
        if row["number"] == 17:
            raise RowError(Reason.DECODE_ERROR, "seventeen")
        return {"square": row["number"] ** 2}

    return lambda table: map_rows(table, SQUARES, "square", square)


SQUARE = Operator("square", SquareConfig, SQUARES, (), _plan, map=_make, rows_per_batch=lambda _c: 3)
SQUARE_ACTORS = replace(SQUARE, runs_network=lambda _config: True)


def _make_once_killed(config: SquareConfig, env: Env) -> Any:
    """As `_make`, slowly; notes every row it computes, and kills its process at the first sight of row 45."""
    square, root = _make(config, env), Path(env.media_root)

    def compute(table: pa.Table) -> pa.Table:
        for number in table["number"].to_pylist():
            time.sleep(0.1)
            with (root / "computed").open("a") as log:
                log.write(f"{number}\n")
            if number == 45 and not (root / "killed").exists():
                (root / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return square(table)

    return compute


def _make_noted(config: SquareConfig, env: Env) -> Any:
    """As `_make`; notes every row, and cannot compute row 31 before a file says so."""
    square, root = _make(config, env), Path(env.media_root)

    def compute(table: pa.Table) -> pa.Table:
        numbers = table["number"].to_pylist()
        with (root / "computed").open("a") as log:
            log.write("".join(f"{number}\n" for number in numbers))
        if 31 in numbers and not (root / "mended").exists():
            broken = [{"square": None, **status_not_ok("square", "quarantined", Reason.DECODE_TIMEOUT, "slow")}]  # type: ignore[arg-type]
            return pa.concat_tables(
                [
                    square(table.filter(pc.not_equal(table["number"], 31))),
                    to_table([row | broken[0] for row in table.to_pylist() if row["number"] == 31], SQUARES),
                ]
            )
        return square(table)

    return compute


def _make_failing(config: SquareConfig, env: Env) -> Any:
    """As `_make_once_killed`, but fails as a whole at row 45 until a file says otherwise."""
    (Path(env.media_root) / "killed").touch()
    compute = _make_once_killed(config, env)

    def fail(table: pa.Table) -> pa.Table:
        if 45 in table["number"].to_pylist() and not (Path(env.media_root) / "mended").exists():
            time.sleep(2.5)  # let the other worker get on
            raise OSError("the disk is gone")
        return compute(table)

    return fail


def _make_placed(config: SquareConfig, env: Env) -> Any:
    """As `_make`; notes what its worker takes of the cluster."""
    import ray

    with (Path(env.media_root) / "taken").open("a") as log:
        taken = ray.get_runtime_context().get_assigned_resources()
        taken.pop("memory", None)  # what Ray Data has seen tasks use
        log.write(f"{dict(sorted(taken.items()))}\n")
    return _make(config, env)


SQUARE_PLACED = replace(SQUARE, map=_make_placed, runs_network=lambda _config: True)
ONCE_KILLED = replace(SQUARE, map=_make_once_killed)
ONCE_KILLED_ACTORS = replace(ONCE_KILLED, runs_network=lambda _config: True)
NOTED = replace(SQUARE, map=_make_noted)
FAILING = replace(SQUARE, map=_make_failing)


@pytest.mark.ray
def test_workers_blocks_and_pools_give_one_digest(tmp_path: Path, ray_cluster: None) -> None:
    chain = Chain(tmp_path, tmp_path)
    name = f"{__name__}:SQUARE"
    tasks = chain.run("tasks", name, SquareConfig())
    chain.runtime = RuntimeConfig(use_gpu=True, curation_gpus=0.5)
    actors = chain.run("actors", f"{name}_ACTORS", SquareConfig())
    assert tasks.digest == actors.digest == str(row_digest(Input(chain.refs["tasks"].path).rows()))
    assert tasks.counts == actors.counts == {
        "in": 40, "ok": 34, "filtered/min_area": 4, "quarantined/decode_error": 1, "quarantined/internal_error": 1
    }  # fmt: skip
    chain.runtime = RuntimeConfig(use_gpu=True, curation_use_gpu=False, curation_resource="shelf")
    assert chain.run("placed", f"{name}_PLACED", SquareConfig()).digest == tasks.digest
    taken = set((tmp_path / "taken").read_text().splitlines())
    assert taken == {str({"CPU": 1.0, "shelf": 0.001})}
    broken = next(row for row in chain.rows("tasks") if row["number"] == 13)
    assert (broken["reason_stage"], broken["detail"]) == ("square", "ZeroDivisionError: thirteen")
    assert chain.progress[-1] == (40, 40)
    with pytest.raises(RuntimeError, match="no row succeeded; the first error was: ZeroDivisionError"):
        chain.run("broken", name, SquareConfig(rows=5, broken=True))
    assert chain.run("broken", name, SquareConfig(rows=5)).counts["ok"] == 4
    assert chain.run("empty", name, SquareConfig(rows=0)).counts["in"] == 0


@pytest.mark.ray
@pytest.mark.parametrize("operator", ["ONCE_KILLED", "ONCE_KILLED_ACTORS"])
def test_a_killed_worker_costs_little_and_changes_nothing(tmp_path: Path, ray_cluster: None, operator: str) -> None:
    chain = Chain(tmp_path, tmp_path)
    whole = chain.run("whole", f"{__name__}:SQUARE", SquareConfig(rows=80))
    chain.runtime = RuntimeConfig(use_gpu=True)
    killed = chain.run("killed", f"{__name__}:{operator}", SquareConfig(rows=80))
    assert (tmp_path / "killed").exists()
    assert (killed.digest, killed.counts) == (whole.digest, whole.counts)
    computed = Counter((tmp_path / "computed").read_text().split())
    assert len(computed) == 72
    assert sum(computed.values()) - 72 <= 24  # two seconds' work at most, and what was under way


@pytest.mark.ray
def test_a_stage_that_failed_goes_on_where_it_was(tmp_path: Path, ray_cluster: None) -> None:
    chain = Chain(tmp_path, tmp_path)
    with pytest.raises(Exception, match="the disk is gone"):
        chain.run("failing", f"{__name__}:FAILING", SquareConfig(rows=80))
    before = set((tmp_path / "computed").read_text().split())
    kept = rows_written(tmp_path / "failing" / "work" / "parts")
    assert kept
    (tmp_path / "mended").touch()
    (tmp_path / "computed").unlink()
    told = len(chain.progress)
    mended = chain.run("failing", f"{__name__}:FAILING", SquareConfig(rows=80))
    assert chain.progress[told] == (kept, 80)  # what is there is no part of the rate
    again = (tmp_path / "computed").read_text().split()
    assert len(again) <= 72 - len(before) + 24
    assert mended.digest == chain.run("whole", f"{__name__}:SQUARE", SquareConfig(rows=80)).digest


@pytest.mark.ray
def test_rows_that_are_put_back_are_computed_again_and_no_others(tmp_path: Path, ray_cluster: None) -> None:
    chain = Chain(tmp_path, tmp_path)
    first = chain.run("noted", f"{__name__}:NOTED", SquareConfig())
    assert first.counts["quarantined/decode_timeout"] == 1
    shutil.rmtree(tmp_path / "noted" / "work")  # as a commit does
    keep(tmp_path / "noted" / "out" / "data", tmp_path / "noted" / "work", ["031"])
    (tmp_path / "computed").unlink()
    (tmp_path / "mended").touch()
    again = chain.run("noted", f"{__name__}:NOTED", SquareConfig())
    computed = (tmp_path / "computed").read_text().split()
    assert "31" in computed
    assert len(computed) == 3  # its unit
    assert again.digest == chain.run("whole", f"{__name__}:SQUARE", SquareConfig()).digest


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A small random VAE and text encoder of the real classes, and the flow network that is shipped."""
    vae, text_encoder = save_parts(tmp_path_factory.mktemp("networks"))
    return {"vae": str(vae), "text_encoder": str(text_encoder), "unimatch": str(Path(zoo.__file__).parent / "unimatch")}


LATENTS = ("curation.latents:ENCODE_LATENTS_OPERATOR", EncodeLatentsConfig(resolution=64, num_frames=9, batch_size=2))
ALONE = (LATENTS[0], EncodeLatentsConfig(resolution=64, num_frames=9))


def _media(root: Path) -> None:
    rng = np.random.Generator(np.random.Philox(7))
    lines = ["video,caption,source,seed"]
    for number in range(6):
        texture = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        frames = np.stack([np.roll(texture, number * t, axis=1) for t in range(8 + 4 * (number % 2))])
        write_h264(root / f"clip{number}.mp4", frames, fps=8)
        lines.append(f"clip{number}.mp4,a red {number},{'left' if number < 3 else 'right'},{number}")
    Image.fromarray(texture).save(root / "still.png")
    lines += ["still.png,a still,left,9", "clip0.mp4,again,right,0", "gone.mp4,a gone,right,0"]
    (root / "clips.csv").write_text("\n".join(lines) + "\n")


TAG = TagConfig(system_prompts={"left": "From the left."}, template="Videos from {source}.")


def _curate(chain: Chain, tag: TagConfig = TAG, latents: tuple[str, Config] = LATENTS) -> dict[str, JobResult]:
    chain.refs["manifest"] = InputRef("manifest", Path(chain.media_root), "")
    motion = MotionConfig(height=64, width=64, interval_s=0.25)
    select = SelectConfig(min_caption_chars=3, heldout_fraction=0.3)
    return {
        "ingest": chain.run("ingest", "curation.manifests:INGEST_OPERATOR", IngestConfig(), manifest="manifest"),
        "probe": chain.run("probe", "curation.decode:PROBE_OPERATOR", ProbeConfig(), clips="ingest"),
        "motion": chain.run("motion", "curation.motion_scores:MOTION_OPERATOR", motion, clips="probe"),
        "tag": chain.run("tag", "curation.sources:TAG_OPERATOR", tag, clips="ingest"),
        "select": chain.run("select", "curation.selection:SELECT_OPERATOR", select,
                            clips="probe", motion="motion", tag="tag"),
        "text": chain.run("text", "curation.prompts:ENCODE_TEXT_OPERATOR", EncodeTextConfig(),
                          select="select", tag="tag"),
        "latents": chain.run("latents", *latents, select="select", tag="tag"),
    }  # fmt: skip


@pytest.mark.ray
def test_the_whole_of_curation(tmp_path: Path, ray_cluster: None, networks: dict[str, str]) -> None:
    media = tmp_path / "media"
    media.mkdir()
    _media(media)
    chain = Chain(tmp_path / "one", media, networks)
    results = _curate(chain)
    assert results["ingest"].counts == {
        "in": 9, "ok": 7, "filtered/duplicate_content": 1, "quarantined/missing_file": 1
    }  # fmt: skip
    probed = chain.by_uri("probe")
    assert (probed["clip1.mp4"]["frames_decodable"], probed["clip1.mp4"]["fps"]) == (12, 8.0)
    assert (probed["still.png"]["width"], probed["still.png"]["duration_s"]) == (64, 0.0)
    motion = chain.by_uri("motion")
    assert motion["clip2.mp4"]["flow_abs_mean"] > motion["clip1.mp4"]["flow_abs_mean"] > 0.1
    assert motion["still.png"]["flow_abs_mean"] is None
    assert motion["clip1.mp4"]["estimator"].startswith("unimatch/")
    assert motion["still.png"]["status"] == "ok"
    assert {row["keep"] for row in chain.rows("select") if row["status"] == "ok"} == {True}
    assert results["select"].metrics["kept"] == 7

    text = {row["text_id"]: row for row in chain.rows("text")}
    assert len(text) == 7 + 2
    latents = [row for row in chain.rows("latents") if row["status"] == "ok"]
    assert {row["bucket"] for row in latents} == {"64x64x1", "64x64x5", "64x64x9"}
    for row in latents:
        latent = unpack(row["vae_latent_bytes"], row["vae_latent_shape"], row["vae_latent_dtype"])
        frames = len(row["frame_times_s"])
        assert latent.shape == (16, (frames - 1) // 4 + 1, 8, 8)
        assert text[row["text_id"]]["prompt"].endswith(f" <Prompt Start> {row['caption']}")
        assert text[row["text_id_dropped"]]["prompt"].endswith(" <Prompt Start> ")
        features = text[row["text_id"]]
        assert unpack(features["text_feature_bytes"], features["text_feature_shape"], "float32").shape[1] == 24
    assert all((chain.refs[stage].path / INDEX_FILE).is_file() for stage in ("text", "latents"))
    trained = LatentDataset([chain.refs["latents"].path], chain.refs["text"].path)
    assert {clip.clip_id for clip in [*trained.clips, *trained.heldout]} == {row["clip_id"] for row in latents}
    for file in sorted((chain.refs["latents"].path / "data").glob("*.parquet")):
        assert len(set(pq.read_table(file, columns=["bucket"])["bucket"].to_pylist())) == 1

    files = sorted((chain.refs["latents"].path / "data").glob("*.parquet"))
    for workers in (1, 4):
        chain.runtime = RuntimeConfig(curation_workers=workers)
        again = chain.run(f"again{workers}", *LATENTS, select="select", tag="tag")
        assert again.digest == results["latents"].digest

    # What has never heard of this project reads the files.
    frame = pd.concat([pd.read_parquet(file) for file in files])
    assert frame["vae_latent_bytes"].dropna().map(len).gt(0).sum() == len(latents)
    read = load_dataset("parquet", data_files=[str(file) for file in files], split="train", cache_dir=str(tmp_path))
    assert read.num_rows == 9
    by_clip = {row["clip_id"]: row for row in read}
    for row in latents:
        assert by_clip[row["clip_id"]]["vae_latent_bytes"] == row["vae_latent_bytes"]


def _make_scores_killed(config: ScoresConfig, env: Env) -> Any:
    """Scores, by processes of which the first two are killed once they have some."""
    assert SCORES_OPERATOR.map is not None
    compute = SCORES_OPERATOR.map(config, env)

    def killed(table: pa.Table) -> pa.Table:
        scored = compute(table)
        marks = [Path(env.media_root) / f"killed{number}" for number in range(2)]
        if mark := next((mark for mark in marks if not mark.exists()), None):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return scored

    return killed


SCORES_KILLED = replace(SCORES_OPERATOR, map=_make_scores_killed)


@pytest.mark.ray
def test_scores_and_duplicates_know_nothing_of_workers_and_kills(tmp_path: Path, ray_cluster: None) -> None:
    media = tmp_path / "media"
    media.mkdir()
    _media(media)
    (media / "broken.mp4").write_bytes((media / "clip1.mp4").read_bytes()[:900])
    with (media / "clips.csv").open("a") as file:
        file.write("broken.mp4,broken,left,0\n")
    chain = Chain(tmp_path / "run", media)
    chain.refs["manifest"] = InputRef("manifest", media, "")
    chain.run("ingest", "curation.manifests:INGEST_OPERATOR", IngestConfig(), manifest="manifest")
    chain.run("probe", "curation.decode:PROBE_OPERATOR", ProbeConfig(), clips="ingest")
    scorers = ScoresConfig.model_validate({"quality": {}, "camera": {}})
    digests = []
    for workers, operator in (4, "curation.scores:SCORES_OPERATOR"), (1, f"{__name__}:SCORES_KILLED"):
        chain.runtime = RuntimeConfig(curation_workers=workers)
        scores, hashes, duplicates = (f"{name}{workers}" for name in ("scores", "hashes", "duplicates"))
        scored = chain.run(scores, operator, scorers, clips="probe")
        chain.run(hashes, "curation.hashed_clips:FRAME_HASHES_OPERATOR", FrameHashesConfig(), clips="probe")
        found = chain.run(
            duplicates, "curation.duplicate_clusters:DUPLICATES_OPERATOR", DuplicatesConfig(), frame_hashes=hashes
        )
        assert scored.counts["quarantined/decode_error"] == 1
        digests.append((scored.digest, found.digest))
    assert (media / "killed1").exists()
    assert digests[0] == digests[1]


def _edited(media: Path, other: Path) -> None:
    """A clip came, one went, one is elsewhere; one has another caption, one another source."""
    shutil.copytree(media, other)
    (other / "clip4.mp4").rename(other / "moved.mp4")
    rng = np.random.Generator(np.random.Philox(8))
    write_h264(other / "new.mp4", rng.integers(0, 255, (9, 64, 64, 3), dtype=np.uint8), fps=8)
    text = (other / "clips.csv").read_text()
    for old, new in (
        ("clip5.mp4,a red 5,right,5\n", "new.mp4,a new one,left,5\n"),
        ("clip4.mp4", "moved.mp4"),
        ("a red 1,", "a blue 1,"),
        ("a red 2,left", "a red 2,right"),
    ):
        assert old in text
        text = text.replace(old, new)
    (other / "clips.csv").write_text(text)


@pytest.mark.ray
def test_after_an_edit_only_new_rows_are_computed_in_whatever_shards(
    tmp_path: Path, ray_cluster: None, networks: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    media, other = tmp_path / "media", tmp_path / "other"
    media.mkdir()
    _media(media)
    _edited(media, other)
    first = Chain(tmp_path / "first", media, networks)
    _curate(first, latents=ALONE)
    tag = TagConfig(system_prompts={"left": "Now from the right."}, template="Videos from {source}.")
    wanted = _curate(Chain(tmp_path / "fresh", other, networks), tag, ALONE)
    monkeypatch.setattr(shards, "SHARD_ROWS", 3)
    monkeypatch.setattr(curate, "_SMALL_ROWS", 0)
    monkeypatch.setattr(manifest_rows, "BATCH_ROWS", 4)
    manifests._read_files.cache_clear()
    again = Chain(tmp_path / "again", other, networks, first)
    found = _curate(again, tag, ALONE)
    assert {name: (one.digest, one.counts) for name, one in found.items()} == {
        name: (one.digest, one.counts) for name, one in wanted.items()
    }
    assert len({path.name[:11] for path in (again.refs["probe"].path / "data").iterdir()}) > 1
    assert not any(one.taken for one in wanted.values())
    # Of 7 rows that are well, 6 were there before. Of the texts, the captions of three clips under the right prompt,
    # and this prompt alone.
    taken = {name: sum(one.taken.values()) for name, one in found.items()}
    assert taken == {"ingest": 0, "probe": 6, "motion": 6, "tag": 0, "select": 0, "text": 3, "latents": 6}


@pytest.mark.ray
def test_damaged_rows_of_an_earlier_output_are_computed_again(tmp_path: Path, ray_cluster: None) -> None:
    first, again = Chain(tmp_path / "first", tmp_path), Chain(tmp_path / "again", tmp_path)
    whole = first.run("square", f"{__name__}:SQUARE", SquareConfig())
    again.earlier = first
    assert again.run("square", f"{__name__}:SQUARE", SquareConfig()).taken == {
        "sha256:earlier": 30
    }  # not two units of 3
    for file in (first.refs["square"].path / "data").glob("*.parquet"):
        table = pq.read_table(file)
        at = table.column_names.index("square")
        pq.write_table(table.set_column(at, "square", pc.add(table["square"], 1)), file)
    shutil.rmtree(tmp_path / "again")
    result = again.run("square", f"{__name__}:SQUARE", SquareConfig())
    assert (result.digest, result.taken) == (whole.digest, {})


@pytest.mark.ray
def test_a_clip_of_two_shots_becomes_two_rows(tmp_path: Path, ray_cluster: None) -> None:
    media = tmp_path / "media"
    media.mkdir()
    rng = np.random.Generator(np.random.Philox(3))
    dark, light = (np.repeat(rng.integers(low, low + 60, (1, 64, 64, 3), dtype=np.uint8), 16, 0) for low in (20, 180))
    write_h264(media / "two.mp4", np.concatenate([dark, light]), fps=8)
    write_h264(media / "one.mp4", light, fps=8)
    chain = Chain(tmp_path / "run", media)
    chain.refs["manifest"] = InputRef("manifest", media, "")
    chain.run("ingest", "curation.manifests:INGEST_OPERATOR", IngestConfig(), manifest="manifest")
    split = chain.run("split", "curation.shots:SPLIT_OPERATOR", ShotsConfig(), clips="ingest")
    assert split.counts == {"in": 3, "ok": 3}
    whole = {row["uri"]: row["clip_id"] for row in chain.rows("ingest")}
    shots = sorted(
        (row["uri"], row["span_start_s"], row["span_end_s"], row["parent_id"]) for row in chain.rows("split")
    )
    assert shots == [
        ("one.mp4", None, None, None),
        ("two.mp4", 0.0, 2.0, whole["two.mp4"]),
        ("two.mp4", 2.0, 4.0, whole["two.mp4"]),
    ]
    chain.run("probe", "curation.decode:PROBE_OPERATOR", ProbeConfig(), clips="split")
    motion = MotionConfig(estimator="dis", height=64, width=64, window_s=1.0)
    chain.run("motion", "curation.motion_scores:MOTION_OPERATOR", motion, clips="probe")
    scores = [row["flow_abs_mean"] for row in chain.rows("motion")]
    assert max(scores) < 0.1  # no pair lies across the cut
    assert all(row["sample_times_s"] == [0.0, 0.5, 1.0] for row in chain.rows("motion"))


@pytest.mark.ray
def test_real_clips_are_all_accounted_for(tmp_path: Path, ray_cluster: None, real_clips: Path) -> None:
    chain = Chain(tmp_path, real_clips)
    chain.refs["manifest"] = InputRef("manifest", real_clips / "manifest.csv", "")
    assert chain.run("ingest", "curation.manifests:INGEST_OPERATOR", IngestConfig(), manifest="manifest").counts == {
        "in": 11, "ok": 10, "quarantined/missing_file": 1
    }  # fmt: skip
    result = chain.run("probe", "curation.decode:PROBE_OPERATOR", ProbeConfig(), clips="ingest")
    assert result.counts == {"in": 11, "ok": 9, "quarantined/decode_error": 1, "quarantined/missing_file": 1}
    probed = chain.by_uri("probe")
    assert probed["corrupted.mp4"]["reason_stage"] == "probe"
    assert probed["missing.mp4"]["reason_stage"] == "ingest"
    assert probed["av1.mkv"]["decoder"].startswith("pyav/")
    assert probed["av1.mkv"]["frames_decodable"] == 125
    rotated = probed["rotated_90.mov"]
    assert (rotated["width"], rotated["height"], rotated["rotation"]) == (320, 568, 90)
    assert (probed["odd_size_vp9.mp4"]["width"], probed["odd_size_vp9.mp4"]["height"]) == (321, 241)

    motion = MotionConfig(estimator="dis", height=64, width=96)
    result = chain.run("motion", "curation.motion_scores:MOTION_OPERATOR", motion, clips="probe")
    assert result.counts["filtered/too_few_frames"] == 2  # 0.1 s and 0.4 s long
    tag = TagConfig(template="Videos of the kind {source}.")
    chain.run("tag", "curation.sources:TAG_OPERATOR", tag, clips="probe")
    inputs = {"clips": "probe", "motion": "motion", "tag": "tag"}
    result = chain.run("select", "curation.selection:SELECT_OPERATOR", SelectConfig(min_fps=4), **inputs)
    assert result.counts == {
        "in": 11, "ok": 6, "filtered/min_fps": 1, "filtered/too_few_frames": 2,
        "quarantined/decode_error": 1, "quarantined/missing_file": 1,
    }  # fmt: skip
