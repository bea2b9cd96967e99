"""Runs a pipeline: ready stages side by side, each computed once, and nothing that is already in the store."""

from __future__ import annotations

import os
import platform
import queue
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pipelines.engine.call import Call, Executor, Input, check_result
from pipelines.engine.cluster_start import ClusterStart
from pipelines.engine.code_drift import DriftPolicy, differs
from pipelines.engine.events import Display, Interrupted, NoDisplay, NoTracking, RunSummary, StageOutcome, Tracking
from pipelines.engine.fingerprint import Identified, Identifier
from pipelines.engine.plan import digest_cache, explain
from pipelines.engine.reuse_candidates import reuse_candidates
from pipelines.engine.signals import Stopped, StopSignal
from pipelines.engine.stage import Pipeline, Stage
from pipelines.engine.stage_slots import Turns
from pipelines.engine.store.attempt import Attempt, list_files
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.store import Store
from pipelines.engine.store.store_lock import in_use
from pipelines.errors import LeaseLostError, StoreError, failure
from pipelines.git import git_state


def new_run_id() -> str:
    """Sortable by time and unique: `20261121-101500-3fa2`."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"


def run(
    pipeline: Pipeline,
    store: Store,
    execute: Executor,
    *,
    name: str | None = None,
    run_id: str | None = None,
    tracking: Tracking | None = None,
    display: Display | None = None,
    start_cluster: Callable[[], None] | None = None,
    max_parallel: int = 2,
    min_free_gb: float = 0.0,
    identifier: Identifier | None = None,
    until: str | None = None,
    drift: DriftPolicy | None = None,
    lock: Mapping[str, Any] | None = None,
    halt: threading.Event | None = None,
) -> RunSummary:
    """Bring every stage of the pipeline into the store.

    Args:
        pipeline: what depends on what.
        store: where outputs are found and put.
        execute: computes a stage.
        name: what `latest/<name>` will point from; the pipeline's name by default.
        run_id: see `new_run_id`.
        tracking: told of every stage.
        display: shown every stage.
        start_cluster: called once, on the calling thread, before the first stage that uses the cluster executes.
            The calling thread outlives all stages, and the system ends local Ray processes with the thread that
            started them.
        max_parallel: stages that execute at the same time.
        min_free_gb: free space that the store must have, in GB.
        identifier: computes fingerprints; tests give their own first-party packages.
        until: stop after this stage and what it needs.
        drift: what becomes of outputs from which nothing but code differs; by default they are computed again.
        lock: what is kept in the run's record to compute it again; see `pipelines.run_lock`.
        halt: once set, the run stops as SIGTERM stops it.

    Raises:
        StoreError: the store cannot be used; nothing was started.
        PipelineError: `until` or `drift` names no stage.
        Interrupted: SIGINT or SIGTERM arrived, or `halt` was set.

    A failing stage blocks those that need it; the others go on, and the summary tells.
    """
    drift = drift or DriftPolicy()
    drift.check(pipeline)
    pipeline = pipeline.until(until)
    store.prepare(min_free_gb)
    identifier = identifier or Identifier(cache=digest_cache(store))
    # CPython 3.11 cannot build syntax trees in two threads at a time: all code is read before the first stage starts.
    for stage in pipeline.stages:
        identifier.base(stage)
    git_state()  # Asked before anything runs: what is edited or committed from here on is none of it.
    prepared = _Run(
        pipeline=pipeline,
        store=store,
        execute=execute,
        name=name or pipeline.name,
        run_id=run_id or new_run_id(),
        tracking=tracking or NoTracking(),
        display=display or NoDisplay(),
        start_cluster=start_cluster,
        max_parallel=max_parallel,
        identifier=identifier,
        until=until,
        drift=drift,
        lock=lock,
        halt=halt or threading.Event(),
    )
    with in_use(store.root, prepared.display.note):
        return prepared.bring_up()


@dataclass
class _Run:
    """One run: what `run` was given, and how far it is."""

    pipeline: Pipeline
    store: Store
    execute: Executor
    name: str
    run_id: str
    tracking: Tracking
    display: Display
    start_cluster: Callable[[], None] | None
    max_parallel: int
    identifier: Identifier
    until: str | None
    drift: DriftPolicy
    lock: Mapping[str, Any] | None
    halt: threading.Event

    def __post_init__(self) -> None:
        self.started = time.time()
        self.outcomes: dict[str, StageOutcome] = {}
        self.stop = StopSignal()
        self.turns = Turns(self.store, self.display, self.stop, self.max_parallel)
        # What stage threads tell the calling thread: ("ended", outcome), or ask of it: ("call", function).
        self.requests: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.cluster = ClusterStart(
            self.start_cluster,
            any(stage.execution.uses_cluster for stage in self.pipeline.stages),
            lambda function: self.requests.put(("call", function)),
            self.display,
            self.stop,
        )

    def bring_up(self) -> RunSummary:
        finished = threading.Event()
        threading.Thread(target=self.turns.beat, args=(finished,), name="lease-heartbeat", daemon=True).start()
        launched: set[str] = set()
        with self.stop.listening():
            try:
                while len(self.outcomes) < len(self.pipeline.stages):
                    self._launch_ready(launched)
                    self._serve()
                    if self.halt.is_set():
                        self.stop.requested = True
                    if self.stop.requested:
                        self._interrupt(launched)
                    if lost := self.turns.lost():
                        self._yield_to_other(launched, *lost)
            finally:
                finished.set()
                self.identifier.cache.save()
        return self._record()

    def _launch_ready(self, launched: set[str]) -> None:
        for stage in self.pipeline.order:
            if stage.name in launched:
                continue
            upstream = [self.outcomes.get(name) for name in stage.inputs.values()]
            bad = [outcome for outcome in upstream if outcome and outcome.state not in ("cached", "done")]
            if bad:
                launched.add(stage.name)
                outcome = StageOutcome(stage.name, "blocked", error=f"needs {bad[0].name}, which is {bad[0].state}")
                self._end(outcome)
            elif all(upstream):
                launched.add(stage.name)
                threading.Thread(target=self._guard, args=(stage,), name=f"stage-{stage.name}", daemon=True).start()

    def _serve(self) -> None:
        """Answer one request of a stage thread; returns soon even without one, so that signals are seen."""
        if len(self.outcomes) == len(self.pipeline.stages):
            return
        try:
            kind, value = self.requests.get(timeout=0.2)
        except queue.Empty:
            return
        if kind == "ended":
            self._end(value, shown=True)
        else:
            value()

    def _end(self, outcome: StageOutcome, shown: bool = False) -> None:
        self.outcomes[outcome.name] = outcome
        self.tracking.end_stage(outcome.name, outcome)
        if not shown:
            self.display.stage(outcome.name, outcome.state, outcome.detail)

    def _guard(self, stage: Stage) -> None:
        """Body of a stage's thread: whatever happens becomes an outcome."""
        started = time.time()
        try:
            outcome = self._stage(stage)
        except Stopped:
            return
        except BaseException as error:  # noqa: BLE001  (reported as the stage's outcome)
            if self.stop.requested:
                return
            said = failure(error, self.store.root / "stages" / stage.name)
            outcome = StageOutcome(
                stage.name, "failed", time.time() - started, error=said, trace=traceback.format_exc()
            )
        # Shown here, since the calling thread may be busy starting Ray.
        self.display.stage(outcome.name, outcome.state, outcome.detail)
        self.requests.put(("ended", outcome))

    def _stage(self, stage: Stage) -> StageOutcome:
        started = time.time()
        self.display.stage(stage.name, "checking")
        upstream = {key: self.outcomes[name] for key, name in stage.inputs.items()}
        digests = {outcome.name: outcome.manifest.digest for outcome in upstream.values() if outcome.manifest}
        found = self.identifier.identify(stage, digests)
        manifest = self.store.lookup(stage.name, found.fingerprint)
        if manifest is not None:
            self.store.sweep(manifest)
            return self._cached(stage, manifest, started)
        if not self.store.has_work(stage.name, found.fingerprint):
            old = self.drift.drifted(self.store, stage, found)
            if old is not None and old.refusal:
                return StageOutcome(stage.name, "blocked", error=old.refusal)
            if old is not None:
                return replace(self._cached(stage, old.output.manifest, started), drift=differs(old.output))
        with self.turns.slot(stage.name):
            attempt = self.turns.acquire(stage.name, found.fingerprint)
            manifest = self.store.lookup(stage.name, found.fingerprint)
            if manifest is not None:
                self.turns.drop(stage.name, attempt)
                return self._cached(stage, manifest, started)
            try:
                return self._compute(stage, found, attempt, upstream)
            except BaseException:
                self.turns.drop(stage.name, attempt)
                raise

    def _cached(self, stage: Stage, manifest: Manifest, started: float) -> StageOutcome:
        self.tracking.begin_stage(stage, manifest.fingerprint, manifest.recipe["inputs"], None)
        return StageOutcome(stage.name, "cached", time.time() - started, manifest, self.store.output(manifest))

    def _compute(
        self, stage: Stage, found: Identified, attempt: Attempt, upstream: Mapping[str, StageOutcome]
    ) -> StageOutcome:
        history = self.store.manifests(stage.name)
        why = "continues unfinished work" if attempt.resumed else explain(history, found.recipe)
        if stage.execution.uses_cluster:
            self.cluster.need(stage.name)
        else:
            self.cluster.prepare()
        self.display.stage(stage.name, "running", why)
        self.tracking.begin_stage(stage, found.fingerprint, found.recipe["inputs"], attempt.directory / "curve.jsonl")
        started_at, started = datetime.now(UTC), time.time()
        result = self.execute(self._call(stage, found, attempt, upstream))
        check_result(stage.name, result)
        self.stop.check()
        manifest = Manifest(
            stage=stage.name,
            fingerprint=found.fingerprint,
            attempt=attempt.out.name,
            kind=result.kind,
            digest=result.digest,
            recipe=found.recipe,
            files=list_files(attempt.out),
            weights=dict(result.weights),
            counts=dict(result.counts),
            metrics={key: float(value) for key, value in result.metrics.items()},
            evaluations=tuple(asdict(evaluation) for evaluation in result.evaluations),
            artifacts=tuple(result.artifacts),
            taken=dict(result.taken),
            tier=asdict(stage.execution.tier),
            env={"python": platform.python_version(), "platform": platform.platform(), "cpus": os.cpu_count()},
            git=git_state(),
            runtime=dict(self.execute.settings),
            mlflow=dict(self.tracking.stage_run(stage.name)),
            run=self.run_id,
            started=started_at.isoformat(timespec="seconds"),
            seconds=round(time.time() - started, 3),
            host=socket.gethostname(),
        )
        manifest = self.turns.commit(attempt, manifest)
        return StageOutcome(stage.name, "done", time.time() - started, manifest, self.store.output(manifest))

    def _call(self, stage: Stage, found: Identified, attempt: Attempt, upstream: Mapping[str, StageOutcome]) -> Call:
        inputs = {
            key: Input(outcome.name, self.store.fetch(outcome.manifest), outcome.manifest.digest)
            for key, outcome in upstream.items()
            if outcome.manifest is not None
        }
        return Call(
            stage=stage,
            fingerprint=found.fingerprint,
            inputs=inputs,
            weights=found.weights,
            out=attempt.out,
            work=attempt.work,
            progress=lambda done, total, unit: self.display.progress(stage.name, done, total, unit),
            log_metrics=lambda metrics, step: self.tracking.point(stage.name, dict(metrics), step),
            log_image=lambda key, file, step: self.tracking.image(stage.name, key, file, step),
            candidates=tuple(reuse_candidates(self.store, stage, found)),
        )

    def _yield_to_other(self, launched: set[str], stage: str, error: LeaseLostError) -> None:
        """End the run: nothing else stops a job for certain, and two must not write into the same scratch."""
        self.stop.requested = True
        why = f"{error}; this run has stopped, and the same command goes on once nobody works on {stage}"
        self._end(StageOutcome(stage, "failed", error=why))
        self.turns.release_all()
        for name in self.pipeline.by_name:
            if name not in self.outcomes:
                self._end(StageOutcome(name, "interrupted" if name in launched else "blocked", error=f"{stage} failed"))

    def _interrupt(self, launched: set[str]) -> None:
        self.turns.release_all()
        for name in launched - set(self.outcomes):
            self._end(StageOutcome(name, "interrupted"))
        raise Interrupted(self._record())

    def _record(self) -> RunSummary:
        order = [stage.name for stage in self.pipeline.order]
        outcomes = {name: self.outcomes[name] for name in order if name in self.outcomes}
        summary = RunSummary(self.run_id, self.name, self.pipeline.name, outcomes, time.time() - self.started)
        try:
            self.store.put_run(summary.record(self.store.root, self.started, self.pipeline, self.until, self.lock))
        except StoreError as error:
            # How the stages ended must be told all the same.
            return replace(summary, unrecorded=str(error))
        return summary
