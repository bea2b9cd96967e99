"""A sweep over toy stages, an arm a text, that runs each as a process."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from pipelines.config import load_config
from pipelines.engine.store.store import Store
from pipelines.sweep.arms import Arm, Sweep, SweepRun
from pipelines.sweep.plan import SweepPlan, plan_runs
from pipelines.sweep.sweeping import Swept, begin, bring_up
from tests.pipelines.sweep.driver import line
from tests.pipelines.toy import identifier

ROOT = Path(__file__).parents[3]


def toy_sweep(store: Store, texts: list[str], sleep: float = 0.0) -> tuple[Sweep, SweepPlan]:
    settings = load_config("demo")
    runs = tuple(SweepRun(text, None, (f"text={text}",), f"toy.{text}", (), settings) for text in texts)
    arms = tuple(Arm(text, ()) for text in texts)
    plan = plan_runs(runs, [line(text, sleep) for text in texts], store, identifier())
    return Sweep("toy", "toy", arms, (), runs), plan


def sweep(store: Store, texts: list[str], parallel: int = 1, sleep: float = 0.0) -> Swept:
    made, plan = toy_sweep(store, texts, sleep)

    def words(run: SweepRun, slot: int) -> tuple[list[str], Mapping[str, str]]:
        driver = ["-m", "tests.pipelines.sweep.driver", str(store.root), run.name, run.arm, str(sleep)]
        return [sys.executable, *driver], {"PYTHONPATH": str(ROOT)}

    store.prepare()
    record = begin(made, plan, store, None, "lumina sweep toy")
    return bring_up(record, made.runs, store, words, parallel, lambda record, run: None)
