"""Applies tracking events to MLflow through the client API, each so that applying it twice does no harm.

Runs are found by their tags before they are made, points carry the time at which they were logged (MLflow keeps one of
two equal points), and the registries look before they make. So whoever cannot tell whether an event arrived applies it
again.
"""

from __future__ import annotations

import logging
import os
import shlex
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# It would print the address of each run that ends, with the password that may be in it.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Events wait in a journal, and are tried again from there: MLflow's own patience of minutes would only hide an outage.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from pipelines.engine.store.lease import is_here, process_start, this_machine
from pipelines.tracking.datasets import dataset_input
from pipelines.tracking.mlflow_client import TrackerRefusedError, first_touch
from pipelines.tracking.records import flatten, safe_name
from pipelines.tracking.registry import Registry
from pipelines.tracking.uri import one_line, without_password

PIPELINES = "lumina-video/pipelines"
EVALS = "lumina-video/evals"
_UNSENT = "lumina.artifacts"
"""Tag of a run whose artifacts could not be written."""
_STATUS = {"cached": "FINISHED", "done": "FINISHED", "failed": "FAILED", "blocked": "KILLED", "interrupted": "KILLED"}
_PARAMS_PER_CALL, _METRICS_PER_CALL, _TAG_CHARS = 100, 1000, 5000
_REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "BAD_REQUEST",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
}


def is_refusal(error: Exception) -> bool:
    """Whether an event failed for what it is, so that trying again is of no use; else MLflow seems to be away."""
    if isinstance(error, MlflowException):
        return error.error_code in _REFUSALS
    # An answer that is not MLflow's, such as a proxy's page, is an error of both kinds.
    return isinstance(error, KeyError | TypeError | ValueError | AttributeError) and not isinstance(error, OSError)


