"""What is no record is told so, by name, whatever it is instead."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.engine.store.attempt import Attempt, list_files
from pipelines.engine.store.checksum import seal
from pipelines.engine.store.manifest import Manifest, OutputFile
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.engine.store.typed import checked, parse, read_text
from pipelines.errors import StoreError
from pipelines.run_lock import read_lock

FP = "ab" * 32
RUN = {"run": "r1", "name": "x", "started": "2026-11-01T10:00:00+00:00", "stages": {}}


def finished(store: Store) -> tuple[Attempt, Manifest]:
    attempt = store.acquire("s@1", FP)
    assert isinstance(attempt, Attempt)
    (attempt.out / "deep").mkdir()
    (attempt.out / "deep" / "x.txt").write_text("hello")
    files = list_files(attempt.out)
    made = Manifest("s@1", FP, attempt.out.name, "files", f"sha256:{'0' * 64}", {}, files)
    return attempt, store.commit(attempt, made)


def record(store: Store) -> Path:
    return store.directory("s@1", FP) / "MANIFEST.json"


def sealed(store: Store, **changes: Any) -> None:
    content = {**json.loads(record(store).read_text()), **changes}
    content.pop("checksum", None)
    record(store).write_text(seal(json.dumps(content, indent=1)))


def a_file(path: object) -> dict[str, object]:
    return {"path": path, "bytes": 5, "sha256": "x"}


@pytest.mark.parametrize(
    "changes",
    [
        {"attempt": "../../../x"},
        {"attempt": 3},
        {"files": 7},
        {"files": [7]},
        {"files": [a_file(7)]},
        {"files": [a_file("/etc/passwd")]},
        {"files": [a_file("../x")]},
        {"files": [a_file("deep//x.txt")]},
        {"files": [{**a_file("x"), "bytes": "5"}]},
        {"fingerprint": None},
        {"recipe": []},
        {"recipe": {"inputs": [1]}},
        {"recipe": {"code": {"a": 1}}},
        {"counts": {"in": "5"}},
        {"seconds": "long"},
        {"evaluations": [{"artifacts": ["../../x"]}]},
        {"artifacts": ["/etc/passwd"]},
        {"weights": {"a": "../b"}},
        {"stage": "../s@1"},
        {"schema": "lumina.manifest/99"},
    ],
)
def test_a_manifest_of_another_shape_is_computed_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    store = Store(tmp_path)
    finished(store)
    sealed(store, **changes)
    assert store.lookup("s@1", FP) is None
    assert store.manifests("s@1") == []
    finished(store)
    assert store.lookup("s@1", FP) is not None
    assert len(list(record(store).parent.glob("MANIFEST.broken-*"))) == 1


def test_an_edited_manifest_is_not_cached_unless_it_is_sealed_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _, made = finished(store)
    whole = record(store).read_text()
    other = f"sha256:{'1' * 64}"
    for text in (whole.replace(made.digest, other), json.dumps(json.loads(whole), indent=1), whole + " "):
        record(store).write_text(text)
        assert store.lookup("s@1", FP) is None
    # A checksum is no signature: whoever can write the store can make one.
    record(store).write_text(replace(made, digest=other).to_json())
    found = store.lookup("s@1", FP)
    assert found is not None
    assert found.digest == other


@pytest.mark.parametrize("depth", [900, 100_000])
def test_a_manifest_that_is_nested_without_end_is_damaged(tmp_path: Path, depth: int) -> None:
    store = Store(tmp_path)
    finished(store)
    record(store).write_text("[" * depth)
    assert store.lookup("s@1", FP) is None
    with pytest.raises(ValueError, match=r"nested too deeply|Expecting value"):
        parse("[" * depth)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere.json")


def _linked(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("elsewhere.json")))


@pytest.mark.parametrize("put", [_dangling, Path.mkdir, os.mkfifo, lambda path: path.write_bytes(b"\xff{}")])
def test_what_is_no_file_in_place_of_a_manifest_is_moved_aside(tmp_path: Path, put: Callable[[Path], object]) -> None:
    store = Store(tmp_path)
    finished(store)
    record(store).unlink()
    put(record(store))
    assert store.lookup("s@1", FP) is None
    finished(store)
    assert store.lookup("s@1", FP) is not None


def test_a_manifest_that_appears_as_a_link_while_a_stage_runs_ends_no_commit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    attempt = store.acquire("s@1", FP)
    assert isinstance(attempt, Attempt)
    _dangling(record(store))
    made = Manifest("s@1", FP, attempt.out.name, "files", f"sha256:{'0' * 64}", {}, ())
    assert store.commit(attempt, made) == made


def test_an_output_behind_a_link_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    attempt, made = finished(store)
    outside = tmp_path / "outside"
    (attempt.out / "deep").rename(outside)
    (attempt.out / "deep").symlink_to(outside)
    assert store.lookup("s@1", FP) is None
    (attempt.out / "deep").unlink()
    (attempt.out / "deep").mkdir()
    (attempt.out / "deep" / "x.txt").symlink_to(outside / "x.txt")
    assert store.lookup("s@1", FP) is None
    (attempt.out / "deep" / "x.txt").unlink()
    (outside / "x.txt").rename(attempt.out / "deep" / "x.txt")
    assert store.lookup("s@1", FP) == made
    attempt.out.rename(outside / "a")
    attempt.out.symlink_to(outside / "a")
    assert store.lookup("s@1", FP) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": 1},
        {"stages": {"a": {"fingerprint": 3, "digest": None}}},
        {"stages": {"a": {"fingerprint": None, "digest": None, "path": "../../x"}}},
        {"stages": {"../a": {"fingerprint": None, "digest": None}}},
        {"name": "../x"},
        {"started": "yesterday"},
        {"schema": "lumina.run/2"},
        {"lock": [1]},
    ],
)
def test_the_record_of_a_run_of_another_shape_is_damaged(tmp_path: Path, changes: dict[str, Any]) -> None:
    store = Store(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "r1.json").write_text(seal(json.dumps({**RUN, **changes}, indent=1)))
    for sealed in (True, False):
        with pytest.raises(StoreError, match=r"runs/r1\.json is damaged \("):
            store.get_run("r1", sealed)


def test_nothing_acts_on_the_edited_record_of_a_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put_run(checked(RunRecord, RUN))
    path = tmp_path / "runs" / "r1.json"
    whole = path.read_text()
    for text in (whole.replace("2026", "2025"), json.dumps(RUN, indent=1)):
        path.write_text(text)
        with pytest.raises(StoreError, match=r"r1\.json was edited: its checksum is not that of what it says"):
            store.get_run("x")
        assert store.get_run("x", sealed=False).name == "x"


@pytest.mark.parametrize("told", ["../runs/r1", "", "r1/../r1", "/etc/passwd"])
def test_the_pointer_to_a_run_names_one_of_the_store(tmp_path: Path, told: str) -> None:
    store = Store(tmp_path)
    store.put_run(checked(RunRecord, RUN))
    (tmp_path / "latest" / "x").write_text(told)
    with pytest.raises(StoreError, match=r"latest/x is damaged \(it says"):
        store.get_run("x")
    with pytest.raises(StoreError, match="no name of a run"):
        store.get_run("../latest/x")


def test_a_lock_of_another_shape_is_damaged_and_a_patch_is_named_by_its_digest() -> None:
    record = checked(RunRecord, RUN)
    environment = {"python": "3", "platform": "x", "cpus": 1, "gpus": [], "packages": {}}
    lock = {
        "command": "x",
        "config": {"runtime": {"train_workers": 1}},
        "code": {"commit": "a" * 40},
        "environment": environment,
    }
    assert read_lock(replace(record, lock=lock)).workers == 1
    for changes in (
        {"config": {}},
        {"config": {"runtime": {"train_workers": "many"}}},
        {"code": {"commit": "--upload-pack=x"}},
        {"code": {"commit": None, "patch": "sha256:../../x"}},
        {"environment": 1},
    ):
        with pytest.raises(StoreError, match="the lock in its record is damaged"):
            read_lock(replace(record, lock=lock | changes))


def test_a_record_is_a_regular_file_of_text(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{}")
    assert read_text(path) == "{}"
    _linked(path)
    with pytest.raises(ValueError, match="it is a link, to"):
        read_text(path)
    with pytest.raises(ValueError, match="it is no file"):
        read_text(Path("/dev/null"))
    with path.open("wb") as file:
        file.truncate(1 << 29)
    with pytest.raises(ValueError, match="536,870,912 bytes, 268,435,456 are the most"):
        read_text(tmp_path / "elsewhere.json")


def test_a_path_of_an_output_is_taken_as_it_is(tmp_path: Path) -> None:
    files = (OutputFile("data/part-0.parquet", 1, "x"), OutputFile("a b/ü.txt", 1, "x"))
    made = Manifest("s@1", FP, "a-1", "files", "sha256:0", {"config": {"x": 1e-4}}, files)
    assert Manifest.from_sealed(made.to_json()) == made
