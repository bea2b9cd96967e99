"""The table of store operations, stopped at every step: by a crash, a full disk, a permission that is lost.

Nothing partial is ever read, and the next run puts it right, with the same digests.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.compare.verify import verify
from pipelines.engine.store.store import Store
from tests.pipelines.engine.store.operations import (
    FAILED,
    OPERATIONS,
    THROUGH,
    UNDISTURBED,
    go,
    manifest_of,
    perform,
)
from tests.pipelines.engine.store.steps import DIED, FORKS
from tests.pipelines.toy import diamond
from tests.pipelines.toy_outputs import line

QUIET = ("release", "abandon", "sweep", "save digests", "attempts")
"""These must not stop a run: they save work, or tell of it."""


def stopped(name: str, template: Store, whole: Store, tmp_path: Path, **limits: int) -> Iterator[tuple[int, Store]]:
    """Exit code of an operation, and what is left of the store, for the first step, the second, ... until all are done.

    `limits` are those of `Steps`; the one that is 0 counts.
    """
    counted = next(key for key, value in limits.items() if value == 0)
    step, code = 0, THROUGH
    while code != UNDISTURBED:
        step += 1
        root = tmp_path / f"at-{step}"
        if template.root.exists():
            shutil.copytree(template.root, root)
        arguments = (name, root, whole.root, limits | {counted: step}, tmp_path / "error.txt")
        process = FORKS.Process(target=perform, args=arguments)
        process.start()
        process.join(60)
        assert process.exitcode is not None, f"{name} hangs at step {step}"
        code = process.exitcode
        yield code, Store(root)
        shutil.rmtree(root)
    assert step > 1, "the operation changed nothing on the disk"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with all outputs."""
    store = Store(tmp_path_factory.mktemp("whole") / "store")
    go(store, diamond(), "r0")
    time.sleep(2.1)  # younger files have no remembered digest
    return store


@pytest.fixture
def template(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """What the operation works on."""
    store = Store(tmp_path / "template")
    OPERATIONS[request.getfixturevalue("name")].store(store)
    return store


def check_reads(store: Store, whole: Store, template: Store) -> None:
    """What can be read is whole, and a run's record is the old or the new one."""
    for stage in "abcd":
        found = store.lookup(stage, manifest_of(whole, stage).fingerprint)
        for file in found.files if found else ():
            assert hashlib.sha256((store.output(found) / file.path).read_bytes()).hexdigest() == file.sha256
    if (store.root / "latest" / "diamond").exists():
        record = store.get_run("diamond")
        assert record.run in ("r0", "r1")
        if record.run == "r0":
            assert replace(record, seconds=0) == replace(template.get_run("diamond"), seconds=0)
    else:
        assert not (template.root / "latest" / "diamond").exists()


def check_next_run(store: Store, whole: Store, name: str) -> None:
    """The next run ends with the same digests, waits for nobody, and leaves nothing of what was stopped."""
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
def test_a_crash_at_any_step_is_put_right_by_the_next_run(
    name: str, template: Store, whole: Store, tmp_path: Path
) -> None:
    for code, store in stopped(name, template, whole, tmp_path, die_at=0):
        assert code in (DIED, UNDISTURBED)
        check_reads(store, whole, template)
        check_next_run(store, whole, name)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES], ids=["full", "forbidden"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_disk_that_takes_nothing_more_is_told_in_one_line(
    name: str, error: int, template: Store, whole: Store, tmp_path: Path
) -> None:
    for code, store in stopped(name, template, whole, tmp_path, fail_from=0, error=error):
        assert code in (THROUGH, UNDISTURBED) or (code == FAILED and name not in QUIET)
        if code == FAILED:
            message = (tmp_path / "error.txt").read_text()
            assert str(store.root) in message
            assert "No space left on device" in message or "Permission denied" in message
            assert len(message.splitlines()) == 1
        check_reads(store, whole, template)
        check_next_run(store, whole, name)
