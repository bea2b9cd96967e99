"""Experiment tracking that never stops a run: events go to a journal and a queue, and from there to MLflow.

MLflow explains, the manifest decides. While MLflow is away the run goes on, and its events wait; when it is back they
are written in their order. What is still unwritten when the run ends, or is killed, the next run on the store writes
before its own, or `lumina track`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.engine.events import StageOutcome
from pipelines.engine.stage import Stage
from pipelines.engine.store.lease import process_start, this_machine
from pipelines.engine.store.store import Store
from pipelines.git import git_state
from pipelines.secrets import scrubbed
from pipelines.tracking.attempts import Attempts
from pipelines.tracking.journal import Journal
from pipelines.tracking.links import Links, links
from pipelines.tracking.records import Records
from pipelines.tracking.uri import target, without_password

if TYPE_CHECKING:
    from pipelines.tracking.mlflow_client import TrackerError
    from pipelines.tracking.mlflow_writer import MlflowWriter

_RUN_ID_WAIT_S = 1.0
_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 60.0
_MENDED = "once that is mended, by the next run or `lumina track`"
_KINDS = {
    "TrackerAwayError": ("is away", "when MLflow is back"),
    "TrackerRefusedError": ("takes no records", _MENDED),
    "TrackerFaultError": ("cannot be used from here", _MENDED),
}
"""Kind of error -> what is said of MLflow, and when it has the records."""


def artifacts_of(store: Store) -> Path:
    """Where the artifacts of a local database lie."""
    return store.root / "mlflow-artifacts"


class MlflowTracking:
    """Tracks one pipeline run: a parent run, a nested run per stage, and a flat run per evaluation.

    A stage that was stopped and is continued by another pipeline run has a nested run there too: one per attempt, with
    its number in the tag `lumina.attempt` and the run before it in `lumina.previous_attempt`. The newest has the whole
    curve, each step once: the points that earlier attempts logged are written to it again, and the steps that it
    repeats since the last checkpoint are not. So one run shows how a stage went, and can be compared with others
    without knowing where it was interrupted; the runs of earlier attempts show how far each got, and end as FAILED or
    KILLED, those of a driver that was killed as well.

    Args:
        store: holds the default database, the artifacts and the journal of unwritten events.
        run_id: id of the pipeline run.
        name: name of the pipeline run.
        config: the resolved configuration, for parameters and the artifact `config.yaml`.
        uri: setting `tracking_uri`; see `pipelines.tracking.uri.target` for None.
        note: told when tracking fails and when it goes on.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        name: str,
        config: Mapping[str, Any] | None = None,
        uri: str | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.target = target(store, uri)
        self.store, self.uri, self.run_id = store, self.target.uri, run_id
        self._shown = without_password(self.uri)
        self.note = note
        self.stage_ids: dict[str, str] = {}
        self.found: dict[str, Any] = {}
        self._records = Records(name)
        self._known = threading.Condition()
        self._away = threading.Event()
        self._told: type[TrackerError] | None = None
        self._last: dict[str, dict[str, int]] = {}
        self._attempts: dict[str, Attempts] = {}
        self._points_lock = threading.Lock()
        self._order = threading.Lock()
        self._journal = self._open_journal()
        self._unwritten = True
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="tracking", daemon=True)
        self._put(
            "begin_run",
            name=name,
            run=run_id,
            config=dict(config or {}),
            tags={
                "lumina.kind": "pipeline",
                "lumina.run": run_id,
                "lumina.store": store.uri,
                "lumina.host": socket.gethostname(),
                "lumina.pid": str(os.getpid()),
                "lumina.process_start": process_start(os.getpid()) or "",
                "lumina.machine": this_machine(),
                "mlflow.source.name": "lumina run",
                **({"mlflow.source.git.commit": commit} if (commit := git_state().get("commit")) else {}),
            },
        )
        self._thread.start()

    def begin_stage(self, stage: Stage, fingerprint: str, inputs: Mapping[str, str], curve: Path | None) -> None:
        """Open the stage's run and, for a resumed stage, write again the points it had logged before."""
        attempts = None if curve is None else Attempts(curve, self.run_id)
        earlier = [] if attempts is None else attempts.points
        with self._points_lock:
            last = self._last[stage.name] = {}
            for point in earlier:
                last.update(dict.fromkeys(point["metrics"], point["step"]))
            if attempts is not None:
                self._attempts[stage.name] = attempts
        self._put(
            "begin_stage",
            **self._records.begin(stage, fingerprint, inputs),
            attempt=None if attempts is None else attempts.number,
            earlier=[] if attempts is None else attempts.earlier,
        )
        for point in earlier:
            self._put("point", stage=stage.name, **point)

    def point(self, stage: str, metrics: Mapping[str, float], step: int) -> None:
        """Queue a point of a curve; a step that a metric has seen before is dropped, as after a resume."""
        with self._points_lock:
            last = self._last.setdefault(stage, {})
            new = {key: float(value) for key, value in metrics.items() if last.get(key, -1) < step}
            if not new:
                return
            last.update(dict.fromkeys(new, step))
            entry = {"metrics": new, "step": step, "time_ms": int(time.time() * 1000)}
            if stage in self._attempts:
                self._attempts[stage].add_point(entry)
        self._put("point", stage=stage, **entry)

    def stage_run(self, stage: str) -> Mapping[str, Any]:
        """Run id and URI of a begun stage; waits a moment for the writer, empty when it is behind or MLflow away."""
        deadline = time.monotonic() + _RUN_ID_WAIT_S
        with self._known:
            while stage not in self.stage_ids and not self._away.is_set() and time.monotonic() < deadline:
                self._known.wait(0.2)
            return {"run_id": self.stage_ids[stage], "uri": self._shown} if stage in self.stage_ids else {}

    def end_stage(self, stage: str, outcome: StageOutcome) -> None:
        """Close the stage's run with what its manifest says."""
        try:
            for event, fields in self._records.end(stage, outcome):
                self._put(event, **fields)
        except (OSError, ValueError) as error:
            self.note(f"MLflow is not told all of {stage}: {error}")

    def close(self, state: str, timeout_s: float = 120.0) -> Links:
        """End the pipeline's run, wait for the writer, and tell where things are.

        Args:
            state: FINISHED, FAILED or KILLED.
            timeout_s: how long to wait for what is still queued.
        """
        self._put("end_run", state=state)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.note(
                f"MLflow ({self._shown}) is slow: the next run, or `lumina track`, writes the rest of the records"
            )
        buffer = self._journal.path if self._journal is not None and self._unwritten else None
        return links(self._shown, self.found, buffer)

    def _open_journal(self) -> Journal | None:
        try:
            return Journal.create(self.store.root, self.run_id, None if self.target.is_own else self._shown)
        except OSError as error:
            self.note(f"no journal of MLflow's records can be kept ({error}): should MLflow be away, they are lost")
            return None

    def _put(self, event: str, **fields: Any) -> None:
        record = scrubbed({"event": event, "at_ms": int(time.time() * 1000), **fields})
        with self._order:
            if self._journal is not None:
                # A full disk stops no training; what is in the queue is written all the same.
                with contextlib.suppress(OSError):
                    self._journal.append(record)
            self._events.put(record)

    def _write(self) -> None:
        """Body of the writer thread: apply events in order; while MLflow is away, try again after a longer and longer
        time."""
        writer: MlflowWriter | None = None
        pending: list[dict[str, Any]] = []
        delay, due = _FIRST_RETRY_S, 0.0
        while True:
            pending += self._take(None if not pending else max(0.0, due - time.monotonic()))
            ending = _ends(pending)
            if pending and (ending or time.monotonic() >= due):
                try:
                    if writer is not None and self._away.is_set():
                        writer, pending = self._reconnect(writer, pending)
                        ending = _ends(pending)
                    writer = writer or self._connect()
                    self._apply(writer, pending)
                except Exception as error:  # noqa: BLE001  (whatever a tracker does wrong, the run goes on)
                    due, delay = time.monotonic() + delay, min(2 * delay, _LAST_RETRY_S)
                    self._lose(error)
                else:
                    delay = _FIRST_RETRY_S
                    self._regain()
            if ending:
                left_out = bool(writer is not None and writer.left_out)
                if self._journal is not None:
                    end = self._journal.close if pending else self._journal.hold if left_out else self._journal.remove
                    end()
                self._unwritten = bool(pending) or left_out
                return

    def _take(self, wait_s: float | None) -> list[dict[str, Any]]:
        """All events that have come; waits for the first, `wait_s` at most."""
        taken = []
        with contextlib.suppress(queue.Empty):
            taken.append(self._events.get(timeout=wait_s))
            while True:
                taken.append(self._events.get_nowait())
        return taken

    def _connect(self) -> MlflowWriter:
        """Reach MLflow, and write what earlier runs could not: it comes first."""
        from pipelines.tracking.mlflow_client import check_answers

        check_answers(self.uri)
        # MLflow takes seconds to import: the run need not wait for it.
        from pipelines.tracking.mlflow_writer import MlflowWriter
        from pipelines.tracking.replay import replay_waiting

        writer = MlflowWriter(self.uri, artifacts_of(self.store), self._learn, self.note)
        for replayed in replay_waiting(self.store, self.uri, self.note):
            self.note(f"MLflow ({self._shown}): {replayed.told()}")
        return writer

    def _reconnect(
        self, writer: MlflowWriter, pending: list[dict[str, Any]]
    ) -> tuple[MlflowWriter | None, list[dict[str, Any]]]:
        """Find MLflow as it was; or start again with all events, where it came back without our run."""
        from pipelines.tracking.mlflow_client import check_answers

        check_answers(self.uri)
        if self._journal is None or not writer.is_forgotten():
            return writer, pending
        with self._order:
            self._take(0.0)
            return None, self._journal.read().events

    def _apply(self, writer: MlflowWriter, pending: list[dict[str, Any]]) -> None:
        """Write and take away the first events, until one fails."""
        from pipelines.tracking.replay import apply

        for group in groups(tuple(pending)):
            apply(writer, group, self._journal, self.note)
            del pending[: len(group)]

    def _learn(self, key: str, value: Any) -> None:
        with self._known:
            if key.startswith("stage:"):
                self.stage_ids[key.removeprefix("stage:")] = value
            else:
                self.found[key] = value
            self._known.notify_all()

    def _lose(self, error: Exception) -> None:
        from pipelines.tracking.mlflow_client import sorted_error

        found = sorted_error(error, self.uri)
        if self._told is not type(found):
            where = f"kept in {self._journal.path}" if self._journal else "kept in memory"
            kind, when = _KINDS[type(found).__name__]
            self.note(
                f"MLflow ({self._shown}) {kind}: {found}; the run goes on, its records are {where} and written {when}"
            )
        self._told = type(found)
        self._away.set()

    def _regain(self) -> None:
        if self._away.is_set():
            self.note(f"MLflow ({self._shown}) is back, and has the records that it missed")
        self._told = None
        self._away.clear()


def _ends(events: Sequence[dict[str, Any]]) -> bool:
    return bool(events) and events[-1]["event"] == "end_run"


def groups(events: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Events as they are written: neighbouring points together, every other event on its own."""
    for points, members in groupby(events, lambda event: event["event"] == "point"):
        if points:
            yield list(members)
        else:
            yield from ([event] for event in members)
