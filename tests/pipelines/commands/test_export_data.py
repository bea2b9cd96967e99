"""`lumina export-data`: rows and clips as other libraries read them; the same bytes after any kill; its errors."""

from __future__ import annotations

import csv
import errno
import fcntl
import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from curation import export_folder, export_media
from curation.decoder import Decoder
from curation.manifest_formats import IngestConfig
from curation.manifest_mistakes import ManifestError
from curation.manifests import INGEST_OPERATOR, media_root, read_manifest
from curation.operator import Env, Input
from curation.selection import SelectConfig
from pipelines import cli
from pipelines.engine.store.bucket import Bucket
from pipelines.engine.store.lease import holding
from tests.curation.in_memory import computed
from tests.curation.numbered import Film, number_of, picture, write
from tests.pipelines.curated import Curated

FORMATS = ("webdataset", "parquet", "csv")
CAPTIONS = {
    "film.mp4": '=HYPERLINK("http://x", "a ""red"" circle"), and more;\tnumbers',
    "whole.mp4": "ein grüner Kreis 円\nin zwei Zeilen",
    "still.png": "-1 as a picture",
}
SPANS = {("0.5", "1.5"): range(12, 36), ("0.625", "1.5"): range(15, 36)}
"""Spans of the film, and the numbers of their frames: the first begins with a key frame."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    """Five clips: two spans of a film, two whole files, a picture; and one that is none."""
    root = tmp_path_factory.mktemp("export")
    media = root / "media"
    media.mkdir()
    film = Film(gop=12, options={"x264-params": "scenecut=0"})
    write(media / "film.mp4", film)
    write(media / "whole.mp4", replace(film, gop=6))
    PIL.Image.fromarray(picture(200)).save(media / "still.png")
    (media / "broken.mp4").write_text("no video")
    with (media / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "caption", "source", "span_start_s", "span_end_s", "beauty"])
        for start, end in SPANS:
            writer.writerow(["film.mp4", CAPTIONS["film.mp4"], "web", start, end, start])
        for name in ("whole.mp4", "still.png"):
            writer.writerow([name, CAPTIONS[name], "phone", "", "", "7"])
        writer.writerow(["whole.mp4", "", "phone", "0", "1", ""])
        writer.writerow(["broken.mp4", "broken", "web", "", "", ""])
    made = Curated(root / "store", media)
    made.run("r1", SelectConfig(heldout_fraction=0.4))
    return made


class _Kept(Decoder):
    """A decoder that goes to the next export instead of ending: to start one takes a second."""

    free: ClassVar[list[Decoder]] = []

    def close(self) -> None:
        if self not in self.free:  # it is closed before it starts, too
            self.free.append(self)


@pytest.fixture(scope="module", autouse=True)
def decoders() -> Iterator[None]:
    """All exports of the module share their decoding processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_media, "Decoder", lambda limits: _Kept.free.pop() if _Kept.free else _Kept(limits))
        yield
    for decoder in _Kept.free:
        Decoder.close(decoder)


def _export(world: Curated, out: Path | str, *options: str, code: int = 0) -> str:
    arguments = ["export-data", "r1", "--store", str(world.store.root), "--out", str(out), *options]
    done = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "400"})
    assert done.exit_code == code, done.output
    return done.output


def _rows(out: Path) -> list[dict[str, Any]]:
    """Every row, by another reader than the project's own; with clips, their bytes as `content`."""
    found: list[dict[str, Any]] = []
    for path in sorted(out.glob("*-*")):
        if path.suffix == ".tar":
            with tarfile.open(path) as archive:
                members = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
            for name, content in members.items():
                if name.endswith(".json"):
                    row = json.loads(content)
                    assert members[f"{row['clip_id']}.txt"].decode() == row["caption"]
                    found.append(row | {"content": members.get(row.get("file_name"))})
        elif path.suffix == ".parquet":
            for row in pq.read_table(path).to_pylist():
                media = [row[kind] for kind in ("video", "image") if row.get(kind)]
                found.append(row | {"content": media[0]["bytes"] if media else None})
        else:
            with path.open(newline="", encoding="utf-8") as file:
                for cells in csv.DictReader(file):
                    name = cells.get("file_name")
                    found.append(cells | {"content": (out / name).read_bytes() if name else None})
    return found


def _digests(out: Path) -> dict[str, str]:
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _numbers(content: bytes, folder: Path) -> list[int]:
    (folder / "clip.bin").write_bytes(content)
    film, found = cv2.VideoCapture(str(folder / "clip.bin")), []
    while True:
        there, image = film.read()
        if not there:
            return found
        found.append(number_of(image[:, :, ::-1]))


