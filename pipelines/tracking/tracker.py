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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.engine.events import StageOutcome
from pipelines.engine.stage import Stage
from pipelines.engine.store.lease import process_start, this_machine
from pipelines.engine.store.store import Store
from pipelines.git import git_state
from pipelines.secrets import scrubbed
from pipelines.tracking.attempts import Attempts
from pipelines.tracking.events import (
    BeginRun,
    BeginStage,
    EndRun,
    EndStage,
    Event,
    LogImage,
    LogPoint,
    Point,
    now_ms,
    plain_event,
    read_event,
)
from pipelines.tracking.journal import Journal
from pipelines.tracking.links import Found, Links, links
from pipelines.tracking.mlflow_names import flatten
from pipelines.tracking.uri import target, without_password

if TYPE_CHECKING:
    from pipelines.tracking.mlflow_client import TrackerError
    from pipelines.tracking.mlflow_writer import MlflowWriter

_RUN_ID_WAIT_S = 1.0
_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 60.0


class MlflowTracking:
    """Tracks one pipeline run: a parent run, a nested run per stage, and a flat run per evaluation.

    A stage that is continued by another pipeline run has a nested run there too: one per attempt, with its number in
    the tag `lumina.attempt` and the run before it in `lumina.previous_attempt`. The newest has the whole curve, each
    step once; those of earlier attempts show how far each got, and end as FAILED or KILLED.

    Args:
        store: holds the default database, the artifacts and the journal of unwritten events.
        run_id: id of the pipeline run.
        name: name of the pipeline run.
        config: the resolved configuration, for parameters and the artifact `config.yaml`.
        uri: setting `tracking_uri`; see `pipelines.tracking.uri.target` for None.
        note: told when tracking fails and when it goes on.
        tags: more of the pipeline run; with `lumina.sweep` it is nested below the run of that sweep.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        name: str,
        config: Mapping[str, Any] | None = None,
        uri: str | None = None,
        note: Callable[[str], None] = lambda text: None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.target = target(store, uri)
        self.store, self.uri, self.run_id = store, self.target.uri, run_id
        self._shown = without_password(self.uri)
        self.note = note
        self.found = Found()
        self._away = threading.Event()
        self._told: type[TrackerError] | None = None
        self._last: dict[str, dict[str, int]] = {}
        self._attempts: dict[str, Attempts] = {}
        self._points_lock = threading.Lock()
        self._order = threading.Lock()
        self._journal = self._open_journal()
        self._unwritten = True
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        own = {
            "lumina.kind": "pipeline",
            "lumina.run": run_id,
            "lumina.store": store.uri,
            "lumina.host": socket.gethostname(),
            "lumina.pid": str(os.getpid()),
            "lumina.process_start": process_start(os.getpid()) or "",
            "lumina.machine": this_machine(),
            "mlflow.source.name": "lumina run",
            **({"mlflow.source.git.commit": commit} if (commit := git_state().get("commit")) else {}),
        }
        self._put(BeginRun(name=name, run=run_id, config=config or {}, tags={**(tags or {}), **own}))
        self._thread = threading.Thread(target=self._write, name="tracking", daemon=True)
        self._thread.start()

    def begin_stage(self, stage: Stage, fingerprint: str, inputs: Mapping[str, str], curve: Path | None) -> None:
        """Open the stage's run and, for a resumed stage, write again the points it had logged before."""
        attempts = None if curve is None else Attempts(curve, self.run_id)
        earlier = attempts.points if attempts else []
        with self._points_lock:
            last = self._last[stage.name] = {}
            for point in earlier:
                last.update(dict.fromkeys(point.metrics, point.step))
            if attempts is not None:
                self._attempts[stage.name] = attempts
        self._put(
            BeginStage(
                stage=stage.name,
                kind=stage.kind,
                fingerprint=fingerprint,
                params={**flatten(stage.config.model_dump(mode="json")), **flatten(dict(stage.weights), "weights.")},
                inputs={key: (stage.inputs[key], digest) for key, digest in inputs.items()},
                attempt=attempts.number if attempts else None,
                earlier=tuple(attempts.earlier) if attempts else (),
                system_prompts=stage.execution.system_prompts or None,
                model=stage.execution.model,
            )
        )
        for point in earlier:
            self._put(LogPoint(stage=stage.name, point=point))

    def point(self, stage: str, metrics: Mapping[str, float], step: int) -> None:
        """Queue a point of a curve; a step that a metric has seen before is dropped, as after a resume."""
        with self._points_lock:
            last = self._last.setdefault(stage, {})
            new = {key: float(value) for key, value in metrics.items() if last.get(key, -1) < step}
            if not new:
                return
            last.update(dict.fromkeys(new, step))
            point = Point(new, step, now_ms())
            if stage in self._attempts:
                self._attempts[stage].add_point(point)
        self._put(LogPoint(stage=stage, point=point))

    def image(self, stage: str, key: str, file: str, step: int) -> None:
        """Queue a picture of a series."""
        self._put(LogImage(stage=stage, key=key, file=file, step=step))

    def stage_run(self, stage: str) -> Mapping[str, Any]:
        """Run id and URI of a begun stage; waits a moment for the writer, empty when it is behind or MLflow away."""
        deadline = time.monotonic() + _RUN_ID_WAIT_S
        while stage not in self.found.stages and not self._away.is_set() and time.monotonic() < deadline:
            time.sleep(0.02)
        found = self.found.stages.get(stage)
        return {"run_id": found, "uri": self._shown} if found else {}

    def end_stage(self, stage: str, outcome: StageOutcome) -> None:
        """Close the stage's run, and log what it made."""
        output = outcome.path.name if outcome.path else None
        self._put(EndStage(stage=stage, state=outcome.state, error=outcome.error, output=output, drift=outcome.drift))

    def close(self, state: Literal["FINISHED", "FAILED", "KILLED"], timeout_s: float = 120.0) -> Links:
        """End the pipeline's run, wait for the writer, and tell where things are.

        Args:
            state: of the run.
            timeout_s: how long to wait for what is still queued.
        """
        self._put(EndRun(state=state))
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

    def _put(self, event: Event) -> None:
        record = scrubbed(plain_event(event))
        with self._order:
            if self._journal is not None:
                # A full disk stops no training; what is in the queue is written all the same.
                with contextlib.suppress(OSError):
                    self._journal.append(record)
            self._events.put(read_event(record))

    def _write(self) -> None:
        """Body of the writer thread: apply events in order; while MLflow is away, try again after a longer and longer
        time."""
        writer: MlflowWriter | None = None
        pending: list[Event] = []
        delay, due = _FIRST_RETRY_S, 0.0
        ending = False
        while not ending:
            pending += self._take(None if not pending else max(0.0, due - time.monotonic()))
            ending = bool(pending) and isinstance(pending[-1], EndRun)
            if pending and (ending or time.monotonic() >= due):
                try:
                    writer = self._connect(writer, pending)
                    ending = isinstance(pending[-1], EndRun)
                    from pipelines.tracking.replay import write_events

                    write_events(writer, pending, self._journal, self.note)
                except Exception as error:  # noqa: BLE001  (whatever a tracker does wrong, the run goes on)
                    due, delay = time.monotonic() + delay, min(2 * delay, _LAST_RETRY_S)
                    self._lose(error)
                else:
                    delay = _FIRST_RETRY_S
                    self._regain()
        left_out = bool(writer is not None and writer.left_out)
        if self._journal is not None:
            if pending:
                self._journal.close()
            else:
                self._journal.finish(left_out)
        self._unwritten = bool(pending) or left_out

    def _take(self, wait_s: float | None) -> list[Event]:
        """All events that have come; waits for the first, `wait_s` at most."""
        taken = []
        with contextlib.suppress(queue.Empty):
            taken.append(self._events.get(timeout=wait_s))
            while True:
                taken.append(self._events.get_nowait())
        return taken

    def _connect(self, writer: MlflowWriter | None, pending: list[Event]) -> MlflowWriter:
        """Reach MLflow, and write what earlier runs could not: it comes first. Where it was away and came back without
        our run, start again with all events."""
        from pipelines.tracking.mlflow_client import check_answers

        if writer is not None and not self._away.is_set():
            return writer
        check_answers(self.uri)
        # MLflow takes seconds to import: the run need not wait for it.
        from pipelines.tracking.mlflow_writer import MlflowWriter
        from pipelines.tracking.replay import replay_waiting

        if writer is not None:
            if self._journal is None or not writer.is_forgotten():
                return writer
            with self._order:
                self._take(0.0)
                pending[:], _ = self._journal.read()
        self.found = Found()
        writer = MlflowWriter(self.uri, self.store, self.found, self.note)
        for replayed in replay_waiting(self.store, self.uri, self.note):
            self.note(f"MLflow ({self._shown}): {replayed.told()}")
        return writer

    def _lose(self, error: Exception) -> None:
        from pipelines.tracking.mlflow_client import sorted_error

        found = sorted_error(error, self.uri)
        if self._told is not type(found):
            where = f"kept in {self._journal.path}" if self._journal else "kept in memory"
            self.note(
                f"MLflow ({self._shown}) {found.state}: {found}; the run goes on, its records are {where} and written "
                f"{found.when}"
            )
        self._told = type(found)
        self._away.set()

    def _regain(self) -> None:
        if self._away.is_set():
            self.note(f"MLflow ({self._shown}) is back, and has the records that it missed")
        self._told = None
        self._away.clear()
