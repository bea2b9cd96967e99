"""Compute a recorded run again with the code that it ran with, and hold what comes out against what came out then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import yaml

from lumina.formats import short_digest
from pipelines.compare.difference import RunDiff, read_diff
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError, StoreError
from pipelines.git import CLI, HOME, checked_out, code_home, has_commit
from pipelines.rerun.copy_stages import copy_stages
from pipelines.rerun.preflight import (
    Check,
    check_environment,
    check_plan,
    check_record,
    check_workers,
    read_plan,
    stops,
)
from pipelines.rerun.verdict import Verdict, judge
from pipelines.run_lock import Lock, environment, read_lock, read_patch
from pipelines.terminal import command_line
from pipelines.tracking.mlflow_client import TrackerAwayError
from pipelines.tracking.mlflow_tags import tag_pipeline_run
from pipelines.tracking.uri import target, with_password, without_password

REPRODUCED, NOT_REPRODUCED, NOT_ATTEMPTED = 0, 3, 4
"""Exit codes; 1 is an error, as everywhere, and what the run itself ends with if a stage fails."""


@dataclass(frozen=True)
class Options:
    """How to rerun."""

    fresh: bool = False
    """Compute everything again, in a store of its own."""
    into: Path | None = None
    """That store; None makes one beside the recorded outputs."""
    start: str | None = None
    """Compute this stage and what follows again, in a store of its own that begins with the outputs of the others."""
    here: bool = False
    """Run this code in place of the recorded one."""
    overrides: tuple[str, ...] = ()
    """`runtime.key=value`: what changes no recipe."""
    allow_env_drift: bool = False
    """Accept other versions of the packages that recipes name."""

    def line(self, store: Store, run: str) -> str:
        """What the user types for it."""
        words = ["lumina", "rerun", run, "--store", str(store.root)]
        words += ["--fresh"] * self.fresh + ["--here"] * self.here + ["--allow-env-drift"] * self.allow_env_drift
        words += ["--into", str(self.into)] if self.into else []
        words += ["--from", self.start] if self.start else []
        return command_line([*words, *(part for value in self.overrides for part in ("-o", value))])

    @property
    def apart(self) -> bool:
        """Whether the rerun has a store of its own."""
        return self.fresh or self.into is not None or self.start is not None


@dataclass(frozen=True)
class Rerun:
    """How it went."""

    checks: tuple[Check, ...]
    verdict: Verdict | None = None
    """None if it was not attempted."""
    difference: RunDiff | None = None
    store: Path | None = None
    """Where the outputs of the rerun are."""
    note: str = ""
    """Why the verdict is not in MLflow; empty if it is."""

    @property
    def exit_code(self) -> int:
        """0: every stage meets its tier. 3: one does not. 4: nothing was started."""
        if self.verdict is None:
            return NOT_ATTEMPTED
        return REPRODUCED if self.verdict.ok else NOT_REPRODUCED

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "exit": self.exit_code,
            "checks": [vars(check) for check in self.checks],
            "verdict": self.verdict and self.verdict.as_dict(),
            "difference": self.difference and self.difference.as_dict(),
            "store": self.store and str(self.store),
            "note": self.note,
        }


class RunFailed(Exception):
    """The rerun itself did not come to its end; it has said why. The argument is its exit code."""


def rerun(
    store: Store,
    run: str | None,
    options: Options,
    show: Callable[[Sequence[Check]], None],
    output: IO[str] | None = None,
) -> Rerun:
    """Check what is needed, compute the run again, and compare.

    Args:
        store: of the recorded run.
        run: id or name; None means the newest.
        options: see `Options`.
        show: told what was checked, before anything starts.
        output: where the rerun shows itself; None is this process's standard output.

    Raises:
        StoreError: there is no such run, or its lock is damaged.
        PipelineError: the options do not fit the run.
        RunFailed: the rerun was stopped, or a stage of it failed.
    """
    record = store.get_run(run)
    checks = [check_record(record)]
    lock = read_lock(record)
    _check_options(record, options)
    checks += [*check_environment(lock.environment, environment()), check_workers(lock, options.overrides)]
    with _code(store, lock, options.here) as (found, code), tempfile.TemporaryDirectory() as folder:
        checks.insert(1, found)
        if code is not None:
            config = Path(folder) / "config.yaml"
            config.write_text(yaml.safe_dump(dict(lock.config), sort_keys=False, allow_unicode=True), encoding="utf-8")
            command = _Command(code, config, options.overrides)
            checks += _planned(command, store, record, options)
        show(checks)
        if stops(checks) or code is None:
            return Rerun(tuple(checks))
        target = _target(store, record, options)
        if options.start is not None:
            copy_stages(store, record, options.start, target)
        again = _execute(command, store, target, record, lock, options.line(store, record.run), output)
    found_again = target.get_run(again)
    difference = read_diff((store, record), (target, found_again))
    verdict = judge(difference, {name: entry.inputs for name, entry in record.stages.items()})
    target.put_run(replace(found_again, rerun={"store": str(store.root), **verdict.as_dict()}))
    return Rerun(tuple(checks), verdict, difference, target.root, _tag(store, lock, verdict))


def _tag(store: Store, lock: Lock, verdict: Verdict) -> str:
    tags = {"lumina.rerun_of": verdict.run, "lumina.verdict": verdict.answer}
    try:
        tag_pipeline_run(_tracking_uri(store, lock), verdict.again, tags)
    except TrackerAwayError as error:
        return f"the verdict is not in MLflow: {error}"
    return ""


def _tracking_uri(store: Store, lock: Lock) -> str:
    return with_password(target(store, lock.config.get("tracking_uri")).uri)


def _check_options(record: RunRecord, options: Options) -> None:
    other = [value for value in options.overrides if not value.startswith("runtime.")]
    if other:
        raise PipelineError(
            f"-o {other[0]}: a rerun keeps what was recorded, but for runtime.*; `lumina run` takes other settings"
        )
    if options.start is not None and options.start not in record.stages:
        raise PipelineError(f"--from {options.start}: the run has no such stage; it has {', '.join(record.stages)}")


@contextmanager
def _code(store: Store, lock: Lock, here: bool) -> Iterator[tuple[Check, Path | None]]:
    """The code that will run, and what is to be said of it; None if there is none."""
    home = code_home()
    name = f"{short_digest(lock.code.commit or '')}{' with changes' if lock.code.patch else ''}"
    if here:
        yield Check("code", "ok", f"this one, in {HOME} (--here); recorded was {name or 'none'}"), HOME
    elif lock.code.commit is None or home is None:
        where = "was run from" if lock.code.commit is None else "is in"
        yield Check("code", "missing", f"no repository {where}; --here runs this code in its place"), None
    elif not has_commit(home, lock.code.commit):
        detail = f"{home} does not have commit {lock.code.commit}: fetch it, or --here runs this code in its place"
        yield Check("code", "missing", detail), None
    else:
        patch = read_patch(store, lock.code.patch) if lock.code.patch else None
        with checked_out(home, lock.code.commit, patch) as code:
            yield Check("code", "ok", f"commit {name}, in a working tree of its own"), code


@dataclass(frozen=True)
class _Command:
    """`lumina` as the given code has it."""

    code: Path
    config: Path
    overrides: tuple[str, ...]

    def line(self, name: str, *options: str) -> list[str]:
        overrides = [part for value in self.overrides for part in ("-o", value)]
        # -P: the folder in which the user stands is no place to take code from.
        return [sys.executable, "-P", "-c", CLI, name, str(self.config), *overrides, *options]

    def environment(self) -> dict[str, str]:
        paths = [str(self.code), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _planned(command: _Command, store: Store, record: RunRecord, options: Options) -> Iterator[Check]:
    """What the code that will run says of the recorded run's store."""
    done = subprocess.run(  # noqa: S603
        command.line("plan", "--store", str(store.root), "--json"),
        env=command.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    planned = read_plan(done.stdout)
    if planned is None:
        said = done.stderr.strip().splitlines()
        yield Check("inputs", "missing", said[-1].removeprefix("error: ") if said else "the plan came to nothing")
        return
    yield from check_plan(planned, record.stages, options.here, options.allow_env_drift)


def _target(store: Store, record: RunRecord, options: Options) -> Store:
    """Where the rerun puts its outputs: a killed one goes on in the store that it began."""
    if not options.apart:
        return store
    if options.into is not None:
        target = Store(options.into)
        if target.root == store.root:
            raise PipelineError(f"--into {options.into}: that is the store of the recorded run; name another folder")
        return target
    parent = store.root / "reruns"
    begun = sorted(parent.glob(f"{record.run}-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if begun and not _complete(Store(begun[-1]), record):
        return Store(begun[-1])
    return Store(parent / f"{record.run}-{len(begun) + 1}")


def _complete(target: Store, record: RunRecord) -> bool:
    try:
        return target.get_run(_name(record)).ok
    except StoreError:
        return False


def _name(record: RunRecord) -> str:
    return f"{record.name}-rerun"


def _execute(
    command: _Command,
    store: Store,
    target: Store,
    record: RunRecord,
    lock: Lock,
    again_command: str,
    output: IO[str] | None,
) -> str:
    """Run it, and return the id of the run."""
    tracked = _tracking_uri(store, lock)
    # All users of this machine see the words of a process; its environment has the password.
    tracked = tracked if without_password(tracked) == tracked else "null"
    options = ["--store", str(target.root), "--name", _name(record), "-o", f"tracking_uri={tracked}"]
    options += ["--until", record.until] if record.until else []
    options += ["--continue-with", again_command]
    options += ["--recompute", "all"]  # whoever reruns means to compute
    before = _newest(target, record)
    process = subprocess.Popen(command.line("run", *options), env=command.environment(), stdout=output)  # noqa: S603
    with _outliving(process):
        code = process.wait()
    again = _newest(target, record)
    if code != 0 or again is None or again == before:
        raise RunFailed(code if code > 0 else 128 - code if code else 1)
    return again


@contextmanager
def _outliving(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let the rerun end in its own way when this process is told to: Ctrl-C reaches both, the rest is handed on."""
    handlers: dict[int, Any] = {signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: lambda *_: process.terminate()}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _newest(target: Store, record: RunRecord) -> str | None:
    try:
        return target.run_id(_name(record))
    except StoreError:
        return None
