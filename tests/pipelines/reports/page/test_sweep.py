"""The page of a sweep in a real browser: quiet, alone, as wide as the window, accessible."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.engine.store.sweep_record import ArmRun, SweepRecord
from pipelines.reports.page.sweep import sweep_page
from tests.accessibility import serious_violations

FIGURE = {"value": 0.5, "low": 0.4, "high": 0.7}


def _record() -> SweepRecord:
    arms = ("clean", "a mixture with a name that is long enough to break")
    gaps = (None, FIGURE)
    runs = tuple(
        ArmRun(arm=arm, seed=seed, name=f"toy.{at}.s{seed}", state="done", run=f"r{at}{seed}", changes=("a.b=c",))
        for at, arm in enumerate(arms)
        for seed in (0, 1)
    )
    comparison = {
        "kind": "clips", "stage": "evaluate_final", "units": 60, "samples": 1, "confidence": 0.95,
        "score": {"shapes/shape_acc": 1.0},
        "pairs": 1, "claims": 1, "noise": {"sd": 0.1, "freedom": 2},
        "arms": [
            {"arm": arm, "runs": 2, "score": FIGURE, "spread": 0.1, "below_best": gap, "below_best_prompts": gap,
             "worse": gap is not None}
            for arm, gap in zip(arms, gaps, strict=True)
        ],
        "runs": [
            {"title": run.title, "arm": run.arm, "seed": run.seed, "score": FIGURE, "below_best": None} for run in runs
        ],
        "metrics": {
            "shapes/shape_acc": {
                "meaning": "share", "counted": False,
                "arms": {arm: FIGURE | {"spread": 0.1, "differs": arm != "clean"} for arm in arms}
            }
        },
    }  # fmt: skip
    failed = ArmRun(arm="broken", seed=0, name="toy.broken", state="failed", error="train@1: it <b>failed</b>")
    return SweepRecord(
        name="toy", config="demo", command="lumina sweep demo", started="2026-11-29T08:00:00+00:00",
        runs=(*runs, failed), comparison=comparison,
    )  # fmt: skip


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_it_is_quiet_fits_and_is_accessible(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    file = tmp_path / "sweep.html"
    file.write_text(sweep_page(_record(), "/store"), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda one: None if one.url.startswith(("data:", "file:")) else said.append(one.url))
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
    assert serious_violations(page) == []
    context.close()


def test_it_says_what_is_not_there() -> None:
    assert "No run is done yet" in sweep_page(replace(_record(), comparison=None), "/store")
    assert "Not compared: no reason." in sweep_page(replace(_record(), comparison={"problem": "no reason"}), "/store")
