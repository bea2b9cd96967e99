"""Applies tracking events to MLflow through the client API. The only module that imports mlflow."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from pipelines.storage.lease import process_start
from pipelines.tracking.tracker import flatten, safe_name

PIPELINES = "lumina-video/pipelines"
EVALS = "lumina-video/evals"
_STATUS = {"cached": "FINISHED", "done": "FINISHED", "failed": "FAILED", "blocked": "KILLED", "interrupted": "KILLED"}
_PARAMS_PER_CALL, _METRICS_PER_CALL, _TAG_CHARS = 100, 1000, 5000


class MlflowWriter:
    """One pipeline run's records.

    Args:
        uri: tracking URI.
        artifacts: where experiments that this makes keep artifacts, for a local database.
        learn: told ids as they become known, under the keys `parent`, `stage:<name>`, `evaluations`,
            `pipelines_experiment` and `evals_experiment`.
    """

    def __init__(self, uri: str, artifacts: Path, learn: Callable[[str, Any], None]) -> None:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.learn = learn
        with _first_touch(uri):
            self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            self.pipelines = self._experiment(PIPELINES, uri, artifacts)
            self.evals = self._experiment(EVALS, uri, artifacts)
        learn("pipelines_experiment", self.pipelines)
        learn("evals_experiment", self.evals)
        self.parent = ""
        self.run = ""
        self.stages: dict[str, str] = {}
        self.begun: dict[str, dict[str, Any]] = {}
        self.evaluations: list[str] = []

    def _experiment(self, name: str, uri: str, artifacts: Path) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = (artifacts / name.rpartition("/")[2]).as_uri() if uri.startswith("sqlite:") else None
        return str(self.client.create_experiment(name, artifact_location=location))

    def apply(self, events: Sequence[dict[str, Any]]) -> None:
        """Write events in order; neighbouring points of a stage go in one call."""
        points: list[dict[str, Any]] = []
        for event in events:
            if event["event"] == "point":
                points.append(event)
                continue
            self._points(points)
            points = []
            getattr(self, f"_{event['event']}")(event)
        self._points(points)

    def _points(self, points: Sequence[dict[str, Any]]) -> None:
        by_stage: dict[str, list[Metric]] = {}
        for point in points:
            by_stage.setdefault(point["stage"], []).extend(
                Metric(safe_name(key), value, point["time_ms"], point["step"])
                for key, value in point["metrics"].items()
            )
        for stage, metrics in by_stage.items():
            self._batch(self.stages[stage], metrics=metrics)

    def _batch(self, run: str, metrics: Sequence[Metric] = (), params: Any = None, tags: Any = None) -> None:
        parameters = [Param(key, value) for key, value in (params or {}).items()]
        labels = [RunTag(key, str(value)[:_TAG_CHARS]) for key, value in (tags or {}).items()]
        for start in range(0, max(len(metrics), 1), _METRICS_PER_CALL):
            first = start == 0
            self.client.log_batch(
                run,
                metrics=metrics[start : start + _METRICS_PER_CALL],
                params=parameters[:_PARAMS_PER_CALL] if first else (),
                tags=labels if first else (),
            )
        for start in range(_PARAMS_PER_CALL, len(parameters), _PARAMS_PER_CALL):
            self.client.log_batch(run, params=parameters[start : start + _PARAMS_PER_CALL])

    def _begin_run(self, event: dict[str, Any]) -> None:
        self._close_orphans()
        self.run = event["run"]
        run = self.client.create_run(
            self.pipelines, start_time=event["at_ms"], tags=event["tags"], run_name=f"{event['name']} | {event['run']}"
        )
        self.parent = run.info.run_id
        self.learn("parent", self.parent)
        if event["config"]:
            self._batch(self.parent, params=flatten(event["config"]))
            text = yaml.safe_dump(event["config"], sort_keys=False, allow_unicode=True)
            self.client.log_text(self.parent, text, "config.yaml")

    def _close_orphans(self) -> None:
        """Mark the runs of killed drivers of this host as killed: nobody else will."""
        running = "attributes.status = 'RUNNING'"
        host = f"tags.`lumina.host` = '{socket.gethostname()}'"
        for run in self.client.search_runs([self.pipelines], f"{running} and {host}"):
            tags = run.data.tags
            if process_start(int(tags["lumina.pid"])) == tags["lumina.process_start"]:
                continue
            self._kill_all(run.info.run_id)

    def _close_earlier(self, attempts: Sequence[str]) -> None:
        """Mark earlier attempts that still seem to run as killed: whoever begins one holds the lease of the stage.

        A driver that lost its lease on another host is most likely dead, and its runs are marked, too. Should it live,
        they take their true state when they end.
        """
        names = ", ".join(f"'{run}'" for run in attempts)
        running = f"attributes.run_id IN ({names}) and attributes.status = 'RUNNING'"
        for run in self.client.search_runs([self.pipelines], running) if attempts else ():
            parent = self.client.get_run(run.data.tags["mlflow.parentRunId"])
            if parent.data.tags["lumina.host"] == socket.gethostname():
                self._kill(run.info.run_id)
            else:
                self._kill_all(parent.info.run_id)

    def _kill_all(self, parent: str) -> None:
        child = f"attributes.status = 'RUNNING' and tags.`mlflow.parentRunId` = '{parent}'"
        for orphan in self.client.search_runs([self.pipelines], child):
            self._kill(orphan.info.run_id)
        self._kill(parent)

    def _kill(self, run: str) -> None:
        self.client.set_tag(run, "lumina.state", "killed")
        self.client.set_terminated(run, "KILLED")

    def _begin_stage(self, event: dict[str, Any]) -> None:
        stage = event["stage"]
        tags = {
            "mlflow.parentRunId": self.parent,
            "lumina.kind": event["kind"],
            "lumina.stage": stage,
            "lumina.fingerprint": event["fingerprint"],
            "lumina.run": self.run,
        }
        name, attempt = stage, event["attempt"]
        if attempt is not None:
            tags["lumina.attempt"] = str(attempt)
            name = stage if attempt == 1 else f"{stage} | attempt {attempt}"
        if event["earlier"]:
            tags["lumina.previous_attempt"] = event["earlier"][-1]
            self._close_earlier(event["earlier"])
        run = self.client.create_run(self.pipelines, start_time=event["at_ms"], tags=tags, run_name=name)
        self.stages[stage] = run.info.run_id
        self.begun[stage] = event
        self._batch(run.info.run_id, params=event["params"])
        self.learn(f"stage:{stage}", run.info.run_id)

    def _end_stage(self, event: dict[str, Any]) -> None:
        stage, manifest = event["stage"], event["manifest"]
        if stage not in self.stages:
            if event["state"] == "blocked":
                return
            # It failed before its fingerprint was known: it still deserves a run.
            blank = {"kind": stage.partition("@")[0], "fingerprint": "", "params": {}, "inputs": {}, "attempt": None}
            self._begin_stage({"stage": stage, "at_ms": event["at_ms"], "earlier": [], **blank})
        run = self.stages[stage]
        tags = {"lumina.cache": "hit" if event["state"] == "cached" else "miss", "lumina.state": event["state"]}
        metrics: list[Metric] = []
        if event["error"]:
            tags["lumina.error"] = event["error"]
        if manifest:
            at = event["at_ms"]
            tags |= {
                "lumina.digest": manifest["digest"],
                "lumina.manifest": str(_record(event)),
            }
            if manifest["accepted"]:
                words = [f"{one['reason']} ({one['who']}, {one['at']})" for one in manifest["accepted"]]
                tags |= {"lumina.accepted": "; ".join(words), "lumina.aliased_from": manifest["aliased_from"]}
            if event["state"] == "cached":
                tags["lumina.origin_run"] = manifest["mlflow"].get("run_id", "")
            summary = {"seconds": manifest["seconds"], **manifest["metrics"]}
            summary |= {f"rows/{key}": value for key, value in manifest["counts"].items()}
            metrics = [Metric(safe_name(key), float(value), at, 0) for key, value in summary.items()]
            self._datasets(run, stage, event)
        self._batch(run, metrics=metrics, tags=tags)
        if event["state"] == "done":
            self._artifacts(run, event["path"], manifest["artifacts"])
        if manifest:
            self._evaluations(event)
        self.client.set_terminated(run, _STATUS[event["state"]], event["at_ms"])

    def _datasets(self, run: str, stage: str, event: dict[str, Any]) -> None:
        datasets = [
            _dataset(source["stage"], source["digest"], "", "input", key)
            for key, source in self.begun[stage]["inputs"].items()
        ]
        datasets.append(_dataset(stage, event["manifest"]["digest"], Path(event["path"]).as_uri(), "output", "output"))
        self.client.log_inputs(run, datasets=datasets)

    def _evaluations(self, event: dict[str, Any]) -> None:
        """One flat run per evaluation: nested ones open collapsed, and their charts stay empty."""
        manifest = event["manifest"]
        if not manifest["evaluations"]:
            return
        fingerprint = manifest["fingerprint"].removeprefix("sha256:")
        known = {
            run.data.tags.get("lumina.evaluation"): run.info.run_id
            for run in self.client.search_runs([self.evals], f"tags.`lumina.fingerprint` = '{fingerprint}'")
            if run.info.status == "FINISHED"
        }
        for evaluation in manifest["evaluations"]:
            run_id = known.get(evaluation["name"]) or self._evaluation(evaluation, fingerprint, event)
            self.evaluations.append(run_id)
        self.learn("evaluations", list(self.evaluations))

    def _evaluation(self, evaluation: dict[str, Any], fingerprint: str, event: dict[str, Any]) -> str:
        params = {safe_name(key): str(value)[:6000] for key, value in evaluation["params"].items()}
        tags: dict[str, str] = {
            "lumina.kind": "evaluation",
            "lumina.evaluation": evaluation["name"],
            "lumina.stage": event["stage"],
            "lumina.fingerprint": fingerprint,
            "lumina.pipeline_run": self.parent,
            "lumina.run": self.run,
        }
        tags |= {key: params[key] for key in ("system_prompt", "source") if key in params}
        name = f"{evaluation['name']} | {fingerprint[:4]}"
        run = self.client.create_run(self.evals, start_time=event["at_ms"], tags=tags, run_name=name)
        # A common prefix makes the charts page put the metrics into one section.
        metrics = [
            Metric(safe_name(key if "/" in key else f"eval/{key}"), float(value), event["at_ms"], 0)
            for key, value in evaluation["metrics"].items()
        ]
        self._batch(run.info.run_id, metrics=metrics, params=params)
        self._artifacts(run.info.run_id, event["path"], evaluation["artifacts"])
        self.client.set_terminated(run.info.run_id, "FINISHED")
        return str(run.info.run_id)

    def _artifacts(self, run: str, out: str, names: Sequence[str]) -> None:
        for name in names:
            parent = Path(name).parent.as_posix()
            self.client.log_artifact(run, str(Path(out) / name), None if parent == "." else parent)

    def _end_run(self, event: dict[str, Any]) -> None:
        self.client.set_terminated(self.parent, event["state"], event["at_ms"])


def _record(event: dict[str, Any]) -> Path:
    """The manifest: the output of an accepted stage lies in the directory of another fingerprint."""
    fingerprint = event["manifest"]["fingerprint"].removeprefix("sha256:")
    return Path(event["path"]).parents[1] / fingerprint[:20] / "MANIFEST.json"


def _dataset(name: str, digest: str, source: str, context: str, key: str) -> DatasetInput:
    # MLflow takes at most 36 characters of digest; the full one is the producer's tag.
    source = json.dumps({"uri": source or f"lumina:{digest}"})
    dataset = Dataset(name=name, digest=digest.rpartition(":")[2][:32], source_type="lumina", source=source)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context), InputTag("lumina.key", key)])


@contextmanager
def _first_touch(uri: str) -> Iterator[None]:
    """Let one process at a time create or migrate a SQLite database: two at once break it."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    database = Path(uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f"{database.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