def _stored(world: Curated, stage: str) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(world.tables[stage]["full"] / "data").to_pylist()
    return {row["clip_id"]: row for row in rows}


@pytest.mark.parametrize("format", FORMATS)
def test_rows_are_those_of_the_store_with_prompts_and_every_score(world: Curated, tmp_path: Path, format: str) -> None:
    told = _export(world, tmp_path / "out", "--as", format, "--shard", "2")
    selected, probed, motion = (_stored(world, stage) for stage in ("select", "probe", "motion"))
    kept = {name: row for name, row in selected.items() if row["keep"]}
    rows = _rows(tmp_path / "out")
    assert len(kept) == 5
    assert {row["clip_id"] for row in rows} == set(kept)
    assert "5 clips" in told
    for split in ("train", "heldout"):
        ids = [row["clip_id"] for row in rows if row["split"] == split]
        assert ids == sorted(ids)
    for row in rows:
        name = row["clip_id"]
        for column in ("caption", "source", "split", "system_prompt_id", "media"):
            assert row[column] == kept[name][column]
        assert row["composed_prompt"] == f"Videos from {row['source']}. <Prompt Start> {row['caption']}"
        assert row["uri"] == str(world.media / probed[name]["uri"])
        assert row["sha256"] == probed[name]["sha256"]
        told_numbers = {"span_start_s": probed, "fps": probed, "max_gap_s": probed, "flow_mag_p90": motion}
        for column, table in told_numbers.items():
            value = table[name][column]
            assert row[column] == (("" if value is None else str(value)) if format == "csv" else value)
        assert json.loads(row["extra"])["beauty"] == json.loads(probed[name]["extra"])["beauty"]
    index = json.loads((tmp_path / "out" / "EXPORT.json").read_text())
    assert index["clips"] == 5
    assert {shard["name"]: shard["sha256"] for shard in index["shards"]}.items() <= _digests(tmp_path / "out").items()
    assert all(shard["clips"] <= 2 for shard in index["shards"])
    assert ("begin as a formula does" in told) == (format == "csv")


