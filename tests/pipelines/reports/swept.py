"""Runs of a sweep with real evaluations: how often each run's fine-tuned model gets the shape right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pipelines.engine.runner import run
from pipelines.engine.stage import Pipeline
from pipelines.engine.store.store import Store
from pipelines.engine.store.sweep_record import ArmRun, SweepRecord
from tests.pipelines.reports.page.toy_run import EvaluateConfig, pipeline, stage
from tests.pipelines.toy import EXECUTE, identifier


def toy(rate: float, prompts: int = 24) -> Pipeline:
    """The toy run with a fine-tuned model of this rate."""
    made = pipeline(("good", 0.9), frames=2)
    config = EvaluateConfig(rates=(0.2, rate), names=("before", "after"), split="report", prompts=prompts, frames=2)
    final = stage("evaluate_final", "evaluate", config, before="train@1", after="finetune")
    return replace(made, stages=(*made.stages[:-1], final))


def swept(store: Store, rates: Mapping[str, tuple[float, ...]], failed: tuple[str, ...] = ()) -> SweepRecord:
    """The record of arms with a rate for each seed; those that failed besides."""
    runs = []
    for arm, values in rates.items():
        for seed, rate in enumerate(values):
            name = f"toy.{arm.replace(' ', '-')}.s{seed}"
            done = run(toy(rate), store, EXECUTE, name=name, identifier=identifier())
            assert done.ok
            given = seed if len(values) > 1 else None
            runs.append(
                ArmRun(arm=arm, seed=given, name=name, state="done", run=done.run_id, changes=(f"rate={rate}",))
            )
    runs += [ArmRun(arm=arm, name=f"toy.{arm}", state="failed", error="train@1: <b>no</b> luck") for arm in failed]
    return SweepRecord(
        name="toy", config="demo", command="lumina sweep demo --seeds 0,1", started="2026-11-29T08:00:00+00:00",
        computations=22, unshared=60, runs=tuple(runs),
    )  # fmt: skip
