"""Experiment tracking that never stops a run: events go through a queue to one background writer.

MLflow explains, the manifest decides. An event is plain data, so when the tracker fails the rest of a run's events go
to a JSONL file in the store instead, and the run goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipelines.dag.events import StageOutcome
from pipelines.dag.record import git_state
from pipelines.dag.stage import Stage
from pipelines.storage.lease import process_start
from pipelines.storage.store import Store
from pipelines.tracking.attempts import Attempts

_RUN_ID_WAIT_S = 1.0
_NOT_A_NAME = re.compile(r"[^\w/ :.\-]")
_LOCAL_UI = "http://127.0.0.1:5000"


@dataclass(frozen=True)
class Links:
    """Where to look at what was tracked."""

    uri: str
    ui_command: str
    """Starts the web page for a local database; empty for a server that runs anyway."""
    pipeline_url: str
    compare_url: str
    """The evaluations of this run side by side; empty when there are fewer than two."""
    buffer: Path | None
    """File with the events that could not be written."""


def default_uri(store: Store) -> str:
    """SQLite database in the store, as an absolute URI: a relative one would follow the working directory."""
    return f"sqlite:///{store.root / 'mlflow.db'}"


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mapping -> dotted parameter names that MLflow accepts, values as text of at most 6000 characters."""
    flat: dict[str, str] = {}
    for key, child in value.items():
        name = f"{prefix}{key}"
        if isinstance(child, Mapping):
            flat |= flatten(child, f"{name}.")
        else:
            text = child if isinstance(child, str) else json.dumps(child, ensure_ascii=False)
            flat[safe_name(name)] = text if len(text) <= 6000 else f"{text[:5999]}…"
    return flat


def safe_name(name: str) -> str:
    """A parameter or metric name that MLflow accepts."""
    return _NOT_A_NAME.sub("_", name)


