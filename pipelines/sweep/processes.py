"""Runs of a sweep as processes of their own, some at a time: what fails or is killed leaves the others going.

Two runs may be at work on one store: whoever comes second to a stage waits for the lease of the first, and takes what
that has made, or goes on where it ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from jobs.runtime import RuntimeConfig
from pipelines.engine.plan import Plan
from pipelines.engine.signals import signals_to
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.engine.store.sweep_record import RunState
from pipelines.errors import PipelineError, StoreError
from pipelines.git import CLI, HOME
from pipelines.sweep.arms import Sweep, SweepRun
from pipelines.terminal import plain

_LOOK_S = 0.2
_OF_USER = (130, 143, -signal.SIGINT, -signal.SIGTERM)
_PR_SET_PDEATHSIG = 1
_LOG_BYTES = 4000

Words = Callable[[SweepRun, int], tuple[list[str], Mapping[str, str]]]
"""The command of a run in a slot, and what its environment has besides."""


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    state: RunState
    run: str | None = None
    """Its id; None if it left no record."""
    error: str = ""
    seconds: float = 0.0


Told = Callable[[SweepRun, Ended], None]
"""Told of each run that starts (`running`) and ends; and now and then, with nothing new, of those that go on."""


def finished(store: Store, run: SweepRun, plan: Plan, until: str | None) -> RunRecord | None:
    """The recorded run that has come to all that is planned; None if there is something to do."""
    record = _newest(store, run)
    if record is None or not record.ok or record.until != until:
        return None
    for stage in plan.stages:
        entry = record.stages.get(stage.name)
        if stage.state != "cached" or entry is None or entry.fingerprint != stage.fingerprint:
            return None
    return record


def capacity(runtime: RuntimeConfig, runs: int) -> int:
    """How many runs this machine has room for: each with the GPUs, else the cores, of its training workers.

    On a cluster that is there already it is one: what else is at work there is not known here.
    """
    if runtime.ray_address is not None:
        return 1
    if runtime.use_gpu:
        room = len(_gpus()) // runtime.train_workers
    else:
        room = (os.cpu_count() or 1) // max(2, runtime.train_workers * runtime.threads_per_worker)
    return max(1, min(runs, room))


def check_parallel(parallel: int, runtime: RuntimeConfig) -> None:
    """Raises PipelineError where runs side by side would have to share GPUs of this machine."""
    gpus = len(_gpus())
    if parallel > 1 and runtime.use_gpu and runtime.ray_address is None and parallel * runtime.train_workers > gpus:
        raise PipelineError(
            f"--parallel {parallel}: each run takes {runtime.train_workers} GPUs of its own (runtime.train_workers), "
            f"and this machine has {gpus}: give at most {max(1, gpus // runtime.train_workers)}"
        )


def _gpus() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` may name."""
    if (seen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [one for one in seen.split(",") if one.strip()]
    return [str(number) for number, _ in enumerate(sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")))]


def lumina_words(sweep: Sweep, parallel: int, until: str | None, command: str) -> Words:
    """`lumina run` for every run, each with its part of the machine."""

    def words(run: SweepRun, slot: int) -> tuple[list[str], Mapping[str, str]]:
        runtime = run.settings.runtime
        overrides, apart = list(run.overrides), parallel > 1 and runtime.ray_address is None
        if apart and runtime.num_cpus is None:
            overrides.append(f"runtime.num_cpus={max(4, 2 * (os.cpu_count() or 1) // parallel)}")
        # -P: the folder in which the user stands is no place to take code from.
        line = [sys.executable, "-P", "-c", CLI, "run", sweep.config]
        line += [part for override in overrides for part in ("-o", override)]
        line += ["--name", run.name, "--continue-with", command, *(["--until", until] if until else [])]
        tags = {"lumina.sweep": sweep.name, "lumina.arm": run.arm}
        tags |= {} if run.seed is None else {"lumina.seed": str(run.seed)}
        line += [word for key, value in tags.items() for word in ("--tag", f"{key}={value}")]
        paths = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
        more = {"PYTHONPATH": os.pathsep.join(paths)}
        if apart and runtime.use_gpu:
            each = runtime.train_workers
            more["CUDA_VISIBLE_DEVICES"] = ",".join(_gpus()[slot * each : (slot + 1) * each])
        return line, more

    return words


def log_path(store: Store, sweep: str, run: str) -> Path:
    """What a run of a sweep has printed."""
    return store.root / "sweeps" / sweep / f"{run}.log"


@dataclass
class _Child:
    run: SweepRun
    process: subprocess.Popen[bytes]
    before: str | None
    """Id of the run that had its name before."""
    started: float


@dataclass
class Processes:
    """The runs of a sweep that are at work.

    Args:
        store: where they put their outputs.
        sweep: its name.
        words: their commands.
        parallel: runs at a time.
        told: see `Told`.
    """

    store: Store
    sweep: str
    words: Words
    parallel: int
    told: Told
    stopping: bool = False
    _children: dict[int, _Child] = field(default_factory=dict)
    """By slot."""

    def bring_up(self, runs: Sequence[SweepRun]) -> bool:
        """Run all of them; False if this process was asked to stop, and those at work have stopped."""
        waiting = list(runs)
        with self._listening():
            while (waiting and not self.stopping) or self._children:
                for slot in range(self.parallel):
                    if waiting and not self.stopping and slot not in self._children:
                        self._start(waiting.pop(0), slot)
                time.sleep(_LOOK_S)
                for slot, child in list(self._children.items()):
                    code = child.process.poll()
                    if code is None:
                        self.told(child.run, Ended("running", seconds=time.time() - child.started))
                        continue
                    del self._children[slot]
                    self.told(child.run, self._ended(child, code))
        return not self.stopping

    def _start(self, run: SweepRun, slot: int) -> None:
        line, more = self.words(run, slot)
        log = log_path(self.store, self.sweep, run.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        newest = _newest(self.store, run)
        with log.open("ab") as file:
            process = subprocess.Popen(  # noqa: S603
                line,
                env={**os.environ, **more},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_parent(),
            )
        self._children[slot] = _Child(run, process, newest.run if newest else None, time.time())
        if self.stopping:  # asked to while it started, when nobody could tell it
            process.terminate()
        self.told(run, Ended("running"))

    def _ended(self, child: _Child, code: int) -> Ended:
        seconds, record = time.time() - child.started, _newest(self.store, child.run)
        own = None if record is None or record.run == child.before else record
        if own is not None and own.ok and code == 0:
            return Ended("done", own.run, seconds=seconds)
        run = own.run if own else None
        if self.stopping or code in _OF_USER:
            return Ended("stopped", run, seconds=seconds)
        failed = [f"{name}: {one.error}" for name, one in own.stages.items() if one.state == "failed"] if own else []
        return Ended("failed", run, "; ".join(failed) or self._last_words(child.run, code), seconds)

    def _last_words(self, run: SweepRun, code: int) -> str:
        log = log_path(self.store, self.sweep, run.name)
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_BYTES))
            lines = plain(file.read().decode(errors="replace")).strip().splitlines()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{how}; {lines[-1].strip()}" if lines else how

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Pass on the first signal, and end the runs at the second."""
        try:
            with signals_to(self._stop):
                yield
        finally:
            for child in self._children.values():  # whatever went wrong here, none is left
                child.process.terminate()

    def _stop(self, *_: Any) -> None:
        for child in self._children.values():
            if self.stopping:
                child.process.kill()
            else:
                child.process.terminate()
        self.stopping = True


def end_with_parent() -> partial[None]:
    """`preexec_fn` of a child that is asked to stop when this process is killed: the same command finds leases free."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    return partial(_end_with_parent, libc, os.getpid())


def _end_with_parent(libc: Any, parent: int) -> None:
    if libc is not None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)


def _newest(store: Store, run: SweepRun) -> RunRecord | None:
    """The newest run of the name; None where there is none that can be read, so that it is run again."""
    try:
        return store.get_run(run.name)
    except StoreError:
        return None
