"""A sweep over toy stages, an arm a text, that runs each as a process."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from pipelines.base_config import BaseConfig
from pipelines.config import load_config
from pipelines.engine.store.store import Store
from pipelines.sweep.arms import Arm, Sweep, SweepRun
from pipelines.sweep.plan import plan_runs
from pipelines.sweep.sweeping import Swept, begin, bring_up
from tests.pipelines.sweep.driver import line
from tests.pipelines.toy import identifier

ROOT = Path(__file__).parents[3]


def toy_runs(texts: list[str], settings: BaseConfig) -> tuple[SweepRun, ...]:
    return tuple(SweepRun(text, None, (f"text={text}",), f"toy.{text}", (), settings) for text in texts)


def sweep(store: Store, texts: list[str], parallel: int = 1, sleep: float = 0.0) -> Swept:
    runs = toy_runs(texts, load_config("demo"))
    plan = plan_runs(runs, [line(text, sleep) for text in texts], store, identifier())

    def words(run: SweepRun, slot: int) -> tuple[list[str], Mapping[str, str]]:
        driver = ["-m", "tests.pipelines.sweep.driver", str(store.root), run.name, run.arm, str(sleep)]
        return [sys.executable, *driver], {"PYTHONPATH": str(ROOT)}

    store.prepare()
    arms = tuple(Arm(text, ()) for text in texts)
    record = begin(Sweep("toy", "toy", arms, (), runs), plan, store, None, "lumina sweep toy")
    return bring_up(record, runs, store, words, parallel, lambda record, run: None)
