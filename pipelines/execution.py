"""Execution of stages by jobs: gives the engine's calls to the function that a stage names."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.context import EarlierOutput, InputRef, JobContext, JobResult
from jobs.ray_faults import explained
from jobs.runtime import RuntimeConfig
from pipelines.engine.call import Call
from pipelines.errors import StageError


@dataclass(frozen=True)
class JobExecutor:
    """Calls a stage's job; see `pipelines.engine.call.Executor`."""

    runtime: RuntimeConfig
    _importing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The section `runtime`."""
        settings: dict[str, Any] = self.runtime.model_dump(mode="json")
        return settings

    def __call__(self, call: Call) -> JobResult:
        """Compute a stage.

        Raises:
            StageError: the job gives back something else than a `JobResult`.
        """
        stage = call.stage
        context = JobContext(
            stage=stage.name,
            fingerprint=call.fingerprint,
            operator=stage.operator,
            config=stage.config,
            runtime=self.runtime,
            inputs={key: InputRef(one.stage, one.path, one.digest) for key, one in call.inputs.items()},
            weights=call.weights,
            media_root=call.media_root,
            out=call.out,
            work=call.work,
            progress=call.progress,
            log_metrics=call.log_metrics,
            files={**stage.files, **stage.execution.locations},
            aside=stage.execution.aside,
            log_image=call.log_image,
            earlier=tuple(EarlierOutput(one.fingerprint, one.fetch) for one in call.candidates),
        )
        job = self._job(stage.entry)
        with explained(stage.entry, self.runtime):
            result = job(context)
        if not isinstance(result, JobResult):
            raise StageError(f"stage {stage.name}: the job returned a {type(result).__name__} instead of a JobResult")
        return result

    def _job(self, entry: str) -> Callable[[JobContext], JobResult]:
        module, _, name = entry.partition(":")
        # CPython 3.11 deadlocks where two threads import modules that import each other.
        with self._importing:
            job: Callable[[JobContext], JobResult] = getattr(importlib.import_module(module), name)
        return job
