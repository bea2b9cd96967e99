"""MLflow writer: applies tracking events through the client API, each so that applying it twice does no harm.

Runs are found by their tags before they are made, points carry the time at which they were logged (MLflow keeps one of
two equal points), and the registries look before they make. So whoever cannot tell whether an event arrived applies it
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import DatasetInput, Metric
from mlflow.exceptions import MlflowException
from PIL import Image

from lumina.system_prompts import read_system_prompts
from pipelines.engine.stage import RegisteredModel
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.store import Store
from pipelines.engine.store.typed import is_name
from pipelines.tracking.events import (
    BeginRun,
    BeginStage,
    EndRun,
    EndStage,
    Event,
    LogImage,
    LogPoint,
    StageEvent,
)
from pipelines.tracking.images import picture
from pipelines.tracking.links import Found
from pipelines.tracking.made import Made, dataset
from pipelines.tracking.mlflow_names import flatten, image_key, safe_name
from pipelines.tracking.mlflow_runs import EVALS, PIPELINES, MlflowRuns
from pipelines.tracking.mlflow_sweeps import sweep_run
from pipelines.tracking.registry import Registry
from pipelines.tracking.uri import artifacts_of, one_line, without_password

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
        store: holds the outputs, and the artifacts of a local database.
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
        store: Store,
        found: Found | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.store, self.found, self.note = store, found or Found(), note
        self.runs = MlflowRuns(uri, artifacts_of(store))
        self.client = self.runs.client
        self.found.pipelines, self.found.evals = self.runs.pipelines, self.runs.evals
        self.registry = Registry(self.client, uri, (self.runs.pipelines, self.runs.evals), self._send)
        self.left_out: list[str] = []
        self.run = self.name = ""
        self._begun: dict[str, BeginStage] = {}
        self._made: dict[str, Made] = {}

    def parts(self, events: Sequence[Event]) -> Iterator[Callable[[], object]]:
        """What writes one event, or several points: MLflow may refuse a part of it, and each may be called again."""
        match events[0]:
            case LogPoint():
                yield partial(self._log_points, [event for event in events if isinstance(event, LogPoint)])
            case LogImage() as event:
                yield partial(self._log_image, event)
            case BeginRun() as event:
                yield partial(self._begin_run, event)
            case BeginStage() as event:
                yield partial(self._begin_stage, event)
            case EndStage() as event:
                yield partial(self._end_stage, event)
                if event.output is not None and event.stage in self._made:
                    yield from self._parts_of(self._begun[event.stage], self._made[event.stage], event.state == "done")
            case EndRun() as event:
                yield partial(self.client.set_tag, self.found.parent, "lumina.state", event.state.lower())
                yield partial(self.client.set_terminated, self.found.parent, event.state, event.at_ms)

    def _parts_of(self, begun: BeginStage, made: Made, is_new: bool) -> Iterator[Callable[[], object]]:
        if is_new and made.manifest.artifacts:
            yield partial(self._upload, self.found.stages[begun.stage], made, made.manifest.artifacts)
        if begun.system_prompts:
            yield partial(self._mirror_prompts, made, begun.system_prompts)
        if begun.model:
            yield partial(self._register, made, begun.model)
        for evaluation in made.manifest.evaluations:
            yield partial(self._evaluate, begun, made, evaluation)

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

    def _log_image(self, event: LogImage) -> None:
        fingerprint = self._begun[event.stage].fingerprint
        data = None if fingerprint is None else picture(self.store, event.stage, fingerprint, event.file)
        if data is None:
            self.note(f"{event.stage}: {event.file} is gone, so MLflow has no picture of step {event.step}")
            return
        self._send(self.found.stages[event.stage], partial(self._send_image, event, data))

    def _send_image(self, event: LogImage, data: bytes) -> None:
        run, key = self.found.stages[event.stage], image_key(event.key)
        start = f"images/{key.replace('/', '~')}+step+{event.step}+"
        # Both files of a picture: a kill may have come between them.
        if sum(one.path.startswith(start) for one in self.client.list_artifacts(run, "images")) < 2:
            with Image.open(BytesIO(data)) as image:
                self.client.log_image(run, image, key=key, step=event.step, timestamp=event.at_ms, synchronous=True)

    def _begin_run(self, event: BeginRun) -> None:
        self.run, self.name = event.run, event.name
        self.runs.close_orphans(but=self.run)
        known = self.runs.find(self.runs.pipelines, run=self.run, kind="pipeline")
        if known:
            self.found.parent = known[0].info.run_id
        else:
            name, tags = f"{event.name} | {event.run}", dict(event.tags)
            if is_name(sweep := tags.get("lumina.sweep", "")):
                parent = sweep_run(self.client, self.runs.pipelines, tags["lumina.store"], sweep)
                tags["mlflow.parentRunId"] = parent
            run = self.client.create_run(self.runs.pipelines, start_time=event.at_ms, tags=tags, run_name=name)
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
            "lumina.fingerprint": event.fingerprint or "",
            "lumina.run": self.run,
            "mlflow.source.name": "lumina run",
        }
        name = event.stage
        self._begun[name] = event
        if event.attempt is not None:
            tags["lumina.attempt"] = str(event.attempt)
            name += f" | attempt {event.attempt}" if event.attempt > 1 else ""
        if event.earlier:
            tried = self.runs.find(self.runs.pipelines, stage=event.stage, fingerprint=event.fingerprint or "")
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
        if event.inputs:
            self.client.log_inputs(run_id, datasets=self._inputs(event))

    def _end_stage(self, event: EndStage) -> None:
        if event.stage not in self.found.stages:
            if event.state == "blocked":
                return
            # It failed before its fingerprint was known: it still deserves a run.
            self._begin_stage(BeginStage(stage=event.stage, kind=event.stage.partition("@")[0], at_ms=event.at_ms))
        run, made = self.found.stages[event.stage], self._read(event)
        tags = {"lumina.cache": "hit" if event.state == "cached" else "miss", "lumina.state": event.state}
        if event.error:
            tags["lumina.error"] = event.error
        if made:
            tags |= {"lumina.digest": made.digest, "lumina.manifest": made.record}
            if event.drift:
                tags["lumina.code_drift"] = event.drift
            if event.state == "cached":
                tags["lumina.origin_run"] = self._origin(made.manifest)
        metrics = made.metrics if made else {}
        self.runs.log(run, [Metric(key, value, event.at_ms, 0) for key, value in metrics.items()], tags=tags)
        if made:
            self.client.log_inputs(run, datasets=[_as_output(made)])
        self.client.set_terminated(run, _STATUS[event.state], event.at_ms)

    def _read(self, event: EndStage) -> Made | None:
        fingerprint = self._begun[event.stage].fingerprint
        if event.output is None or fingerprint is None:
            return None
        try:
            made = self._made[event.stage] = Made.read(self.store, event.stage, fingerprint, event.output)
        except (OSError, ValueError) as error:
            self._untold(event.stage, error)
            return None
        return made

    def _untold(self, stage: str, error: Exception) -> None:
        self.note(f"MLflow is not told all of {stage}: {one_line(error)}")

    def _inputs(self, begun: BeginStage) -> list[DatasetInput]:
        """What a stage reads, each output once."""
        keys: dict[tuple[str, str], list[str]] = {}
        for key, read in begun.inputs.items():
            keys.setdefault(read, []).append(key)
        return [dataset(*read, self._made.get(read[0]), "input", ", ".join(names)) for read, names in keys.items()]

    def _origin(self, manifest: Manifest) -> str:
        """The run that computed an output; empty if this server has none.

        The manifest names it, unless MLflow was away then, or another server is asked now.
        """
        if manifest.mlflow.get("uri") == without_password(self.runs.uri):
            return manifest.mlflow["run_id"]
        found = self.runs.find(self.runs.pipelines, fingerprint=manifest.fingerprint, state="done")
        return str(found[0].info.run_id) if found else ""

    def _upload(self, run: str, made: Made, names: Sequence[str]) -> None:
        for name in names:
            folder = Path(name).parent.as_posix()
            try:
                path = made.file(name)
            except FileNotFoundError as error:
                self.note(f"MLflow run {run}: {error}, so it has no artifact {name}")
            else:
                self._send(run, partial(self.client.log_artifact, run, str(path), None if folder == "." else folder))

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

    def _mirror_prompts(self, made: Made, name: str) -> None:
        try:
            texts = {source: prompt.text for source, prompt in read_system_prompts(made.file(name)).items()}
        except (OSError, ValueError) as error:
            self._untold(made.stage, error)
            return
        for source in self.registry.prompts(texts):
            self.note(
                f"the system prompt of {source} has braces that MLflow shows as a template; they are literal text, and "
                "the pipeline fills in nothing"
            )
        for run in (self.found.stages[made.stage], self.found.parent):
            self.registry.link(run, texts)

    def _register(self, made: Made, about: RegisteredModel) -> None:
        name = f"lumina-video-{self.name}"
        self.found.model = self.registry.model(name, about, made, self.found.stages[made.stage], self.run)

    def _evaluate(self, begun: BeginStage, made: Made, evaluation: Mapping[str, Any]) -> None:
        """One flat run per evaluation: nested ones open collapsed, and their charts stay empty."""
        fingerprint, params, name = made.manifest.fingerprint, evaluation["params"], evaluation["name"]
        found = self.runs.find(self.runs.evals, fingerprint=fingerprint)
        run = next((one for one in found if one.data.tags["lumina.evaluation"] == name), None)
        if run is None or run.info.status != "FINISHED" or _UNSENT in run.data.tags:
            began_ms, ended_ms = made.times_ms
            tags = {
                "lumina.kind": "evaluation",
                "lumina.evaluation": name,
                "lumina.stage": made.stage,
                "lumina.fingerprint": fingerprint,
                "lumina.pipeline_run": self.found.parent,
                "lumina.run": self.run,
                "mlflow.source.name": "lumina run",
            }
            tags |= {key: str(params[key]) for key in ("system_prompt", "source") if key in params}
            run = run or self.client.create_run(
                self.runs.evals, start_time=began_ms, tags=tags, run_name=f"{name} | {fingerprint[:4]}"
            )
            run_id, trained = run.info.run_id, str(params.get("train_stage"))
            # A common prefix makes the charts page put the metrics into one section.
            values = {key if "/" in key else f"eval/{key}": value for key, value in evaluation["metrics"].items()}
            step = self._steps(trained)
            metrics = [Metric(safe_name(key), value, ended_ms, step) for key, value in values.items()]
            self.runs.log(run_id, metrics, flatten({**params, **self._subset(trained, params)}))
            self.client.log_inputs(run_id, datasets=[*self._inputs(begun), _as_output(made)])
            if _UNSENT in run.data.tags:
                self.client.delete_tag(run_id, _UNSENT)
            self._upload(run_id, made, evaluation["artifacts"])
            self.client.set_terminated(run_id, "FINISHED", ended_ms)
        run_id = run.info.run_id
        self.registry.link(run_id, [params["system_prompt"]] if "system_prompt" in params else [])
        # Arms of a study are compared with each other, and not with the system prompts.
        if "study" not in params:
            self.found.evaluations[run_id] = (made.stage, name)
        if len(evaluation["artifacts"]) > 1:
            self.found.shown = run_id

    def _subset(self, trained: str, params: Mapping[str, Any]) -> dict[str, int]:
        """How many of the evaluated subset's clips the model was trained on, where the training stage says so."""
        made = self._made.get(trained)
        rows = made.manifest.metrics.get(f"train/clips/{params.get('system_prompt')}") if made else None
        return {} if rows is None else {"subset_rows": int(rows)}

    def _steps(self, trained: str) -> int:
        """Optimizer steps up to the end of a training stage, those of the stages that it starts from included."""
        begun = self._begun.get(trained)
        if begun is None:
            return 0
        before, _ = begun.inputs.get("init", ("", ""))
        return int(begun.params.get("steps", 0)) + self._steps(before)


def _as_output(made: Made) -> DatasetInput:
    return dataset(made.stage, made.digest, made, "output", "output")
