"""Replay of journals: writes to MLflow what runs could not, event by event, as often as it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipelines.engine.store.store import Store
from pipelines.errors import StoreError
from pipelines.tracking.events import EndRun, Event, LogPoint, plain_event
from pipelines.tracking.journal import Journal, run_of, waiting
from pipelines.tracking.mlflow_client import check_answers, sorted_error
from pipelines.tracking.mlflow_writer import MlflowWriter, is_refusal
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


def write_events(
    writer: MlflowWriter, pending: list[Event], journal: Journal | None, note: Callable[[str], None]
) -> None:
    """Write events and take them out of `pending`. What MLflow refuses for good would hold up all that follow: it is
    put aside.

    Raises whatever says that MLflow is away, or takes nothing.
    """
    for group in groups(tuple(pending)):
        for part in writer.parts(group):
            try:
                part()
            except Exception as error:
                if not is_refusal(error):
                    raise
                if not writer.is_left_out(group[0]):
                    files = {journal.refuse(plain_event(event), error) for event in group} if journal else set()
                    kept = "".join(f", kept in {file}" for file in files)
                    note(f"MLflow refused a record ({type(group[0]).__name__}: {one_line(error)}){kept}")
        del pending[: len(group)]


def groups(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Events as they are written: neighbouring points together, every other event on its own."""
    for points, members in groupby(events, lambda event: isinstance(event, LogPoint)):
        if points:
            yield list(members)
        else:
            yield from ([event] for event in members)


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
        target = journal.uri or default_uri(store)
        try:
            if uri is None or without_password(uri) == target:
                yield _replay(store, journal, to or uri or with_password(target), note)
        except Exception as error:
            raise sorted_error(error, to or target) from error
        finally:
            journal.close()


def _replay(store: Store, journal: Journal, uri: str, note: Callable[[str], None]) -> Replayed:
    check_answers(uri)
    writer = MlflowWriter(uri, store, note=note)
    events, strange = journal.read()
    for data, why in strange:
        kept = journal.refuse(data, why)
        note(f"{journal.path}: no run has written a record in it ({one_line(why)}); nobody acts on it, it is in {kept}")
    write_events(writer, list(events), journal, note)
    killed = not events or not isinstance(events[-1], EndRun)
    if killed and events:
        writer.close_killed(events[-1].at_ms)
    journal.finish(bool(writer.left_out))
    return Replayed(journal.run, without_password(uri), len(events), killed, tuple(writer.left_out))