class MlflowTracking:
    """Tracks one pipeline run: a parent run, a nested run per stage, and a flat run per evaluation.

    A stage that was stopped and is continued by another pipeline run has a nested run there too: one per attempt, with
    its number in the tag `lumina.attempt` and the run before it in `lumina.previous_attempt`. The newest has the whole
    curve, each step once: the points that earlier attempts logged are written to it again, and the steps that it
    repeats since the last checkpoint are not. So one run shows how a stage went, and can be compared with others
    without knowing where it was interrupted; the runs of earlier attempts show how far each got, and end as FAILED or
    KILLED, those of a driver that was killed as well.

    Args:
        store: holds the default database, the artifacts and the buffer of unwritten events.
        run_id: id of the pipeline run.
        name: name of the pipeline run.
        config: the resolved configuration, for parameters and the artifact `config.yaml`.
        uri: tracking server or absolute database URI; None takes the store's own database.
        note: told once when tracking fails.
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
        self.store, self.uri, self.run_id = store, uri or default_uri(store), run_id
        self.note = note
        self.buffer = store.root / "tracking" / f"{run_id}.jsonl"
        self.stage_ids: dict[str, str] = {}
        self.found: dict[str, Any] = {}
        self._known = threading.Condition()
        self._failed = threading.Event()
        self._last: dict[str, dict[str, int]] = {}
        self._attempts: dict[str, Attempts] = {}
        self._points_lock = threading.Lock()
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="tracking", daemon=True)
        self._thread.start()
        self._put(
            "begin_run",
            name=name,
            run=run_id,
            config=dict(config or {}),
            tags={
                "lumina.kind": "pipeline",
                "lumina.run": run_id,
                "lumina.store": str(store.root),
                "lumina.host": socket.gethostname(),
                "lumina.pid": str(os.getpid()),
                "lumina.process_start": process_start(os.getpid()) or "",
                "mlflow.source.name": "lumina run",
                **({"mlflow.source.git.commit": commit} if (commit := git_state().get("commit")) else {}),
            },
        )

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
            stage=stage.name,
            kind=stage.kind,
            fingerprint=fingerprint,
            params={**flatten(stage.config.model_dump(mode="json")), **flatten(dict(stage.weights), "weights.")},
            inputs={key: {"stage": stage.inputs[key], "digest": digest} for key, digest in inputs.items()},
            attempt=None if attempts is None else attempts.number,
            earlier=[] if attempts is None else attempts.tracked_by(self.uri),
        )
        for point in earlier:
            self._events.put({"event": "point", "stage": stage.name, **point})

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
        """Run id and URI of a begun stage; waits a moment for the writer, empty when it is behind or failed."""
        deadline = time.monotonic() + _RUN_ID_WAIT_S
        with self._known:
            while stage not in self.stage_ids and not self._failed.is_set() and time.monotonic() < deadline:
                self._known.wait(0.2)
            return {"run_id": self.stage_ids[stage], "uri": self.uri} if stage in self.stage_ids else {}

    def end_stage(self, stage: str, outcome: StageOutcome) -> None:
        """Close the stage's run with what its manifest says."""
        manifest = outcome.manifest
        record = {} if manifest is None else asdict(manifest)
        for bulky in ("recipe", "files"):
            record.pop(bulky, None)
        self._put(
            "end_stage",
            stage=stage,
            state=outcome.state,
            seconds=outcome.seconds,
            error=outcome.error,
            path=str(outcome.path or ""),
            manifest=record,
        )

    def close(self, state: str, timeout_s: float = 120.0) -> Links:
        """End the pipeline's run, wait for the writer, and tell where things are.

        Args:
            state: FINISHED, FAILED or KILLED.
            timeout_s: how long to wait for what is still queued.
        """
        self._put("end_run", state=state)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.note(f"MLflow ({self.uri}) is slow: some of this run's records are not written")
        return self._links()

    def _put(self, event: str, **fields: Any) -> None:
        self._events.put({"event": event, "at_ms": int(time.time() * 1000), **fields})

    def _links(self) -> Links:
        local = self.uri.startswith(("sqlite:", "file:"))
        base = _LOCAL_UI if local else self.uri.rstrip("/")
        runs, experiment = self.found.get("evaluations", []), self.found.get("evals_experiment", "")
        compare = ""
        if len(runs) > 1:
            # Experiment ids must be strings in this page's address.
            compare = (
                f"{base}/#/compare-runs?runs={quote(json.dumps(runs, separators=(',', ':')))}"
                f"&experiments={quote(json.dumps([str(experiment)]))}"
            )
        pipeline = ""
        if "parent" in self.found:
            pipeline = f"{base}/#/experiments/{self.found['pipelines_experiment']}/runs/{self.found['parent']}"
        command = f"mlflow ui --backend-store-uri {self.uri}" if local else ""
        return Links(self.uri, command, pipeline, compare, self.buffer if self._failed.is_set() else None)

    def _write(self) -> None:
        """Body of the writer thread: apply events in order; from the first failure on, keep them in the buffer."""
        writer: Any = None
        while True:
            batch = [self._events.get()]
            with contextlib.suppress(queue.Empty):
                while batch[-1]["event"] == "point":
                    batch.append(self._events.get_nowait())
            try:
                if not self._failed.is_set():
                    if writer is None:
                        # MLflow takes seconds to import: the run need not wait for it.
                        from pipelines.tracking.mlflow_writer import MlflowWriter

                        writer = MlflowWriter(self.uri, self.store.root / "mlflow-artifacts", self._learn)
                    writer.apply(batch)
                    batch = [event for event in batch if event["event"] == "end_run"]
            except Exception as error:  # noqa: BLE001  (whatever a tracker does wrong, the run goes on)
                self._fail(error)
            if self._failed.is_set():
                self._keep(batch)
            if batch and batch[-1]["event"] == "end_run":
                return

    def _learn(self, key: str, value: Any) -> None:
        with self._known:
            if key.startswith("stage:"):
                stage = key.removeprefix("stage:")
                self.stage_ids[stage] = value
                if stage in self._attempts:
                    self._attempts[stage].add_run(self.uri, value)
            else:
                self.found[key] = value
            self._known.notify_all()

    def _fail(self, error: Exception) -> None:
        text = str(error).strip().splitlines()
        self.note(
            f"MLflow ({self.uri}) failed: {type(error).__name__}: {text[0] if text else ''}; the run goes on, its "
            f"records are kept in {self.buffer}"
        )
        self._failed.set()
        self._keep([{"event": "state", "stages": self.stage_ids, **self.found}])

    def _keep(self, events: list[dict[str, Any]]) -> None:
        with contextlib.suppress(OSError):
            self.buffer.parent.mkdir(parents=True, exist_ok=True)
            with self.buffer.open("a") as file:
                file.writelines(json.dumps(event) + "\n" for event in events)
