"""The table of store operations: each is begun, and then done step by step, on a copy of some store.

All of them work on the toy pipeline `diamond`, or on the rows of `line`, so that a run tells what is left of a store.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.row_reuse import keep
from pipelines.engine.fingerprint import DigestCache, Identifier
from pipelines.engine.runner import run
from pipelines.engine.stage import Pipeline
from pipelines.engine.store.attempt import Attempt, list_files
from pipelines.engine.store.bucket import Bucket
from pipelines.engine.store.gc import Policy, collect
from pipelines.engine.store.lease import try_acquire
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.objects import LocalObjects
from pipelines.engine.store.store import Store
from pipelines.engine.store.store_lock import in_use
from pipelines.errors import PipelineError
from pipelines.tracking.attempts import Attempts
from pipelines.tracking.events import Point
from pipelines.tracking.journal import Journal
from tests.pipelines.engine.store.steps import Steps
from tests.pipelines.toy import EXECUTE, diamond, identifier
from tests.pipelines.toy_outputs import line

_IDENTIFIER: list[Identifier] = []


def known_code() -> Identifier:
    """Reads the code once per process."""
    if not _IDENTIFIER:
        _IDENTIFIER.append(identifier())
    return _IDENTIFIER[0]


def go(store: Store, pipeline: Pipeline, run_id: str | None = None) -> dict[str, str]:
    """Run it; the digest of every stage."""
    summary = run(pipeline, store, EXECUTE, run_id=run_id, identifier=known_code())
    if not summary.ok:
        raise PipelineError(f"{summary.unrecorded} {[outcome.error for outcome in summary.outcomes.values()]}")
    return {name: outcome.manifest.digest for name, outcome in summary.outcomes.items() if outcome.manifest}


def manifest_of(store: Store, stage: str) -> Manifest:
    """Of the stage's newest output."""
    return store.manifests(stage)[0]


def bucket_of(store: Store) -> Bucket:
    """Where its objects are."""
    assert isinstance(store.objects, Bucket)
    return store.objects


def fetch_run(store: Store, run: str, *stages: str) -> None:
    """Have the outputs of a run here, or those of some stages."""
    for name, entry in store.get_run(run).stages.items():
        manifest = store.lookup(name, entry.fingerprint or "")
        if manifest is not None and (not stages or name in stages):
            store.fetch(manifest)


def on_disk(store: Store, root: Path) -> Store:
    """A copy of the bucket in a folder, as `aws s3 sync` makes it."""
    for entry in store.objects.entries(""):
        (root / entry.key).parent.mkdir(parents=True, exist_ok=True)
        bucket_of(store).download(entry.key, root / entry.key)
    return Store(root)


def fetched(store: Store) -> set[str]:
    """`stage/file` for every file of an output that is in the working copy."""
    paths = (path for path in store.root.glob("stages/*/*/a-*/**/*") if path.is_file())
    return {
        "/".join([*path.relative_to(store.root).parts[1:2], *path.relative_to(store.root).parts[4:]]) for path in paths
    }


@dataclass
class Scene:
    """What an operation works on."""

    store: Store
    whole: Store
    """Another store with all outputs of the pipeline."""
    attempt: Attempt | None = None

    @property
    def model(self) -> Manifest:
        """What stage b's record says where it is done."""
        return manifest_of(self.whole, "b")

    @property
    def fingerprint(self) -> str:
        """Of stage b."""
        return self.model.fingerprint

    @property
    def begun(self) -> Attempt:
        """The attempt at stage b that is going on."""
        assert self.attempt is not None
        return self.attempt

    def manifest(self) -> Manifest:
        """Of this attempt."""
        return replace(self.model, attempt=self.begun.out.name, files=list_files(self.begun.out))


# What each store is at first.


def _nothing(store: Store) -> None:
    pass


def _prepared(store: Store) -> None:
    store.prepare()


def _ran(store: Store) -> None:
    go(store, diamond(), "r0")


def _ran_without_b(store: Store) -> None:
    _ran(store)
    shutil.rmtree(store.root / "stages" / "b")


def _dead(store: Store) -> None:
    """With an attempt of stage b whose process has ended."""
    _ran(store)
    model = manifest_of(store, "b")
    shutil.rmtree(store.root / "stages" / "b")
    died = os.fork()
    if died == 0:
        attempt = store.acquire("b", model.fingerprint)
        assert isinstance(attempt, Attempt)
        (attempt.out / "half.txt").write_text("ha")
        (attempt.work / "part").write_text("x")
        os._exit(0)
    os.waitpid(died, 0)


def _damaged(store: Store) -> None:
    _ran(store)
    (store.output(manifest_of(store, "b")) / "sub" / "more.txt").write_text("")


def _unswept(store: Store) -> None:
    """As after a crash between manifest and release."""
    _ran(store)
    directory = store.directory("b", manifest_of(store, "b").fingerprint)
    (directory / "work").mkdir()
    (directory / "work" / "part").write_text("x")
    (directory / "LEASE.of-the-dead.tmp").touch()
    died = os.fork()
    if died == 0:
        try_acquire(LocalObjects(directory))
        os._exit(0)
    os.waitpid(died, 0)


def _two_runs(store: Store) -> None:
    go(store, diamond(b="other"), "r-other")
    _ran(store)


