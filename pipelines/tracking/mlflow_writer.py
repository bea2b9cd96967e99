"""MLflow writer: applies tracking events through the client API, each so that applying it twice does no harm.

Runs are found by their tags before they are made, points carry the time at which they were logged (MLflow keeps one of
two equal points), and the registries look before they make. So whoever cannot tell whether an event arrived applies it
again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import yaml
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from pipelines.tracking.events import (
    Artifacts,
    BeginRun,
    BeginStage,
    EndRun,
    EndStage,
    Evaluation,
    Event,
    LogPoint,
    Model,
    Prompts,
    StageEvent,
)
from pipelines.tracking.links import Found
from pipelines.tracking.mlflow_runs import EVALS, PIPELINES, MlflowRuns
from pipelines.tracking.registry import Registry
from pipelines.tracking.stage_events import flatten, safe_name
from pipelines.tracking.uri import one_line, without_password

_UNSENT = "lumina.artifacts"
"""Tag of a run whose artifacts could not be written."""
_STATUS = {"cached": "FINISHED", "done": "FINISHED", "failed": "FAILED", "blocked": "KILLED", "interrupted": "KILLED"}
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
    """Writes one pipeline run's events.

    Args:
        uri: tracking URI.
        artifacts: where experiments that this makes keep artifacts, for a local database.
        found: takes up ids as they become known.
        note: told what the user should know.

    Attributes:
        left_out: what was not written, and can be once somebody has put it right: told to the user.

    Raises:
        TrackerRefusedError: an experiment was deleted.
    """

    def __init__(
        self,
        uri: str,
        artifacts: Path,
        found: Found | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.found, self.note = found or Found(), note
        self.runs = MlflowRuns(uri, artifacts)
        self.client = self.runs.client
        self.found.pipelines, self.found.evals = self.runs.pipelines, self.runs.evals
        self.registry = Registry(self.client, uri, (self.runs.pipelines, self.runs.evals), self._send)
        self.left_out: list[str] = []
        self.run = ""

    def apply(self, events: Sequence[Event]) -> None:
        """Write one event, or several points; they may have been written before."""
        match events[0]:
            case LogPoint():
                self._log_points([event for event in events if isinstance(event, LogPoint)])
            case BeginRun() as event:
                self._begin_run(event)
            case BeginStage() as event:
                self._begin_stage(event)
            case EndStage() as event:
                self._end_stage(event)
            case Evaluation() as event:
                self._evaluate(event)
            case Artifacts() as event:
                self._upload(self.found.stages[event.stage], event)
            case Prompts() as event:
                self._mirror_prompts(event)
            case Model() as event:
                self.found.model = self.registry.model(event, self.found.stages[event.stage], self.run)
            case EndRun() as event:
                self.client.set_tag(self.found.parent, "lumina.state", event.state.lower())
                self.client.set_terminated(self.found.parent, event.state, event.at_ms)

    def is_left_out(self, event: Event) -> bool:
        """Whether an event was refused since its run was deleted: it is left out then, until somebody restores it.

        Raises:
            TrackerRefusedError: the whole experiment was deleted.
        """
        stage = self.found.stages.get(event.stage, "") if isinstance(event, StageEvent) else ""
        deleted = self.runs.deleted(sorted({stage, self.found.parent} - {""}))
        for run in deleted:
            restore = self.runs.restore("runs", run)
            self._leave_out(
                f"MLflow run {run}", f"was deleted, and what belongs to it is left out; `{restore}` brings it back"
            )
        return bool(deleted)

    def _leave_out(self, what: str, why: str) -> None:
        if what not in self.left_out:
            self.left_out.append(what)
            self.note(f"{what} {why}, and `lumina track {self.run}` adds it then")

    def is_forgotten(self) -> bool:
        """Whether MLflow no longer has the pipeline run that this has made: it came back with another database."""
        return bool(self.found.parent) and self.runs.is_gone(self.found.parent)

    def close_killed(self, at_ms: int) -> None:
        """End the run whose events break off, and its stages: its driver was killed."""
        if self.found.parent:
            self.runs.kill_all(self.found.parent, at_ms)

    def _log_points(self, events: Sequence[LogPoint]) -> None:
        for stage in dict.fromkeys(event.stage for event in events):
            points = [event.point for event in events if event.stage == stage]
            try:
                self.runs.log(
                    self.found.stages[stage],
                    [
                        Metric(safe_name(key), value, point.time_ms, point.step)
                        for point in points
                        for key, value in point.metrics.items()
                    ],
                )
            except MlflowException as error:
                # Those of other stages are none of it.
                if not is_refusal(error) or not self.is_left_out(LogPoint(stage=stage, point=points[0])):
                    raise

    def _begin_run(self, event: BeginRun) -> None:
        self.run = event.run
        self.runs.close_orphans(but=self.run)
        known = self.runs.find(self.runs.pipelines, run=self.run, kind="pipeline")
        run = known[0] if known else self.client.create_run(
            self.runs.pipelines, start_time=event.at_ms, tags=event.tags, run_name=f"{event.name} | {event.run}"
        )  # fmt: skip
        self.found.parent = run.info.run_id
        if event.config:
            self.runs.log(self.found.parent, params=flatten(event.config))
            text = yaml.safe_dump(event.config, sort_keys=False, allow_unicode=True)
            self._send(self.found.parent, lambda: self.client.log_text(self.found.parent, text, "config.yaml"))

    def _begin_stage(self, event: BeginStage) -> None:
        tags = {
            "mlflow.parentRunId": self.found.parent,
            "lumina.kind": event.kind,
            "lumina.stage": event.stage,
            "lumina.fingerprint": event.fingerprint,
            "lumina.run": self.run,
            "mlflow.source.name": "lumina run",
        }
        name = event.stage
        if event.attempt is not None:
            tags["lumina.attempt"] = str(event.attempt)
            name += f" | attempt {event.attempt}" if event.attempt > 1 else ""
        if event.earlier:
            tried = self.runs.find(self.runs.pipelines, stage=event.stage, fingerprint=event.fingerprint)
            by_run = {run.data.tags["lumina.run"]: run for run in tried}
            earlier = [by_run[run] for run in event.earlier if run in by_run]
            if earlier:
                tags["lumina.previous_attempt"] = earlier[-1].info.run_id
            self.runs.close_attempts(earlier)
        known = self.runs.find(self.runs.pipelines, run=self.run, stage=event.stage)
        run = known[0] if known else self.client.create_run(
            self.runs.pipelines, start_time=event.at_ms, tags=tags, run_name=name
        )  # fmt: skip
        run_id = self.found.stages[event.stage] = run.info.run_id
        self.runs.log(run_id, params=event.params)
        self.runs.log_datasets(run_id, event.inputs, None)

    def _end_stage(self, event: EndStage) -> None:
        if event.stage not in self.found.stages:
            if event.state == "blocked":
                return
            # It failed before its fingerprint was known: it still deserves a run.
            self._begin_stage(BeginStage(stage=event.stage, kind=event.stage.partition("@")[0], at_ms=event.at_ms))
        run, output = self.found.stages[event.stage], event.output
        tags = {"lumina.cache": "hit" if event.state == "cached" else "miss", "lumina.state": event.state}
        if event.error:
            tags["lumina.error"] = event.error
        if output:
            tags |= {"lumina.digest": output.digest, "lumina.manifest": output.manifest}
            if event.drift:
                tags["lumina.code_drift"] = event.drift
            if event.state == "cached":
                tags["lumina.origin_run"] = self._origin(event.origin, output.fingerprint)
        self.runs.log(run, [Metric(key, value, event.at_ms, 0) for key, value in event.metrics.items()], tags=tags)
        self.runs.log_datasets(run, (), output)
        self.client.set_terminated(run, _STATUS[event.state], event.at_ms)

    def _origin(self, origin: Mapping[str, str], fingerprint: str) -> str:
        """The run that computed an output; empty if this server has none.

        The manifest names it, unless MLflow was away then, or another server is asked now.
        """
        if origin.get("uri") == without_password(self.runs.uri):
            return origin["run_id"]
        found = self.runs.find(self.runs.pipelines, fingerprint=fingerprint, state="done")
        return str(found[0].info.run_id) if found else ""

    def _upload(self, run: str, event: Artifacts) -> None:
        for name in event.names:
            out = Path(event.output.path)
            path, folder = out / name, Path(name).parent.as_posix()
            if path.is_file() and path.resolve() == out.resolve() / name:
                self._send(run, partial(self.client.log_artifact, run, str(path), None if folder == "." else folder))
            else:
                self.note(f"MLflow run {run}: {path} is no longer there, so it has no artifact {name}")

    def _send(self, run: str, send: Callable[[], object]) -> None:
        """Send an artifact. Where artifacts lie is none of the tracking store: what fails there holds up nothing else.

        Raises whatever says that the tracking store itself is away.
        """
        try:
            send()
        except Exception as error:  # noqa: BLE001  (each kind of place fails in its own way)
            info = self.client.get_run(run).info
            root = info.artifact_uri.removesuffix(f"/{run}/artifacts")
            self.client.set_tag(run, _UNSENT, "missing")
            self._leave_out(
                f"artifacts of MLflow's experiment {EVALS if info.experiment_id == self.runs.evals else PIPELINES}",
                f"cannot be written to {without_password(root)} ({type(error).__name__}: {one_line(error)}), and are "
                "left out, unlike all else; let this host write there",
            )

    def _mirror_prompts(self, event: Prompts) -> None:
        for source in self.registry.prompts(event.texts):
            self.note(
                f"the system prompt of {source} has braces that MLflow shows as a template; they are literal text, and "
                "the pipeline fills in nothing"
            )
        for run in (self.found.stages[event.stage], self.found.parent):
            self.registry.link(run, event.texts)

    def _evaluate(self, event: Evaluation) -> None:
        """One flat run per evaluation: nested ones open collapsed, and their charts stay empty."""
        fingerprint, params = event.output.fingerprint, event.params
        found = self.runs.find(self.runs.evals, fingerprint=fingerprint)
        run = next((one for one in found if one.data.tags["lumina.evaluation"] == event.name), None)
        if run is None or run.info.status != "FINISHED" or _UNSENT in run.data.tags:
            tags = {
                "lumina.kind": "evaluation",
                "lumina.evaluation": event.name,
                "lumina.stage": event.stage,
                "lumina.fingerprint": fingerprint,
                "lumina.pipeline_run": self.found.parent,
                "lumina.run": self.run,
                "mlflow.source.name": "lumina run",
            }
            tags |= {key: params[key] for key in ("system_prompt", "source") if key in params}
            run = run or self.client.create_run(
                self.runs.evals, start_time=event.began_ms, tags=tags, run_name=f"{event.name} | {fingerprint[:4]}"
            )
            run_id = run.info.run_id
            metrics = [Metric(key, value, event.ended_ms, event.step) for key, value in event.metrics.items()]
            self.runs.log(run_id, metrics, params)
            self.runs.log_datasets(run_id, event.inputs, event.output)
            if _UNSENT in run.data.tags:
                self.client.delete_tag(run_id, _UNSENT)
            self._upload(run_id, event)
            self.client.set_terminated(run_id, "FINISHED", event.ended_ms)
        run_id = run.info.run_id
        self.registry.link(run_id, [params["system_prompt"]] if "system_prompt" in params else [])
        if run_id not in self.found.evaluations:
            self.found.evaluations.append(run_id)
