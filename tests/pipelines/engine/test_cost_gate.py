"""The cost gate holds back what took long and of which nothing but code has changed, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.engine.cost_gate import CostGate
from pipelines.errors import PipelineError
from tests.pipelines.edited import LIMIT, Edited, planned, states


@pytest.fixture
def code(tmp_path: Path) -> Edited:
    """Everything computed, then the code of `b` edited."""
    edited = Edited(tmp_path)
    edited.go()
    edited.edit("b")
    return edited


def test_a_dear_stage_is_held_back_before_it_computes_anything(code: Edited) -> None:
    assert [stage.name for stage in code.plan(LIMIT).stages if stage.gated] == ["b"]
    summary = code.go(LIMIT)
    assert states(summary) == {"a": "cached", "b": "blocked", "c": "cached", "d": "blocked"}
    assert not summary.ok
    held = summary.outcomes["b"]
    assert held.held
    assert not summary.outcomes["d"].held
    for text in ("(own.b)", "--rerun b", "lumina accept b --reason", "cost_gate_s is 0"):
        assert text in held.error
    assert len(code.store.manifests("b")) == 1
    assert not list(code.store.root.glob("stages/b/*/LEASE.json"))
    # Nothing is left that would pass for unfinished work.
    assert planned(code.plan(LIMIT))["b"] == "drift"


@pytest.mark.parametrize("rerun", [{"b"}, {"all"}])
def test_rerun_lets_it_through(code: Edited, rerun: set[str]) -> None:
    gate = CostGate(LIMIT.limit_s, frozenset(rerun))
    assert not any(stage.gated for stage in code.plan(gate).stages)
    assert states(code.go(gate))["b"] == "done"
    # What was computed is there, whatever the gate says then.
    assert states(code.go(LIMIT))["b"] == "cached"


def test_cheap_stages_and_an_open_gate_hold_nothing(code: Edited) -> None:
    assert not any(stage.gated for gate in (CostGate(), CostGate(3600)) for stage in code.plan(gate).stages)
    assert states(code.go(CostGate(3600)))["b"] == "done"


def test_other_changes_go_through(code: Edited) -> None:
    assert states(code.go(LIMIT, b="B"))["b"] == "done"
    assert states(code.go(LIMIT, a="A"))["b"] == "done"


def test_unfinished_work_goes_on(code: Edited) -> None:
    fingerprint = code.plan().stages[1].fingerprint
    assert fingerprint is not None
    work = code.store.directory("b", fingerprint) / "work"
    work.mkdir(parents=True)
    (work / "step-1").touch()
    assert states(code.go(LIMIT))["b"] == "done"


def test_an_output_that_is_gone_is_no_reason_to_hold_back(code: Edited) -> None:
    [manifest] = code.store.manifests("b")
    (code.store.output(manifest) / "text.txt").unlink()
    assert states(code.go(LIMIT))["b"] == "done"


def test_a_stage_that_is_not_there_is_refused_before_anything_runs(code: Edited) -> None:
    with pytest.raises(PipelineError, match=r"--rerun e: there is no such stage; there are: a, b, c, d, or `all`"):
        code.go(CostGate(1.0, frozenset({"e"})))