def _rows(store: Store) -> None:
    _ran(store)
    go(store, line(), "rows")


# What is done.


def _begin(scene: Scene) -> None:
    """Take stage b and write its output."""
    attempt = scene.store.acquire("b", scene.fingerprint)
    assert isinstance(attempt, Attempt)
    shutil.copytree(scene.whole.output(scene.model), attempt.out, dirs_exist_ok=True)
    (attempt.work / "part").write_text("x")
    scene.attempt = attempt


def _begin_beside_a_record_without_output(scene: Scene) -> None:
    _begin(scene)
    shutil.rmtree(scene.store.output(manifest_of(scene.store, "b")))


def _acquire(scene: Scene) -> None:
    assert isinstance(scene.store.acquire("b", scene.fingerprint), Attempt)


def _refresh(scene: Scene) -> None:
    with contextlib.suppress(OSError):  # as the heartbeat does
        scene.begun.lease.refresh()


def _commit(scene: Scene) -> None:
    scene.store.commit(scene.begun, scene.manifest())


def _put_run(scene: Scene) -> None:
    record = scene.store.get_run("r0")
    scene.store.put_run(replace(record, seconds=record.seconds + 1))


def keep_but_c3(output: Path, work: Path) -> None:
    keep(output / "data", work, ["c3"])


def _reopen(scene: Scene) -> None:
    rows = manifest_of(scene.store, "rows")
    scene.store.reopen("rows", rows.fingerprint, keep_but_c3)


def _save_digests(scene: Scene) -> None:
    cache = DigestCache(scene.store.root / "cache" / "digests.json")
    for name in ("a", "b"):
        cache.file(scene.whole.output(manifest_of(scene.whole, name)) / "text.txt")
    cache.save()


def _begin_with_a_torn_line(scene: Scene) -> None:
    _begin(scene)
    (scene.begun.directory / "curve.jsonl").write_text('{"metrics": {"loss": 1.0}, "step": 0}\n{"metr')


def _attempts(scene: Scene) -> None:
    attempts = Attempts(scene.begun.directory / "curve.jsonl", "r1")
    attempts.add_point(Point({"loss": 0.5}, 1, 0))


def _journal(scene: Scene) -> None:
    with contextlib.suppress(OSError):  # as the tracker does
        journal = Journal.create(scene.store.root, "r1", "sqlite://")
        journal.append({"event": "begin_run", "at_ms": 1})


def _use(scene: Scene) -> None:
    with in_use(scene.store.root, print):
        pass


@dataclass(frozen=True)
class Operation:
    """One row of the table."""

    store: Callable[[Store], None]
    """Makes the store that it works on."""
    do: Callable[[Scene], Any]
    """What is counted."""
    begin: Callable[[Scene], Any] = lambda scene: None
    """What comes before."""


OPERATIONS = {
    "prepare": Operation(_nothing, lambda scene: scene.store.prepare()),
    "use": Operation(_prepared, _use),
    "acquire": Operation(_prepared, _acquire),
    "acquire after the dead": Operation(_dead, _acquire),
    "acquire over a damaged output": Operation(_damaged, _acquire),
    "refresh": Operation(_ran_without_b, _refresh, _begin),
    "release": Operation(_ran_without_b, lambda scene: scene.begun.lease.release(), _begin),
    "abandon": Operation(_ran_without_b, lambda scene: scene.store.abandon(scene.begun), _begin),
    "commit": Operation(_ran_without_b, _commit, _begin),
    "commit, and lose the race": Operation(_ran, _commit, _begin),
    "commit over a record without output": Operation(_ran, _commit, _begin_beside_a_record_without_output),
    "sweep": Operation(_unswept, lambda scene: scene.store.sweep(manifest_of(scene.store, "b"))),
    "reopen": Operation(_rows, _reopen),
    "set aside": Operation(_ran, lambda scene: scene.store.repair("b", scene.fingerprint)),
    "put_run": Operation(_ran, _put_run),
    "collect": Operation(_two_runs, lambda scene: collect(scene.store, Policy())),
    "save digests": Operation(_ran, _save_digests),
    "attempts": Operation(_ran_without_b, _attempts, _begin_with_a_torn_line),
    "journal": Operation(_ran, _journal),
    "a cold run": Operation(_nothing, lambda scene: go(scene.store, diamond().until("b"), "r1")),
    "a run over a damaged output": Operation(_damaged, lambda scene: go(scene.store, diamond(), "r1")),
}


THROUGH, FAILED, UNDISTURBED = 0, 10, 11
"""How a process ends: the operation came to its end, failed with an error of ours, or never came to the limit."""


def perform(name: str, root: Path, whole: Path, limits: dict[str, int], told: Path | None = None) -> None:
    """Do one operation in a process that ends with it.

    Args:
        name: which one.
        root: of the store.
        whole: root of a store with all outputs.
        limits: those of `Steps`.
        told: file for the error's message.
    """
    operation = OPERATIONS[name]
    known_code()
    scene = Scene(Store(root), Store(whole))
    operation.begin(scene)
    steps = Steps(scene.store.root, **limits)
    try:
        operation.do(scene)
    except PipelineError as error:
        if told is not None:
            told.write_text(str(error))
        os._exit(FAILED)
    os._exit(UNDISTURBED if steps.count < max(steps.die_at, steps.fail_from) else THROUGH)
