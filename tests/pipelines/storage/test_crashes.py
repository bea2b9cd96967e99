"""A crash at every step of every store operation: nothing partial is ever read, and the next run puts it right."""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
import time
from pathlib import Path

import pytest

from pipelines.storage.store import Store
from pipelines.verify.check import verify
from tests.pipelines.storage.operations import OPERATIONS, fingerprint_of, go, manifest_of, perform
from tests.pipelines.storage.steps import DIED
from tests.pipelines.toy import diamond
from tests.pipelines.toy_outputs import line

# Each process is the copy of one that has imported everything and runs no threads.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.pipelines.storage.operations", "pipelines.dag.runner", "jobs.kept"])


def attempt(name: str, root: Path, whole: Path, **limits: int) -> int:
    """Exit code of an operation."""
    process = FORKS.Process(target=perform, args=(name, root, whole, limits))
    process.start()
    process.join(60)
    assert process.exitcode is not None, f"{name} hangs with {limits}"
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with all outputs."""
    store = Store(tmp_path_factory.mktemp("whole") / "store")
    go(store, diamond(), "r0")
    time.sleep(2.1)  # younger files have no remembered digest
    return store


def check_reads(store: Store, whole: Store, before: list[dict[str, object]]) -> None:
    """What can be read is whole, and a run's record is the old or the new one."""
    for stage in "abcd":
        found = store.lookup(stage, fingerprint_of(manifest_of(whole, stage)))
        for file in found.files if found else ():
            assert hashlib.sha256((store.output(found) / file.path).read_bytes()).hexdigest() == file.sha256
    if (store.root / "latest" / "diamond").exists():
        record = store.get_run("diamond")
        assert record["run"] in ("r0", "r1")
        if record["run"] == "r0":
            assert [record | {"seconds": 0}] == [one | {"seconds": 0} for one in before]
    else:
        assert not before


def check_next_run(store: Store, whole: Store, name: str) -> None:
    """The next run ends with the same digests, waits for nobody, and leaves nothing of the crash."""
    digests = {stage: manifest_of(whole, stage).digest for stage in "abcd"}
    started = time.monotonic()
    assert go(store, diamond(), "r2") == digests
    if name == "reopen":
        go(store, line(), "r3")
        assert verify(store, "r3", deep=True).found == ()
    assert time.monotonic() - started < 20
    assert verify(store, "r2", deep=True).found == ()
    for directory in store.root.glob("stages/*/*/"):
        left = {path.name for path in directory.iterdir()} - {"LEASE.lock", "MANIFEST.json", "attempts.jsonl"}
        left = {entry for entry in left if not entry.startswith("MANIFEST.broken-")} - {"curve.jsonl"}
        kept = {manifest.attempt for manifest in store.manifests(directory.parent.name)}
        assert left <= kept or name == "collect", directory


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_crash_at_any_step_is_put_right_by_the_next_run(name: str, whole: Store, tmp_path: Path) -> None:
    template = Store(tmp_path / "template")
    OPERATIONS[name].store(template)
    records = [template.get_run("diamond")] if (template.root / "latest" / "diamond").exists() else []
    codes, step = [], 0
    while 0 not in codes:
        step += 1
        root = tmp_path / f"at-{step}"
        if template.root.exists():
            shutil.copytree(template.root, root)
        codes.append(attempt(name, root, whole.root, die_at=step))
        assert codes[-1] in (0, DIED), (step, codes)
        store = Store(root)
        check_reads(store, whole, records)
        check_next_run(store, whole, name)
        shutil.rmtree(root)
    assert step > 1, "the operation changed nothing on the disk"
