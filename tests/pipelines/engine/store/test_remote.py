"""A store in a bucket: what is promised of one on a disk holds there too."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.row_reuse import keep
from lumina.files import sha256_file
from pipelines import cli
from pipelines.compare.verify import verify
from pipelines.engine.plan import plan
from pipelines.engine.store import lease as leases
from pipelines.engine.store.attempt import Attempt
from pipelines.engine.store.bucket import Bucket
from pipelines.engine.store.gc import Policy, find_garbage
from pipelines.engine.store.lease import Holder
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.open_store import open_store
from pipelines.engine.store.store import Store
from pipelines.errors import LeaseLostError, StoreError
from tests.pipelines.engine.store.operations import bucket_of, fetch_run, fetched, go, known_code, manifest_of, on_disk
from tests.pipelines.engine.store.steps import CREDENTIALS, DIED, FORKS
from tests.pipelines.engine.store.test_sharing import digests, pipeline, start
from tests.pipelines.toy import diamond
from tests.pipelines.toy_outputs import line


def copies(root: Path, number: int) -> list[Path]:
    """Working copies, as on several machines."""
    return [root / f"copy-{name}" for name in range(number)]


def calls(root: Path) -> list[str]:
    found = [line for path in root.glob("copy-*/stages/*/calls.txt") for line in path.read_text().splitlines()]
    return sorted(line.split()[0] for line in found)


def test_another_machine_finds_everything_and_fetches_what_it_needs(s3_store: str, tmp_path: Path) -> None:
    first, second = open_store(s3_store, tmp_path / "copy-1"), open_store(s3_store, tmp_path / "copy-2")
    found = go(first, diamond(), "r0")
    assert plan(diamond(), second, known_code()).exit_code == 0
    assert go(second, diamond(), "r1") == found
    assert calls(tmp_path) == ["a", "b", "c", "d"]
    assert not list(second.root.glob("stages/*/*/a-*"))
    assert second.get_run("r0") == first.get_run("r0")
    assert first.get_run("diamond").run == "r1"
    changed = go(second, diamond(d="new"), "r2")
    assert changed == go(Store(tmp_path / "local"), diamond(d="new"))
    fetched = {path.parts[-3] for path in second.root.glob("stages/*/*/a-*")}
    assert fetched == {"b", "c", "d"}
    assert first.get_run(None).run == "r2"
    fetch_run(second, "r0")
    assert (second.output(manifest_of(first, "a")) / "text.txt").read_text() == "a"
    assert not [entry.key for entry in first.objects.entries("stages") if entry.key.endswith("LEASE.json")]


def test_a_record_that_is_looked_at_does_not_become_the_newest(s3_store: str, tmp_path: Path) -> None:
    first, second = open_store(s3_store, tmp_path / "copy-1"), open_store(s3_store, tmp_path / "copy-2")
    go(first, diamond(), "r0")
    [old] = first.manifests("d")
    time.sleep(1.1)  # S3 tells whole seconds
    go(first, diamond(d="new"), "r1")
    [new] = [manifest for manifest in first.manifests("d") if manifest != old]
    for text in (new, old):
        second.record_text("d", text.fingerprint)
    assert second.manifests("d") == first.manifests("d") == [new, old]


def test_a_copy_of_the_bucket_is_a_store(s3_store: str, tmp_path: Path) -> None:
    store = open_store(s3_store, tmp_path / "copy-1")
    found = go(store, diamond(), "r0")
    disk = on_disk(store, tmp_path / "disk")
    assert verify(disk, "r0", deep=True).found == ()
    assert go(disk, diamond()) == found
    with pytest.raises(StoreError, match=r"copy it to a disk with `aws s3 sync`"):
        find_garbage(store, Policy())


def test_three_cold_runners_compute_each_stage_once(s3_store: str, tmp_path: Path) -> None:
    found = [digests(runner) for runner in start(s3_store, copies(tmp_path, 3), 0.5)]
    assert found[0] == found[1] == found[2] == go(Store(tmp_path / "local"), pipeline(0.5))
    assert calls(tmp_path) == ["a", "b", "c", "d"]


def test_when_one_is_killed_another_takes_over(s3_store: str, tmp_path: Path) -> None:
    runners = {runner.pid: runner for runner in start(s3_store, copies(tmp_path, 2), 1.5)}
    bucket = Bucket(s3_store)
    while not (held := [entry.key for entry in bucket.entries("stages/a") if entry.key.endswith("LEASE.json")]):
        time.sleep(0.05)
    record = bucket.read(held[0])
    assert record is not None
    killed = runners.pop(json.loads(record.text)["pid"])
    time.sleep(0.3)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (other,) = runners.values()
    assert digests(other).keys() == set("abcd")
    assert calls(tmp_path) == ["a", "b", "c", "d"]


def _begin(store: Store, model: Store, done: Manifest) -> tuple[Attempt, Manifest]:
    """An attempt at stage b with its whole output, and the manifest to commit."""
    attempt = store.acquire("b", done.fingerprint)
    assert isinstance(attempt, Attempt)
    shutil.copytree(model.output(done), attempt.out, dirs_exist_ok=True)
    return attempt, replace(done, attempt=attempt.out.name)


def _forget(store: Store, stage: str) -> None:
    for entry in store.objects.entries(f"stages/{stage}"):
        store.objects.remove(entry.key)


def _commit_b(store: Store, model: Store) -> None:
    store.commit(*_begin(store, model, manifest_of(model, "b")))


def _put_run_again(store: Store, model: Store) -> None:
    record = store.get_run("r0")
    store.put_run(replace(record, seconds=record.seconds + 1))


def _set_b_aside(store: Store, model: Store) -> None:
    store.repair("b", manifest_of(model, "b").fingerprint)


OPERATIONS: dict[str, tuple[Callable[[Store], None], Callable[[Store, Store], Any]]] = {
    "prepare": (lambda store: None, lambda store, model: store.prepare()),
    "a cold run": (lambda store: None, lambda store, model: go(store, diamond().until("b"), "r1")),
    "take b and commit": (lambda store: _forget(store, "b"), _commit_b),
    "take b over a lost object": (lambda store: _lose_an_object(store, "b"), _commit_b),
    "set b aside": (lambda store: None, _set_b_aside),
    "put_run": (lambda store: None, _put_run_again),
}
"""What is done to the bucket of a whole run first (a cold run's is empty), and what is then stopped at every change."""


def _lose_an_object(store: Store, stage: str) -> None:
    store.objects.remove(next(one.key for one in store.objects.entries(f"stages/{stage}") if one.key.endswith(".txt")))


def _crash(name: str, uri: str, root: Path, model: tuple[str, Path], at: int) -> None:
    """Do an operation, and end before the change number `at` of the bucket."""
    os.environ.update(CREDENTIALS)
    import obstore

    known_code()
    count = itertools.count(1)

    def stopping(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(count) == at:
                os._exit(DIED)
            return change(*arguments, **options)

        return call

    obstore.put, obstore.delete = stopping(obstore.put), stopping(obstore.delete)
    OPERATIONS[name][1](open_store(uri, root), open_store(*model))
    os._exit(0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_crash_at_any_change_of_the_bucket_is_put_right_by_the_next_run(
    name: str, s3_store: str, tmp_path: Path
) -> None:
    """On the same machine, and every other time on another one."""
    model = open_store(s3_store, tmp_path / "model")
    found = go(model, diamond(), "r0")
    fingerprints = {stage: manifest_of(model, stage).fingerprint for stage in "abcd"}
    code, at = DIED, 0
    while code == DIED:
        at += 1
        uri = s3_store.replace("some/prefix", f"at-{at}")
        store = open_store(uri, tmp_path / f"copy-{at}")
        if name not in ("prepare", "a cold run"):
            _copy_all(bucket_of(model), bucket_of(store), tmp_path / "file")
            OPERATIONS[name][0](store)
        arguments = (name, uri, store.root, (s3_store, model.root), at)
        child = FORKS.Process(target=_crash, args=arguments)
        child.start()
        child.join(60)
        assert child.exitcode in (0, DIED), at
        code = child.exitcode
        for stage, fingerprint in fingerprints.items():
            manifest = store.lookup(stage, fingerprint)
            if manifest is not None:
                other = open_store(uri, tmp_path / "fetched")
                for file in manifest.files:
                    assert sha256_file(other.fetch(manifest) / file.path) == file.sha256
                shutil.rmtree(other.root)
        assert go(store if at % 2 else open_store(uri, tmp_path / f"other-{at}"), diamond(), "r2") == found
        objects = {entry.key for entry in store.objects.entries("stages")}
        if at % 2 == 0:  # another machine cannot know that who held the lease of a finished stage is dead
            objects = {key for key in objects if not key.endswith("LEASE.json")}
        for stage, fingerprint in fingerprints.items():
            now = store.lookup(stage, fingerprint)
            assert now is not None
            whole = {f"{now.attempt}/{file.path}" for file in now.files} | {"MANIFEST.json"}
            prefix = f"stages/{stage}/{fingerprint[:20]}/"
            assert {
                key.removeprefix(prefix) for key in objects if key.startswith(prefix) and "broken" not in key
            } == whole
        shutil.rmtree(store.root, ignore_errors=True)
    assert at > 1


def _copy_all(source: Bucket, target: Bucket, file: Path) -> None:
    for entry in source.entries(""):
        source.download(entry.key, file)
        target.upload(file, entry.key)


def test_the_loser_of_a_race_adopts_the_winner(s3_store: str, tmp_path: Path) -> None:
    model = open_store(s3_store, tmp_path / "model")
    go(model, diamond(), "r0")
    done = manifest_of(model, "b")
    _forget(model, "b")
    slow, manifest = _begin(open_store(s3_store, tmp_path / "copy-1"), model, done)
    slow.lease.release()
    quick = open_store(s3_store, tmp_path / "copy-2")
    attempt, won = _begin(quick, model, done)
    with pytest.raises(LeaseLostError):
        slow.lease.refresh()
    assert quick.commit(attempt, won) == won
    loser = open_store(s3_store, tmp_path / "copy-1")
    assert loser.commit(slow, manifest) == won
    assert not slow.out.exists()
    attempts = {entry.key.split("/")[3] for entry in quick.objects.entries("stages/b")}
    assert attempts == {"MANIFEST.json", won.attempt}


def test_another_host_is_waited_for_while_its_record_changes(
    s3_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "EXPIRY_S", 1.0)
    store = open_store(s3_store, tmp_path / "copy-1")
    key = "stages/a/ab/LEASE.json"
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        held = leases.try_acquire(store.objects, key)
    assert isinstance(held, leases.Lease)
    finished = threading.Event()

    def beat() -> None:
        while not finished.wait(0.3):
            held.refresh()

    thread = threading.Thread(target=beat)
    thread.start()
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        assert isinstance(leases.try_acquire(store.objects, key), Holder)
        time.sleep(0.2)
    finished.set()
    thread.join()
    assert isinstance(leases.try_acquire(store.objects, key), Holder)
    time.sleep(1.2)
    taken = leases.try_acquire(store.objects, key)
    assert isinstance(taken, leases.Lease)
    with pytest.raises(LeaseLostError):
        held.refresh()
    held.release()
    assert leases.read_holder(store.objects, key) == taken.holder
    taken.release()
    assert store.objects.read(key) is None


def test_a_lease_in_a_bucket_of_a_machine_that_is_gone_is_had_by_the_first_that_waits(
    s3_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "EXPIRY_S", 0.6)
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.2)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        held = leases.try_acquire(Bucket(s3_store), "sweeps/toy/LEASE.json")
    assert isinstance(held, leases.Lease)
    # As the same command does that is called again, each one a process that sees the record for the first time.
    with leases.holding(Bucket(s3_store), "sweeps/toy/LEASE.json") as other:
        assert other is None
        with pytest.raises(LeaseLostError):
            held.refresh()
    assert Bucket(s3_store).read("sweeps/toy/LEASE.json") is None
    monkeypatch.setattr(leases, "EXPIRY_S", 60.0)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        held = leases.try_acquire(Bucket(s3_store), "sweeps/toy/LEASE.json")
    assert isinstance(held, leases.Lease)
    threading.Timer(0.3, held.refresh).start()
    with leases.holding(Bucket(s3_store), "sweeps/toy/LEASE.json") as other:
        assert other == held.holder


def test_a_stage_whose_host_has_died_can_be_set_aside_after_a_while(
    s3_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "EXPIRY_S", 0.6)
    store = open_store(s3_store, tmp_path / "copy-1")
    go(store, diamond(), "r0")
    fingerprint = manifest_of(store, "b").fingerprint
    key = f"stages/b/{fingerprint[:20]}/LEASE.json"
    living = leases.try_acquire(store.objects, key)
    assert isinstance(living, leases.Lease)
    with pytest.raises(StoreError, match=r"stage b: process \d+ on .* works on it"):
        store.repair("b", fingerprint)
    living.release()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        leases.try_acquire(store.objects, key)
    store.repair("b", fingerprint)
    assert store.lookup("b", fingerprint) is None


def test_lost_and_cut_objects_heal_and_changed_ones_are_refused_by_name(s3_store: str, tmp_path: Path) -> None:
    store = open_store(s3_store, tmp_path / "copy-1")
    found = go(store, diamond(), "r0")
    key = next(entry.key for entry in store.objects.entries("stages/b") if entry.key.endswith("text.txt"))
    for damage in (store.objects.remove, lambda key: store.objects.put(key, "x" * 100)):
        damage(key)
        other = open_store(s3_store, tmp_path / f"copy-{time.time_ns()}")
        assert plan(diamond(), other, known_code()).count("run") == 1
        assert go(other, diamond()) == found
        key = next(entry.key for entry in store.objects.entries("stages/b") if entry.key.endswith("text.txt"))
    store.objects.put(key, "zz")
    other = open_store(s3_store, tmp_path / "copy-last")
    with pytest.raises(StoreError, match=r"text\.txt is damaged: it has the SHA-256 .* expected; once .*MANIFEST"):
        fetch_run(other, "r0")
    other.repair("b", manifest_of(other, "b").fingerprint)
    assert go(other, diamond(), "r9") == found
    fetch_run(other, "r9")


def test_an_object_that_is_cut_short_on_its_way_is_refused(
    s3_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(open_store(s3_store, tmp_path / "copy-1"), diamond(), "r0")
    other = open_store(s3_store, tmp_path / "copy-2")
    download = Bucket.download

    def cut(self: Bucket, key: str, path: Path) -> str:
        download(self, key, path)
        path.write_bytes(path.read_bytes()[:-1])
        return "0" * 64

    monkeypatch.setattr(Bucket, "download", cut)
    with pytest.raises(StoreError, match=r"a-\w+/.*\.txt is damaged: it has \d bytes, \d expected"):
        fetch_run(other, "r0", "b")
    assert not list(other.root.glob("stages/b/*/a-*/*.txt"))


def test_commands_read_a_store_in_a_bucket(s3_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = open_store(s3_store)
    assert store.root.is_relative_to(tmp_path / "lumina" / "stores")
    go(store, diamond(), "r0")
    shutil.rmtree(store.root, ignore_errors=True)
    shown = CliRunner().invoke(cli.app, ["compare", "r0", "--store", s3_store])
    assert shown.exit_code == 0, shown.output
    assert "no evaluation yet" in shown.output
    for command in (["status"], ["report", "--out", str(tmp_path / "page.html")], ["diff", "r0", "r0"], ["verify"]):
        done = CliRunner().invoke(cli.app, [*command, "--store", s3_store])
        assert done.exit_code == 0, done.output
    assert not fetched(store)
    shutil.rmtree(store.root, ignore_errors=True)
    for command in ("rerun", "gc"):
        refused = CliRunner().invoke(cli.app, [command, "--store", s3_store])
        assert refused.exit_code == 1
        assert f"error: `lumina {command}` needs a store on a file system" in refused.output


def test_runners_may_share_a_working_copy(s3_store: str, tmp_path: Path) -> None:
    found = [digests(runner) for runner in start(s3_store, copies(tmp_path, 1) * 2, 0.3)]
    assert found[0] == found[1]
    assert calls(tmp_path) == ["a", "b", "c", "d"]


def test_rows_that_another_machine_finished_are_taken_back(s3_store: str, tmp_path: Path) -> None:
    first, second = open_store(s3_store, tmp_path / "copy-1"), open_store(s3_store, tmp_path / "copy-2")
    found = go(first, line(), "r0")
    fingerprint = manifest_of(first, "rows").fingerprint
    second.reopen("rows", fingerprint, lambda output, work: keep(output / "data", work, ["c3"]))
    assert first.lookup("rows", fingerprint) is None
    assert second.has_work("rows", fingerprint)
    assert go(second, line(), "r1") == found
