"""Writes to MLflow what runs could not: their journals, event by event, as often as it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.engine.store.store import Store
from pipelines.errors import StoreError
from pipelines.tracking.journal import Journal, run_of, waiting
from pipelines.tracking.mlflow_client import check_answers, sorted_error
from pipelines.tracking.mlflow_writer import MlflowWriter, is_refusal
from pipelines.tracking.tracker import artifacts_of, groups
from pipelines.tracking.uri import default_uri, one_line, with_password, without_password


@dataclass(frozen=True)
class Replayed:
    """A journal whose events MLflow now has."""

    run: str
    uri: str
    events: int
    killed: bool
    """Whether the events break off, since the driver was killed: the run and its open stages then end as KILLED."""
    left_out: tuple[str, ...] = ()
    """What still cannot be written, by name."""

    def told(self) -> str:
        """One line for the user."""
        end = "; it was killed" if self.killed else ""
        but = f", without {' and '.join(self.left_out)}" if self.left_out else ""
        return f"{self.events:,} records of run {self.run} were still to be written, and now are{but}{end}"


def apply(
    writer: MlflowWriter, events: Sequence[dict[str, Any]], journal: Journal | None, note: Callable[[str], None]
) -> None:
    """Write events; what MLflow refuses for good is put aside, since it would hold up all that follow.

    Raises whatever says that MLflow is away, or takes nothing.
    """
    try:
        writer.apply(list(events))
    except Exception as error:
        if not is_refusal(error):
            raise
        if writer.explain(events[0]):
            return
        kept = f", kept in {journal.refuse(events, error)}" if journal is not None else ""
        note(f"MLflow refused a record ({events[0]['event']}: {one_line(error)}){kept}")


def replay_waiting(
    store: Store, uri: str | None, note: Callable[[str], None], run: str | None = None, to: str | None = None
) -> Iterator[Replayed]:
    """Write the journals of runs that are over, the oldest first, and remove each when MLflow has it.

    What a person had to put right first is tried again only for a run that is named: it would hold up the others.

    Args:
        store: whose journals.
        uri: only those meant for this tracking URI; None writes each to its own.
        note: told of what MLflow refuses, and of files that are no journals.
        run: only the one of this pipeline run.
        to: write to this tracking URI instead.

    Raises:
        TrackerError: MLflow is away, or takes nothing; the journal is kept, and what was written is not written twice
            later.
    """
    for path in waiting(store.root, held=run is not None):
        if run is not None and run_of(path) != run:
            continue
        try:
            journal = Journal.claim(path)
        except StoreError as error:
            note(str(error))
            continue
        if journal is None:
            continue
        try:
            target = journal.uri or default_uri(store)
            if uri is None or without_password(uri) == target:
                yield _replay(store, journal, to or uri or with_password(target), note)
        except Exception as error:
            raise sorted_error(error, to or journal.uri or default_uri(store)) from error
        finally:
            journal.close()


def _replay(store: Store, journal: Journal, uri: str, note: Callable[[str], None]) -> Replayed:
    check_answers(uri)
    writer = MlflowWriter(uri, artifacts_of(store), note=note)
    found = journal.read()
    events = found.events
    if found.broken:
        note(f"{journal.path}: {found.broken} lines are broken, as after a full disk, and left out")
    for event, why in found.strange:
        kept = journal.refuse([event], why)
        note(f"{journal.path}: no run has written a record in it ({one_line(why)}); nobody acts on it, it is in {kept}")
    for group in groups(events):
        apply(writer, group, journal, note)
    killed = not events or events[-1]["event"] != "end_run"
    if killed and events:
        writer.close_killed(events[-1]["at_ms"])
    if writer.left_out:
        journal.hold()
    else:
        journal.remove()
    return Replayed(journal.run, without_password(uri), len(events), killed, tuple(writer.left_out))
