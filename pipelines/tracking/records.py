"""What a run tells MLflow, as plain data: one event per thing that happens, each whole in itself.

An event can be written to a file and applied later, by another process and to another server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from lumina.system_prompts import read_system_prompts
from pipelines.engine.events import StageOutcome
from pipelines.engine.stage import Execution, Stage
from pipelines.engine.store.manifest import Manifest

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


class Records:
    """Makes the events of one pipeline run; remembers its stages, since later ones are told by what they read.

    Args:
        name: name of the pipeline run; its checkpoints are versions of the registered model `lumina-video-<name>`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._stages: dict[str, Stage] = {}
        self._manifests: dict[str, Manifest] = {}
        self._inputs: dict[str, list[dict[str, Any]]] = {}
        self._outputs: dict[str, dict[str, Any]] = {}

    def begin(self, stage: Stage, fingerprint: str, inputs: Mapping[str, str]) -> dict[str, Any]:
        """Fields of `begin_stage`; `inputs` is input key -> digest."""
        self._stages[stage.name] = stage
        read: dict[str, dict[str, Any]] = {}
        for key, digest in inputs.items():
            upstream = stage.inputs[key]
            known = self._outputs.get(upstream, {"name": upstream, "digest": digest, "uri": "", "profile": {}})
            read.setdefault(upstream, {**known, "keys": []})["keys"].append(key)
        self._inputs[stage.name] = list(read.values())
        return {
            "stage": stage.name,
            "kind": stage.kind,
            "fingerprint": fingerprint,
            "params": {**flatten(stage.config.model_dump(mode="json")), **flatten(dict(stage.weights), "weights.")},
            "inputs": self._inputs[stage.name],
        }

    def end(self, stage: str, outcome: StageOutcome) -> Iterator[tuple[str, dict[str, Any]]]:
        """Events of a stage's end, by kind: `end_stage` first, then what it made.

        One each, so that MLflow can take the others where it refuses one.

        Raises:
            OSError, ValueError: an output is not what its stage should have left.
        """
        fields = {"stage": stage, "state": outcome.state, "error": outcome.error}
        manifest = outcome.manifest
        if manifest is None or outcome.path is None:
            yield "end_stage", {**fields, "manifest": None}
            return
        self._manifests[stage] = manifest
        output = {
            "name": stage,
            "digest": manifest.digest,
            "uri": outcome.path.as_uri(),
            "profile": {"digest": manifest.digest, "kind": manifest.kind, **manifest.counts},
        }
        self._outputs[stage] = output
        place = {
            "path": str(outcome.path),
            "uri": output["uri"],
            "manifest_path": _manifest_path(outcome.path, manifest),
        }
        summary = {"seconds": manifest.seconds, **manifest.metrics}
        summary |= {f"rows/{key}": value for key, value in manifest.counts.items()}
        if manifest.taken:
            summary["rows/taken"] = sum(manifest.taken.values())
        told = {
            "digest": manifest.digest,
            "fingerprint": manifest.fingerprint,
            "origin": dict(manifest.mlflow),
            "drift": outcome.drift,
            "metrics": {safe_name(key): float(value) for key, value in summary.items()},
        }
        yield "end_stage", {**fields, "manifest": told, "output": output, **place}
        if outcome.state == "done" and manifest.artifacts:
            yield "artifacts", {"stage": stage, "names": list(manifest.artifacts), **place}
        declared = self._stages[stage].execution if stage in self._stages else Execution()
        if declared.system_prompts:
            found = read_system_prompts(outcome.path / declared.system_prompts)
            yield "prompts", {"stage": stage, "texts": {name: one.text for name, one in found.items()}}
        if declared.model is not None:
            model = {"name": f"lumina-video-{self.name}", **asdict(declared.model)}
            yield "model", {"stage": stage, "model": model, "manifest": told, **place}
        for evaluation in manifest.evaluations:
            began = int(datetime.fromisoformat(manifest.started).timestamp() * 1000)
            params = {**evaluation["params"], **self._subset(evaluation["params"])}
            yield (
                "evaluation",
                {
                    "stage": stage,
                    "name": evaluation["name"],
                    "fingerprint": told["fingerprint"],
                    "params": {safe_name(key): str(value)[:_PARAM_CHARS] for key, value in params.items()},
                    # A common prefix makes the charts page put the metrics into one section.
                    "metrics": {
                        safe_name(key if "/" in key else f"eval/{key}"): float(value)
                        for key, value in evaluation["metrics"].items()
                    },
                    "step": self._steps(evaluation["params"].get("train_stage")),
                    "names": list(evaluation["artifacts"]),
                    "inputs": self._inputs.get(stage, []),
                    "output": output,
                    # Those of the work, not of its being told, which may be much later.
                    "began_ms": began,
                    "ended_ms": began + int(manifest.seconds * 1000),
                    **place,
                },
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


def _manifest_path(output: Path, manifest: Manifest) -> str:
    return str(output.parent / "MANIFEST.json")
