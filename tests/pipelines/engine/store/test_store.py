from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipelines.engine.store import lease as leases
from pipelines.engine.store.attempt import Attempt, list_files
from pipelines.engine.store.lease import Holder, process_start, read_holder
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.objects import LocalObjects
from pipelines.engine.store.open_store import open_store
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.errors import LeaseLostError, StoreError

FP = "ab" * 32


def manifest(attempt: Attempt, digest: str = "0") -> Manifest:
    files = list_files(attempt.out)
    return Manifest("s@1", FP, attempt.out.name, "files", f"sha256:{digest * 64}", {}, files)


def begin(store: Store, text: str = "hello") -> Attempt:
    attempt = store.acquire("s@1", FP)
    assert isinstance(attempt, Attempt)
    (attempt.out / "deep").mkdir()
    (attempt.out / "deep" / "x.txt").write_text(text)
    return attempt


def test_commit_then_lookup(tmp_path: Path) -> None:
    store = Store(tmp_path)
    attempt = begin(store)
    (attempt.work / "scratch").write_text("x")
    assert store.lookup("s@1", FP) is None
    assert store.has_work("s@1", FP)
    done = store.commit(attempt, manifest(attempt))
    assert store.lookup("s@1", FP) == done
    assert (store.output(done) / "deep" / "x.txt").read_text() == "hello"
    left = {path.name for path in attempt.directory.iterdir()}
    assert left == {"MANIFEST.json", "LEASE.lock", attempt.out.name}
    assert Manifest.from_json(done.to_json()) == done


def test_damaged_output_counts_as_absent_and_heals(tmp_path: Path) -> None:
    store = Store(tmp_path)
    attempt = begin(store)
    path = store.output(store.commit(attempt, manifest(attempt))) / "deep" / "x.txt"
    damages: list[Callable[[Path], object]] = [
        lambda file: file.write_text("hell"),
        Path.unlink,
        lambda file: shutil.rmtree(file.parents[1]),
    ]
    for damage in damages:
        damage(path)
        assert store.lookup("s@1", FP) is None
        again = begin(store)
        path = store.output(store.commit(again, manifest(again))) / "deep" / "x.txt"
        assert store.lookup("s@1", FP) is not None
    (store.directory("s@1", FP) / "MANIFEST.json").write_text("{")
    assert store.lookup("s@1", FP) is None
    assert len(list(store.directory("s@1", FP).glob("MANIFEST.broken-*"))) == 3


def test_the_loser_of_a_race_adopts_the_winner(tmp_path: Path) -> None:
    store = Store(tmp_path)
    slow = begin(store)
    slow.lease.release()
    shutil.copytree(slow.out, tmp_path / "kept")
    quick = begin(store)
    won = store.commit(quick, manifest(quick, "1"))
    with pytest.raises(LeaseLostError):
        slow.lease.refresh()
    shutil.copytree(tmp_path / "kept", slow.out)
    assert store.commit(slow, manifest(slow, "2")) == won
    assert not slow.out.exists()


def test_leases_of_the_dead_are_taken_at_once_and_of_other_hosts_when_they_expire(tmp_path: Path) -> None:
    store = Store(tmp_path)
    attempt = begin(store)
    assert store.acquire("s@1", FP) == attempt.lease.holder
    record = attempt.directory / "LEASE.json"
    here = attempt.lease.holder

    def put(holder: Holder, age_s: float = 0.0) -> bool:
        record.write_text(json.dumps(asdict(holder)))
        os.utime(record, (time.time() - age_s,) * 2)
        return isinstance(store.acquire("s@1", FP), Attempt)

    assert process_start(os.getpid()) == here.process_start
    assert put(replace(here, process_start="another process with a recycled id"))
    assert not put(replace(here, host="elsewhere", process_start="?"))
    assert put(replace(here, host="elsewhere"), leases.EXPIRY_S + 1)
    record.write_text("{")
    assert read_holder(LocalObjects(attempt.directory)) is None


def test_unusable_stores_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="this kind of URI is not supported"):
        open_store("hdfs://host/x")
    assert open_store(f"file://{tmp_path}").root == open_store(tmp_path).root == tmp_path
    with pytest.raises(StoreError, match="GB are needed"):
        Store(tmp_path).prepare(min_free_gb=1e9)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "file" / "store").prepare()


def test_runs_are_found_by_id_by_name_and_by_being_newest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="holds no run yet"):
        store.get_run(None)
    first, second = (
        RunRecord(run=run, name=name, started="2026-01-01T00:00:00+00:00", stages={})
        for run, name in (("1", "x"), ("2", "y"))
    )
    store.put_run(first)
    store.put_run(second)
    assert store.get_run(None) == store.get_run("y") == store.get_run("2") == second
    assert store.get_run("x") == first
    with pytest.raises(StoreError, match="names: x, y"):
        store.get_run("z")