@pytest.mark.parametrize("format", FORMATS)
def test_clips_are_their_spans_and_say_how_they_were_made(world: Curated, tmp_path: Path, format: str) -> None:
    told = _export(world, tmp_path / "out", "--as", format, "--clips")
    rows = _rows(tmp_path / "out")
    how = {}
    for row in rows:
        content = row["content"]
        assert hashlib.sha256(content).hexdigest() == row["clip_sha256"]
        span = (str(row["origin_start_s"]), str(row["origin_end_s"])) if row["origin_end_s"] else None
        if row["media"] == "image":
            assert (np.asarray(PIL.Image.open(io.BytesIO(content))) == picture(200)).all()
        else:
            numbers = SPANS.get(span, range(24)) if span else range(48)  # type: ignore[arg-type]
            assert _numbers(content, tmp_path) == list(numbers)
        how[row["media"], span] = (row["clip_how"], row["clip_why"])
    assert how.pop(("video", ("0.625", "1.5"))) == ("encoded", "the span begins 3 frames after a key frame")
    assert how == {
        ("video", ("0.5", "1.5")): ("copied", ""),
        ("video", ("0.0", "1.0")): ("copied", ""),
        ("video", None): ("whole", ""),
        ("image", None): ("whole", ""),
    }
    assert "2 whole files, 2 spans copied, 1 spans encoded anew" in told


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_bytes_whoever_stopped_it_and_however_many_work_at_it(
    world: Curated, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--as", format, "--clips", "--shard", "1")
    _export(world, tmp_path / "whole", *options, "--workers", "1")
    wanted = _digests(tmp_path / "whole")
    assert not [name for name in wanted if name.startswith(".")]
    written = export_folder.write_shard
    for stop in (0, 3) if format == "webdataset" else (2,):
        out = tmp_path / f"stopped{stop}"
        count = 0

        def stopping(*arguments: Any, stop: int = stop) -> None:
            nonlocal count
            count += 1
            if count > stop:
                arguments[1].write_bytes(b"half of a shard")
                raise KeyboardInterrupt
            written(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(export_folder, "write_shard", stopping)
            _export(world, out, *options, "--workers", "2", code=130)
        assert len(list(out.glob("*-*.*"))) == stop
        assert not (out / "EXPORT.json").exists()
        with pytest.raises(ManifestError, match="an export that is not whole yet"):
            read_manifest(out)
        # Done shards are not written again.
        before = {path.name: path.stat().st_mtime_ns for path in out.glob("*-*.*")}
        _export(world, out, *options, "--workers", "2")
        assert before.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("*-*.*")}.items()
        assert _digests(out) == wanted
    before = (tmp_path / "whole" / "EXPORT.json").stat().st_mtime_ns
    _export(world, tmp_path / "whole", *options)
    assert (tmp_path / "whole" / "EXPORT.json").stat().st_mtime_ns == before
    next((tmp_path / "whole").glob("train-00001.*")).unlink()
    _export(world, tmp_path / "whole", *options)
    assert _digests(tmp_path / "whole") == wanted
    if format == "csv":
        clip = next((tmp_path / "whole" / "clips" / "train-00001").iterdir())
        clip.rename(clip.with_name(f".{clip.name}.01234567.tmp"))  # killed before it had its name
        _export(world, tmp_path / "whole", *options)
        assert _digests(tmp_path / "whole") == wanted


def test_a_score_that_two_tables_have_is_the_later_ones_with_its_type(world: Curated, tmp_path: Path) -> None:
    record = world.store.get_run("r1")
    ids = list(_stored(world, "probe"))
    stages = dict(record.stages)
    for name, values in {"scores": pa.array([1] * len(ids)), "score@own": pa.array([0.5] * len(ids))}.items():
        (world.store.root / name / "data").mkdir(parents=True)
        pq.write_table(pa.table({"clip_id": ids, "sharp": values}), world.store.root / name / "data" / "part.parquet")
        stages[name] = replace(record.stages["probe"], path=name, fingerprint=None)
    own = {"scores": "scores", "score@own": "score@own"}
    stages["select"] = replace(stages["select"], inputs={**stages["select"].inputs, **own})
    world.store.put_run(replace(record, run="r9", name="scored", stages=stages))
    arguments = [
        "export-data",
        "r9",
        "--store",
        str(world.store.root),
        "--out",
        str(tmp_path / "out"),
        "--as",
        "parquet",
    ]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert {row["sharp"] for row in _rows(tmp_path / "out")} == {0.5}


def test_a_killed_process_leaves_nothing_half_written(world: Curated, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--as", "webdataset", "--clips", "--shard", "2"]
    script = (
        "import os, signal\n"
        "from curation import export_media\n"
        "from pipelines import cli\n"
        "make, made = export_media.ClipFiles._make, []\n"
        "def killing(self, row, decoder):\n"
        "    made.append(row)\n"
        "    if len(made) == 4:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return make(self, row, decoder)\n"
        "export_media.ClipFiles._make = killing\n"
        f"cli.app({['export-data', 'r1', '--store', str(world.store.root), '--out', str(out), *options]!r})\n"
    )
    root = Path(cli.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / "EXPORT.json").exists()
    for path in out.glob("*.tar"):
        with tarfile.open(path) as archive:
            assert len(archive.getnames()) % 3 == 0
    _export(world, out, *options)
    _export(world, tmp_path / "whole", *options)
    assert _digests(out) == _digests(tmp_path / "whole")


def test_a_tar_tells_nothing_of_who_wrote_it_and_when(world: Curated, tmp_path: Path) -> None:
    _export(world, tmp_path / "out", "--clips")
    for path in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(path) as archive:
            for member in archive:
                told = (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode)
                assert told == (0, 0, 0, "", "", 0o644)


def test_a_clip_that_is_gone_or_another_is_left_out_and_told(world: Curated, tmp_path: Path) -> None:
    kept = (world.media / "whole.mp4").read_bytes()
    aside = {"gone": lambda path: path.unlink(), "other": lambda path: path.write_bytes(kept + b"\0")}
    for name, change in aside.items():
        try:
            change(world.media / "whole.mp4")
            told = _export(world, tmp_path / name, "--clips")
        finally:
            (world.media / "whole.mp4").write_bytes(kept)
        assert "3 clips" in told
        assert "2 left out" in told
        index = json.loads((tmp_path / name / "EXPORT.json").read_text())
        left_out = [one for shard in index["shards"] for one in shard["left_out"]]
        wanted = {"gone": "missing_file", "other": "unreadable_file"}[name]
        assert [one["reason"] for one in left_out] == [wanted, wanted]
        assert {one["clip_id"] for one in left_out}.isdisjoint(row["clip_id"] for row in _rows(tmp_path / name))


def test_a_clip_that_is_back_comes_in_with_the_next_call(world: Curated, tmp_path: Path) -> None:
    options, film = ("--as", "csv", "--clips", "--shard", "2"), world.media / "whole.mp4"
    _export(world, tmp_path / "whole", *options)
    aside = film.rename(tmp_path / "aside.mp4")
    try:
        _export(world, tmp_path / "out", *options)
        before = _digests(tmp_path / "out"), (tmp_path / "out" / "EXPORT.json").stat().st_mtime_ns
        assert "2 left out" in _export(world, tmp_path / "out", *options)
        assert (_digests(tmp_path / "out"), (tmp_path / "out" / "EXPORT.json").stat().st_mtime_ns) == before
    finally:
        aside.rename(film)
    assert "left out" not in _export(world, tmp_path / "out", *options)
    assert _digests(tmp_path / "out") == _digests(tmp_path / "whole")


def test_another_selection_of_the_run_is_another_export(world: Curated, tmp_path: Path) -> None:
    _export(world, tmp_path / "out", "--as", "csv")
    record = world.store.get_run("r1")
    select = replace(record.stages["select"], digest="rows256-add/1:6:0")
    world.store.put_run(replace(record, stages={**record.stages, "select": select}))
    try:
        told = _export(world, tmp_path / "out", "--as", "csv", code=1)
    finally:
        world.store.put_run(record)
    assert "holds another export, whose outputs.select is , not rows256-add/1:6:0: name" in told


@pytest.mark.parametrize("format", ["webdataset", "csv"])
def test_a_bucket_gets_the_same_bytes_and_a_stopped_export_goes_on_there(
    world: Curated, tmp_path: Path, format: str, s3_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--as", format, "--clips", "--shard", "2")
    _export(world, tmp_path / "whole", *options)
    bucket, written, count = Bucket(s3_store), export_folder.write_shard, 0

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    # Killed while the bucket is tried.
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "replace", interrupted)
        _export(world, s3_store, *options, code=130)
    with monkeypatch.context() as patch:
        patch.setattr(export_folder, "write_shard", full)
        told = _export(world, s3_store, *options, code=1)
    assert f"{tempfile.gettempdir()}/lumina-export-" in told
    assert "No space left on device; free some space" in told

    def stopping(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt
        written(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(export_folder, "write_shard", stopping)
        _export(world, s3_store, *options, code=130)
    [before] = [entry for entry in bucket.entries("") if entry.key.startswith(("train-", "heldout-"))]
    assert bucket.get("EXPORT.json") is None
    with holding(bucket, ".export/LEASE.json"):
        assert "another process exports into s3://" in _export(world, s3_store, *options, code=1)
    told = _export(world, s3_store, *options)
    assert bucket.uri in told
    assert before in bucket.entries("")
    found = {entry.key: hashlib.sha256(bucket.get(entry.key) or b"").hexdigest() for entry in bucket.entries("")}
    assert found == _digests(tmp_path / "whole")
    _export(world, s3_store, *options)
    assert "holds another export" in _export(world, s3_store, *options, "--shard", "3", code=1)
    bucket.remove("EXPORT.json")
    assert "holds something else" in _export(world, s3_store, *options, code=1)
    assert "there is no such bucket" in _export(world, s3_store.replace("//bucket-", "//none-"), code=1)
    assert "--out ftp://a: give a folder, or one of s3:// gs://" in _export(world, "ftp://a", code=1)


def test_one_line_says_what_cannot_be_exported(world: Curated, tmp_path: Path) -> None:
    def error(*arguments: str) -> str:
        done = CliRunner().invoke(cli.app, ["export-data", *arguments], env={"COLUMNS": "400"})
        assert done.exit_code == 1
        [line] = done.output.strip().splitlines()
        return line

    store = ("--store", str(world.store.root))
    assert "holds no run 'nobody'" in error("nobody", *store)
    record = world.store.get_run("r1")
    without = {name: entry for name, entry in record.stages.items() if name != "select"}
    world.store.put_run(replace(record, run="r0", name="early", stages=without))
    assert "run r0 has no selection" in error("r0", *store, "--out", str(tmp_path / "out"))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    assert "holds something else: name one that is new or empty" in error("r1", *store, "--out", str(mine))
    assert "is no folder" in error("r1", *store, "--out", str(mine / "thesis.txt"))
    _export(world, tmp_path / "out", "--as", "csv")
    told = error("r1", *store, "--out", str(tmp_path / "out"), "--as", "parquet")
    assert "holds another export, whose format is csv, not parquet" in told
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]
    # Another process has just begun there; when it is killed at that, the same command goes on.
    (work := tmp_path / "both" / ".export").mkdir(parents=True)
    with (work / "LOCK").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process exports into" in error("r1", *store, "--out", str(work.parent))
    _export(world, work.parent)
    assert not work.exists()


def test_datasets_reads_both_splits(world: Curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import load_dataset

    counts = {split: len([row for row in _stored(world, "select").values() if row["keep"] and row["split"] == split])
              for split in ("train", "heldout")}  # fmt: skip
    for format in ("parquet", "csv"):
        out = tmp_path / format
        _export(world, out, "--as", format, "--clips", "--shard", "2")
        found = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
        assert {split: len(rows) for split, rows in found.items()} == counts
        captions = {row["clip_id"]: row["caption"] for rows in found.values() for row in rows}
        assert captions == {row["clip_id"]: row["caption"] or None if format == "csv" else row["caption"]
                            for row in _rows(out)}  # fmt: skip


def test_a_plain_loop_trains_through_webdataset(world: Curated, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    import torch

    _export(world, tmp_path / "out", "--clips", "--shard", "2")
    shards = sorted(map(str, (tmp_path / "out").glob("train-*.tar")))
    samples = webdataset.WebDataset(shards, shardshuffle=False).decode()
    weight = torch.zeros(1, requires_grad=True)
    optimizer, seen = torch.optim.SGD([weight], 0.1), []
    for sample in samples:
        assert sample["txt"] == sample["json"]["caption"]
        seen.append(sample["__key__"])
        length = float(sample["json"]["width"]) / 128
        loss = ((weight - length) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert weight.item() > 0
    kept = _stored(world, "select")
    assert sorted(seen) == sorted(name for name, row in kept.items() if row["keep"] and row["split"] == "train")


def test_mapping_of_records(world: Curated) -> None:
    """The world has what the tests take for granted: both splits, and a clip that was set aside."""
    rows: Mapping[str, dict[str, Any]] = _stored(world, "select")
    assert {row["split"] for row in rows.values() if row["keep"]} == {"train", "heldout"}
    assert any(not row["keep"] for row in rows.values())


def _read_back(manifest: Path, **settings: Any) -> dict[str, dict[str, Any]]:
    config = IngestConfig(**settings)
    env = Env(str(media_root(manifest, config)))
    rows = computed(INGEST_OPERATOR, {"manifest": Input(manifest)}, config, env).to_pylist()
    return {row["clip_id"]: row for row in rows}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("clips", [False, True])
def test_an_export_is_a_manifest_of_the_same_clips(world: Curated, tmp_path: Path, format: str, clips: bool) -> None:
    out = tmp_path / "out"
    _export(world, out, "--as", format, "--shard", "2", *["--clips"] * clips)
    kept = {name: row for name, row in _stored(world, "select").items() if row["keep"]}
    read = _read_back(out, stated_ids=True) if clips else _read_back(out)
    assert {row["status"] for row in read.values()} == {"ok"}
    assert set(read) == set(kept)
    for name, row in read.items():
        assert [row[key] for key in ("caption", "source", "media")] == [
            kept[name][key] for key in ("caption", "source", "media")
        ]
        assert json.loads(row["extra"])["split"] == kept[name]["split"]
    if clips:
        # Without trust, an id is of the bytes that are there: those of whole files are the same.
        whole = {name for name, row in kept.items() if row["span_start_s"] is None}
        assert set(_read_back(out)) & set(kept) == whole


def test_a_stated_id_is_that_of_its_span_and_its_file(world: Curated, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _export(world, out, "--as", "csv", "--clips")
    cut = next(row for row in _rows(out) if row["clip_how"] == "copied")
    table = next(out.glob(f"{cut['split']}-*.csv"))
    text = table.read_text(encoding="utf-8")
    changes = {
        "is not the one that the export wrote": text.replace(cut["clip_sha256"], "0" * 64),
        "its clip_id is not that of the span": text.replace(cut["clip_id"] + ",", "0" * 32 + ","),
    }
    for why, changed in changes.items():
        table.write_text(changed, encoding="utf-8")
        aside = [row for row in _read_back(out, stated_ids=True).values() if row["status"] == "quarantined"]
        assert [row["reason"] for row in aside] == ["unreadable_file"]
        assert why in aside[0]["detail"]