class MlflowWriter:
    """One pipeline run's records.

    Args:
        uri: tracking URI.
        artifacts: where experiments that this makes keep artifacts, for a local database.
        learn: told ids as they become known, under the keys `parent`, `stage:<name>`, `evaluations`, `model`
            (name and version), `pipelines_experiment` and `evals_experiment`.
        note: told what the user should know.

    Attributes:
        left_out: what was not written, and can be once somebody has put it right: told to the user, by its name.

    Raises:
        TrackerRefusedError: an experiment was deleted.
    """

    def __init__(
        self,
        uri: str,
        artifacts: Path,
        learn: Callable[[str, Any], None] = lambda key, value: None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.uri, self.learn, self.note = uri, learn, note
        with first_touch(uri):
            self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            self.pipelines = self._experiment(PIPELINES, uri, artifacts)
            self.evals = self._experiment(EVALS, uri, artifacts)
        self._names = {self.pipelines: PIPELINES, self.evals: EVALS}
        learn("pipelines_experiment", self.pipelines)
        learn("evals_experiment", self.evals)
        self.registry = Registry(self.client, uri, (self.pipelines, self.evals), self._artifact)
        self.left_out: dict[str, str] = {}
        self.parent = ""
        self.run = ""
        self.stages: dict[str, str] = {}
        self.evaluations: list[str] = []

    def _experiment(self, name: str, uri: str, artifacts: Path) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            self._check_active(found)
            return str(found.experiment_id)
        location = (artifacts / name.rpartition("/")[2]).as_uri() if uri.startswith("sqlite:") else None
        return str(self.client.create_experiment(name, artifact_location=location))

    def apply(self, events: Sequence[dict[str, Any]]) -> None:
        """Write one event, or several points; they may have been written before."""
        if events[0]["event"] == "point":
            self._points(events)
        else:
            [event] = events
            getattr(self, f"_{event['event']}")(event)

    def explain(self, event: Mapping[str, Any]) -> bool:
        """Whether an event was refused since its run was deleted: it is left out then, until somebody restores it.

        Raises:
            TrackerRefusedError: the whole experiment was deleted.
        """
        for experiment in (self.pipelines, self.evals):
            self._check_active(self.client.get_experiment(experiment))
        runs = {self.stages.get(event.get("stage", ""), ""), self.parent} - {""}
        deleted = [run for run in sorted(runs) if self.client.get_run(run).info.lifecycle_stage == "deleted"]
        for run in deleted:
            self._leave_out(
                f"MLflow run {run}",
                f"was deleted, and what belongs to it is left out; `{self._restore('runs', run)}` brings it back",
            )
        return bool(deleted)

    def _check_active(self, experiment: Experiment) -> None:
        if experiment.lifecycle_stage == "deleted":
            restore = self._restore("experiments", experiment.experiment_id)
            raise TrackerRefusedError(f"experiment {experiment.name} was deleted; `{restore}` brings it back")

    def _restore(self, kind: str, number: str) -> str:
        option = f"--{kind.removesuffix('s')}-id"
        return f"MLFLOW_TRACKING_URI={shlex.quote(without_password(self.uri))} mlflow {kind} restore {option} {number}"

    def _leave_out(self, what: str, why: str) -> None:
        if what not in self.left_out:
            self.left_out[what] = why
            self.note(f"{what} {why}, and `lumina track {self.run}` adds it then")

    def is_forgotten(self) -> bool:
        """Whether MLflow no longer has the pipeline run that this has made: it came back with another database."""
        if not self.parent:
            return False
        try:
            self.client.get_run(self.parent)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return True
        return False

    def close_killed(self, at_ms: int) -> None:
        """End the run whose events break off, and its stages: its driver was killed."""
        if self.parent:
            self._kill_all(self.parent, at_ms)

    def _points(self, points: Sequence[dict[str, Any]]) -> None:
        by_stage: dict[str, list[Metric]] = {}
        for point in points:
            by_stage.setdefault(point["stage"], []).extend(
                Metric(safe_name(key), value, point["time_ms"], point["step"])
                for key, value in point["metrics"].items()
            )
        for stage, metrics in by_stage.items():
            try:
                self._batch(self.stages[stage], metrics=metrics)
            except MlflowException as error:
                # Those of other stages are none of it.
                if not is_refusal(error) or not self.explain({"stage": stage}):
                    raise

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

    def _find(self, experiment: str, **tags: str) -> list[Run]:
        """Runs with these tags, the newest first; keys without their `lumina.`."""
        wanted = " and ".join(f"tags.`lumina.{key}` = '{value}'" for key, value in tags.items())
        return list(self.client.search_runs([experiment], wanted))

    def _begin_run(self, event: dict[str, Any]) -> None:
        self.run = event["run"]
        self._close_orphans()
        known = self._find(self.pipelines, run=self.run, kind="pipeline")
        run = known[0] if known else self.client.create_run(
            self.pipelines, start_time=event["at_ms"], tags=event["tags"], run_name=f"{event['name']} | {event['run']}"
        )  # fmt: skip
        self.parent = run.info.run_id
        self.learn("parent", self.parent)
        if event["config"]:
            self._batch(self.parent, params=flatten(event["config"]))
            text = yaml.safe_dump(event["config"], sort_keys=False, allow_unicode=True)
            self._artifact(self.parent, lambda: self.client.log_text(self.parent, text, "config.yaml"))

    def _close_orphans(self) -> None:
        """Mark the runs of killed drivers of this host as killed: nobody else will."""
        running = "attributes.status = 'RUNNING'"
        host = f"tags.`lumina.host` = '{socket.gethostname()}'"
        for run in self.client.search_runs([self.pipelines], f"{running} and {host}"):
            tags = run.data.tags
            if tags.get("lumina.machine") != this_machine():
                continue  # a container of the same name: its pids are others
            alive = process_start(int(tags["lumina.pid"])) == tags["lumina.process_start"]
            # This one may be what a killed driver left to be written, which knows better how it ended.
            if alive or tags["lumina.run"] == self.run:
                continue
            self._kill_all(run.info.run_id)

    def _close_earlier(self, attempts: Sequence[Run]) -> None:
        """Mark earlier attempts that still seem to run as killed: whoever begins one holds the lease of the stage.

        A driver that lost its lease on another host is most likely dead, and its runs are marked, too. Should it live,
        they take their true state when they end.
        """
        for run in attempts:
            if run.info.status != "RUNNING":
                continue
            parent = self.client.get_run(run.data.tags["mlflow.parentRunId"])
            deleted = parent.info.lifecycle_stage == "deleted"
            tags = parent.data.tags
            if deleted or is_here(tags["lumina.host"], tags.get("lumina.machine", "")):
                self._kill(run.info.run_id)
            else:
                self._kill_all(parent.info.run_id)

    def _kill_all(self, parent: str, at_ms: int | None = None) -> None:
        child = f"attributes.status = 'RUNNING' and tags.`mlflow.parentRunId` = '{parent}'"
        for orphan in self.client.search_runs([self.pipelines], child):
            self._kill(orphan.info.run_id, at_ms)
        self._kill(parent, at_ms)

    def _kill(self, run: str, at_ms: int | None = None) -> None:
        self.client.set_tag(run, "lumina.state", "killed")
        self.client.set_terminated(run, "KILLED", at_ms)

    def _begin_stage(self, event: dict[str, Any]) -> None:
        stage = event["stage"]
        tags = {
            "mlflow.parentRunId": self.parent,
            "lumina.kind": event["kind"],
            "lumina.stage": stage,
            "lumina.fingerprint": event["fingerprint"],
            "lumina.run": self.run,
            "mlflow.source.name": "lumina run",
        }
        name, attempt = stage, event["attempt"]
        if attempt is not None:
            tags["lumina.attempt"] = str(attempt)
            name = stage if attempt == 1 else f"{stage} | attempt {attempt}"
        if event["earlier"]:
            tried = self._find(self.pipelines, stage=stage, fingerprint=event["fingerprint"])
            by_run = {run.data.tags["lumina.run"]: run for run in tried}
            earlier = [by_run[run] for run in event["earlier"] if run in by_run]
            if earlier:
                tags["lumina.previous_attempt"] = earlier[-1].info.run_id
            self._close_earlier(earlier)
        known = self._find(self.pipelines, run=self.run, stage=stage)
        run = known[0] if known else self.client.create_run(
            self.pipelines, start_time=event["at_ms"], tags=tags, run_name=name
        )  # fmt: skip
        run_id = self.stages[stage] = run.info.run_id
        self._batch(run_id, params=event["params"])
        self._datasets(run_id, event)
        self.learn(f"stage:{stage}", run_id)

    def _end_stage(self, event: dict[str, Any]) -> None:
        stage, manifest = event["stage"], event["manifest"]
        if stage not in self.stages:
            if event["state"] == "blocked":
                return
            # It failed before its fingerprint was known: it still deserves a run.
            blank = {"kind": stage.partition("@")[0], "fingerprint": "", "params": {}, "inputs": [], "attempt": None}
            self._begin_stage({"stage": stage, "at_ms": event["at_ms"], "earlier": [], **blank})
        run = self.stages[stage]
        tags = {"lumina.cache": "hit" if event["state"] == "cached" else "miss", "lumina.state": event["state"]}
        metrics: list[Metric] = []
        if event["error"]:
            tags["lumina.error"] = event["error"]
        if manifest:
            tags |= {"lumina.digest": manifest["digest"], "lumina.manifest": event["manifest_path"]}
            if manifest.get("drift"):
                tags["lumina.code_drift"] = manifest["drift"]
            if event["state"] == "cached":
                tags["lumina.origin_run"] = self._origin(manifest)
            metrics = [Metric(key, value, event["at_ms"], 0) for key, value in manifest["metrics"].items()]
            self._datasets(run, event)
        self._batch(run, metrics=metrics, tags=tags)
        self.client.set_terminated(run, _STATUS[event["state"]], event["at_ms"])

    def _datasets(self, run: str, event: dict[str, Any]) -> None:
        datasets = [dataset_input(one, "input", ", ".join(one["keys"])) for one in event.get("inputs", ())]
        if "output" in event:
            datasets.append(dataset_input(event["output"], "output", "output"))
        if datasets:
            self.client.log_inputs(run, datasets=datasets)

    def _origin(self, manifest: dict[str, Any]) -> str:
        """The run that computed an output; empty if this server has none.

        The manifest names it, unless MLflow was away then, or another server is asked now.
        """
        if manifest["origin"].get("uri") == without_password(self.uri):
            return str(manifest["origin"]["run_id"])
        found = self._find(self.pipelines, fingerprint=manifest["fingerprint"], state="done")
        return found[0].info.run_id if found else ""

    def _artifacts(self, event: dict[str, Any]) -> None:
        self._upload(self.stages[event["stage"]], event)

    def _upload(self, run: str, event: dict[str, Any]) -> None:
        for name in event["names"]:
            path = Path(event["path"]) / name
            parent = Path(name).parent.as_posix()
            if path.is_file() and path.resolve() == Path(event["path"]).resolve() / name:
                folder = None if parent == "." else parent
                self._artifact(run, partial(self.client.log_artifact, run, str(path), folder))
            else:
                self.note(f"MLflow run {run}: {path} is no longer there, so it has no artifact {name}")

    def _artifact(self, run: str, send: Callable[[], object]) -> None:
        """Send an artifact. Where artifacts lie is none of the tracking store: what fails there holds up nothing else.

        Raises whatever says that the tracking store itself is away.
        """
        try:
            send()
        except Exception as error:  # noqa: BLE001  (each kind of place fails in its own way)
            found = self.client.get_run(run)
            root = found.info.artifact_uri.removesuffix(f"/{run}/artifacts")
            self.client.set_tag(run, _UNSENT, "missing")
            self._leave_out(
                f"artifacts of MLflow's experiment {self._names[found.info.experiment_id]}",
                f"cannot be written to {without_password(root)} ({type(error).__name__}: {one_line(error)}), and are "
                "left out, unlike all else; let this host write there",
            )

    def _prompts(self, event: dict[str, Any]) -> None:
        for source in self.registry.prompts(event["texts"]):
            self.note(
                f"the system prompt of {source} has braces that MLflow shows as a template; they are literal text, and "
                "the pipeline fills in nothing"
            )
        for run in (self.stages[event["stage"]], self.parent):
            self.registry.link(run, event["texts"])

    def _model(self, event: dict[str, Any]) -> None:
        self.learn("model", self.registry.model(event, self.stages[event["stage"]], self.run))

    def _evaluation(self, event: dict[str, Any]) -> None:
        """One flat run per evaluation: nested ones open collapsed, and their charts stay empty."""
        name, fingerprint, params = event["name"], event["fingerprint"], event["params"]
        known = {run.data.tags["lumina.evaluation"]: run for run in self._find(self.evals, fingerprint=fingerprint)}
        whole = name in known and _UNSENT not in known[name].data.tags
        if whole and known[name].info.status == "FINISHED":
            run_id = known[name].info.run_id
        else:
            tags = {
                "lumina.kind": "evaluation",
                "lumina.evaluation": name,
                "lumina.stage": event["stage"],
                "lumina.fingerprint": fingerprint,
                "lumina.pipeline_run": self.parent,
                "lumina.run": self.run,
                "mlflow.source.name": "lumina run",
            }
            tags |= {key: params[key] for key in ("system_prompt", "source") if key in params}
            run = known.get(name) or self.client.create_run(
                self.evals, start_time=event["began_ms"], tags=tags, run_name=f"{name} | {fingerprint[:4]}"
            )
            run_id = run.info.run_id
            metrics = [Metric(key, value, event["ended_ms"], event["step"]) for key, value in event["metrics"].items()]
            self._batch(run_id, metrics=metrics, params=params)
            self._datasets(run_id, event)
            if _UNSENT in run.data.tags:
                self.client.delete_tag(run_id, _UNSENT)
            self._upload(run_id, event)
            self.client.set_terminated(run_id, "FINISHED", event["ended_ms"])
        self.registry.link(run_id, [params["system_prompt"]] if "system_prompt" in params else [])
        if run_id not in self.evaluations:
            self.evaluations.append(run_id)
        self.learn("evaluations", list(self.evaluations))

    def _end_run(self, event: dict[str, Any]) -> None:
        self.client.set_tag(self.parent, "lumina.state", event["state"].lower())
        self.client.set_terminated(self.parent, event["state"], event["at_ms"])
