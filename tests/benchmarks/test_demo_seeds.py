"""The demo's seeds: what counts as decided, as lifted, and as met, read from stores of runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import demo_seeds
from pipelines.engine.store.run_record import RunRecord, StageEntry
from pipelines.engine.store.store import Store

FIGURES = ("shapes/colour_acc", "shapes/shape_acc", "shapes/direction_acc", "shapes/speed_rank_corr")


def _figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def _store(
    root: Path, ok: bool = True, best: tuple[str, ...] = ("synthetic",), after: float = 0.9, lift: float = 0.2
) -> None:
    """A store with one run in it."""
    selection = {
        "chosen": best[0],
        "best_set": best,
        "table": [
            {"source": best[0], "below_best": None, "in_best_set": True},
            {"source": "web", "below_best": _figure(0.3), "in_best_set": "web" in best},
        ],
    }
    final = {
        "before": {name: _figure(after - lift) for name in FIGURES},
        "after": {name: _figure(after) for name in FIGURES},
        "difference": {name: _figure(lift if name == "shapes/shape_acc" else 0) for name in FIGURES},
    }
    for stage, name, content in (("choose", "selection.json", selection), ("evaluate_final", "metrics.json", final)):
        (root / stage).mkdir(parents=True)
        (root / stage / name).write_text(json.dumps(content), encoding="utf-8")
    _record(root, "1", ok, {stage: stage for stage in ("choose", "evaluate_final")})


def _record(root: Path, run: str, ok: bool, stages: Mapping[str, str]) -> None:
    """The record of a run, with the paths of its stages; later for a later id."""
    entries = {stage: StageEntry(fingerprint=None, digest=None, path=path) for stage, path in stages.items()}
    started = f"2026-11-29T00:00:0{run}+00:00"
    Store(root).put_run(RunRecord(run=run, name="demo", started=started, seconds=600, stages=entries, ok=ok))


def _outcome(root: Path, **changes: Any) -> demo_seeds.Outcome:
    _store(root, **changes)
    found = demo_seeds.outcome(root, 20)
    assert found is not None
    return found


def test_all_three_aims_are_looked_at(tmp_path: Path) -> None:
    good = _outcome(tmp_path / "good")
    assert good.meets == (True, True, True)
    assert good.row() == (
        "| 20 | synthetic | web -30% [20%, 40%] * | 70% [60%, 80%] | 90% [80%, 100%] | shape_acc | 10.0 |"
    )
    assert _outcome(tmp_path / "tie", best=("synthetic", "web")).meets == (False, True, True)
    assert _outcome(tmp_path / "other", best=("web",)).meets == (False, True, True)
    assert _outcome(tmp_path / "weak", after=0.7).meets == (True, False, True)
    assert _outcome(tmp_path / "same", lift=0.05).meets == (True, True, False)


def test_a_run_that_failed_is_no_outcome(tmp_path: Path) -> None:
    assert demo_seeds.outcome(tmp_path, 20) is None
    _store(tmp_path / "failed", ok=False)
    assert demo_seeds.outcome(tmp_path / "failed", 20) is None


def test_it_is_of_the_newest_run_that_went_to_its_end(tmp_path: Path) -> None:
    _store(tmp_path)
    whole = {"choose": "choose", "evaluate_final": "evaluate_final"}
    for run, ok, stages in (("2", False, whole), ("3", True, {"choose": "choose"})):
        _record(tmp_path, run, ok, stages)
    assert (found := demo_seeds.whole_run(Store(tmp_path))) is not None
    assert found.run == "1"
    _record(tmp_path, "4", True, whole)
    assert (found := demo_seeds.whole_run(Store(tmp_path))) is not None
    assert found.run == "4"


def test_four_of_five_must_meet_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(1, 6):
        _store(tmp_path / f"seed-{seed}", after=0.7 if seed == 3 else 0.9)
    arguments = ["demo_seeds.py", "--work", str(tmp_path), "--seeds"]
    monkeypatch.setattr(sys, "argv", [*arguments, "1", "2", "3", "4", "5"])
    demo_seeds.main()
    assert "shape accuracy of 80% in 4, a figure lifted in 5, all three in 4" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*arguments, "1", "2", "3"])
    with pytest.raises(SystemExit):
        demo_seeds.main()
