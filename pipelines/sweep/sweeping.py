"""A sweep from its plan to its record: what is done is left out, the rest is run, and each end is written down."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pipelines.engine.store.lease import holding
from pipelines.engine.store.store import Store
from pipelines.engine.store.sweep_record import ArmRun, SweepRecord, lease_key, page_key, sweep_key
from pipelines.errors import PipelineError, StoreError
from pipelines.reports.page.sweep import sweep_page
from pipelines.reports.sweep import compare_arms
from pipelines.sweep.arms import Sweep, SweepRun
from pipelines.sweep.plan import SweepPlan
from pipelines.sweep.processes import Ended, Processes, Words, finished


@dataclass(frozen=True)
class Swept:
    """How a sweep went."""

    record: SweepRecord
    whole: bool
    """Whether it came to its end, well or not; False if it was stopped."""

    @property
    def exit_code(self) -> int:
        """0: all runs are done. 1: some failed. 130: it was stopped."""
        if not self.whole:
            return 130
        return 0 if all(run.state == "done" for run in self.record.runs) else 1


Changed = Callable[[SweepRecord, SweepRun | None], None]
"""Told how the sweep stands: of the run whose state has changed, or with None now and then."""


def in_turn(runs: Sequence[SweepRun], done: Collection[str] = ()) -> list[SweepRun]:
    """Runs, but those of the names `done`, as they start: all arms with the first seed before any with the second."""
    seeds = list(dict.fromkeys(run.seed for run in runs))
    return sorted((run for run in runs if run.name not in done), key=lambda run: seeds.index(run.seed))


def check_record(sweep: Sweep, store: Store) -> None:
    """Check that the record of the name is this sweep's, or has no run that this one lacks.

    Raises:
        PipelineError: it is of another config, or of other arms.
    """
    try:
        held = SweepRecord.load(store.objects, sweep.name)
    except StoreError:
        return  # there is none, or none that is worth keeping
    names = {run.name for run in sweep.runs}
    other = [run.title for run in held.runs if run.name not in names]
    is_of = f"runs that this one has not ({', '.join(other)})" if other else ""
    if Path(held.config).name != Path(sweep.config).name:
        is_of = f"runs of the config {held.config}"
    if is_of:
        where = store.objects.name(sweep_key(sweep.name))
        raise PipelineError(
            f"the sweep {sweep.name} of this store has {is_of}, and its record would be lost: give this one another "
            f"--name, or remove {where}"
        )


def begin(sweep: Sweep, plan: SweepPlan, store: Store, until: str | None, command: str) -> SweepRecord:
    """The record of a sweep that starts or goes on: runs that have come to all that is planned are done."""
    runs = []
    for run, one in zip(plan.runs, plan.plans, strict=True):
        arm = ArmRun(arm=run.arm, seed=run.seed, changes=run.changes, name=run.name)
        done = finished(store, run, one, until)
        runs.append(arm if done is None else replace(arm, state="done", run=done.run, seconds=done.seconds))
    return SweepRecord(
        name=sweep.name,
        config=sweep.config,
        command=command,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        until=until,
        computations=plan.computations,
        unshared=plan.unshared,
        runs=tuple(runs),
    )


def bring_up(
    record: SweepRecord, runs: Sequence[SweepRun], store: Store, words: Words, parallel: int, changed: Changed
) -> Swept:
    """Run what is not done.

    Args:
        record: see `begin`; written at each change, and its page as often as a run ends.
        runs: of the sweep.
        store: where they put their outputs.
        words: their commands.
        parallel: runs at a time.
        changed: told at each change.

    Raises:
        PipelineError: another process brings a sweep of this name up.
        StoreError: the record cannot be written, or an output not be read; runs at work are asked to stop.
    """
    with holding(store.objects, lease_key(record.name)) as other:
        if other is not None:
            raise PipelineError(
                f"the sweep {record.name} is at work, as {other}: wait until it has ended, or give this one another "
                "--name"
            )
        return _bring_up(record, runs, store, words, parallel, changed)


def _bring_up(
    record: SweepRecord, runs: Sequence[SweepRun], store: Store, words: Words, parallel: int, changed: Changed
) -> Swept:

    def write() -> None:
        nonlocal record
        record = replace(record, comparison=compare_arms(store, record))
        record.put(store.objects)
        store.objects.put(page_key(record.name), sweep_page(record, store.uri))

    write()

    def told(run: SweepRun, ended: Ended) -> None:
        nonlocal record
        at = next(at for at, one in enumerate(record.runs) if one.name == run.name)
        before = record.runs[at]
        after = replace(before, state=ended.state, error=ended.error, seconds=round(ended.seconds, 1))
        after = replace(after, run=ended.run or before.run)
        record = replace(record, runs=(*record.runs[:at], after, *record.runs[at + 1 :]))
        if after.state == before.state:
            changed(record, None)
            return
        if after.state == "running":
            record.put(store.objects)
        else:
            write()
        changed(record, run)

    done = {one.name for one in record.runs if one.state == "done"}
    whole = Processes(store, record.name, words, parallel, told).bring_up(in_turn(runs, done))
    return Swept(record, whole)
