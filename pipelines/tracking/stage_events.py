"""Tracking events of stages: parameters, datasets, metrics, prompts, models and evaluations out of their manifests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from lumina.system_prompts import read_system_prompts
from pipelines.engine.events import StageOutcome
from pipelines.engine.stage import Stage
from pipelines.engine.store.manifest import Manifest
from pipelines.tracking.attempts import Attempts
from pipelines.tracking.events import (
    Artifacts,
    BeginStage,
    EndStage,
    Evaluation,
    Event,
    Inputs,
    Model,
    Output,
    Prompts,
)

_NOT_A_NAME = re.compile(r"[^\w/ :.\-]")
_PARAM_CHARS = 6000


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mapping -> dotted parameter names that MLflow accepts, values as text of at most 6000 characters."""
    flat: dict[str, str] = {}
    for key, child in value.items():
        name = f"{prefix}{key}"
        if isinstance(child, Mapping):
            flat |= flatten(child, f"{name}.")
        else:
            text = child if isinstance(child, str) else json.dumps(child, ensure_ascii=False)
            flat[safe_name(name)] = text if len(text) <= _PARAM_CHARS else f"{text[: _PARAM_CHARS - 1]}…"
    return flat


def safe_name(name: str) -> str:
    """A parameter or metric name that MLflow accepts."""
    return _NOT_A_NAME.sub("_", name)


class StageEvents:
    """Makes the events of one pipeline run's stages; remembers them, since later ones are told by what they read.

    Args:
        name: name of the pipeline run; its checkpoints are versions of the registered model `lumina-video-<name>`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._stages: dict[str, Stage] = {}
        self._manifests: dict[str, Manifest] = {}
        self._inputs: dict[str, Inputs] = {}
        self._outputs: dict[str, Output] = {}

    def begin(self, stage: Stage, fingerprint: str, inputs: Mapping[str, str], attempts: Attempts | None) -> BeginStage:
        """A stage that begins; `inputs` is input key -> digest."""
        self._stages[stage.name] = stage
        keys: dict[str, list[str]] = {}
        for key in inputs:
            keys.setdefault(stage.inputs[key], []).append(key)
        read = self._inputs[stage.name] = tuple(
            (self._outputs.get(upstream) or Output(upstream, inputs[found[-1]]), ", ".join(found))
            for upstream, found in keys.items()
        )
        return BeginStage(
            stage=stage.name,
            kind=stage.kind,
            fingerprint=fingerprint,
            params={**flatten(stage.config.model_dump(mode="json")), **flatten(dict(stage.weights), "weights.")},
            inputs=read,
            attempt=attempts.number if attempts else None,
            earlier=tuple(attempts.earlier) if attempts else (),
        )

    def end(self, name: str, outcome: StageOutcome) -> Iterator[Event]:
        """A stage's end first, then what it made, in events of their own: MLflow may refuse one of them.

        Raises:
            OSError, ValueError: an output is not what its stage should have left.
        """
        manifest, path = outcome.manifest, outcome.path
        if manifest is None or path is None:
            yield EndStage(stage=name, state=outcome.state, error=outcome.error)
            return
        execution = self._stages[name].execution
        profile = {"digest": manifest.digest, "kind": manifest.kind, **manifest.counts}
        output = Output(name, manifest.digest, manifest.fingerprint, str(path), profile)
        self._manifests[name], self._outputs[name] = manifest, output
        metrics = {"seconds": manifest.seconds, **manifest.metrics}
        metrics |= {f"rows/{key}": value for key, value in manifest.counts.items()}
        if manifest.taken:
            metrics["rows/taken"] = sum(manifest.taken.values())
        yield EndStage(
            stage=name,
            state=outcome.state,
            error=outcome.error,
            output=output,
            origin=manifest.mlflow,
            drift=outcome.drift,
            metrics={safe_name(key): value for key, value in metrics.items()},
        )
        if outcome.state == "done" and manifest.artifacts:
            yield Artifacts(stage=name, output=output, names=manifest.artifacts)
        if execution.system_prompts:
            prompts = read_system_prompts(path / execution.system_prompts)
            yield Prompts(stage=name, texts={source: prompt.text for source, prompt in prompts.items()})
        if execution.model is not None:
            registered = {"name": f"lumina-video-{self.name}", **asdict(execution.model)}
            yield Model(stage=name, output=output, **registered)
        began_ms = int(datetime.fromisoformat(manifest.started).timestamp() * 1000) if manifest.evaluations else 0
        for evaluation in manifest.evaluations:
            params = {**evaluation["params"], **self._subset(evaluation["params"])}
            yield Evaluation(
                stage=name,
                output=output,
                names=evaluation["artifacts"],
                name=evaluation["name"],
                params={safe_name(key): str(value)[:_PARAM_CHARS] for key, value in params.items()},
                # A common prefix makes the charts page put the metrics into one section.
                metrics={
                    safe_name(key if "/" in key else f"eval/{key}"): value
                    for key, value in evaluation["metrics"].items()
                },
                step=self._steps(evaluation["params"].get("train_stage")),
                began_ms=began_ms,
                ended_ms=began_ms + int(manifest.seconds * 1000),
                inputs=self._inputs[name],
            )

    def _subset(self, params: Mapping[str, Any]) -> dict[str, int]:
        """How many of the evaluated subset's clips the model was trained on, where the training stage says so."""
        trained = self._manifests.get(str(params.get("train_stage")))
        rows = trained.metrics.get(f"train/clips/{params.get('system_prompt')}") if trained else None
        return {} if rows is None else {"subset_rows": int(rows)}

    def _steps(self, stage: object) -> int:
        """Optimizer steps up to the end of a training stage, those of the stages that it starts from included."""
        declared = self._stages.get(str(stage))
        if declared is None:
            return 0
        return int(getattr(declared.config, "steps", 0)) + self._steps(declared.inputs.get("init"))
