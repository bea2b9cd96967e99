"""An output from which nothing but code differs: computed again where that is cheap, kept where it is expensive."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.compare.difference import read_diff
from pipelines.compare.verify import verify
from pipelines.engine.code_drift import DriftPolicy
from pipelines.engine.store.gc import Policy, collect
from pipelines.errors import PipelineError
from tests.pipelines.edited import KEEP, REFUSE, Edited, planned, states

SAID = "code differs since: own.b"


@pytest.fixture
def code(tmp_path: Path) -> Edited:
    """Everything computed, then the code of `b` edited."""
    edited = Edited(tmp_path)
    edited.go(run_id="r0")
    edited.edit("b")
    return edited


def test_an_expensive_output_is_kept_and_everything_says_so(code: Edited) -> None:
    [old] = code.store.manifests("b")
    found = code.plan(KEEP)
    assert (found.exit_code, planned(found)) == (0, dict.fromkeys("abcd", "cached"))
    assert [stage.reason for stage in found.stages] == ["", SAID, "", ""]
    summary = code.go(KEEP, run_id="r1")
    assert summary.ok
    assert states(summary) == dict.fromkeys("abcd", "cached")
    assert summary.outcomes["b"].detail == SAID
    assert code.store.manifests("b") == [old]
    entry = code.store.get_run("r1").stages["b"]
    assert (entry.fingerprint, entry.digest, entry.drift) == (old.fingerprint, old.digest, SAID)
    checked = verify(code.store, "r1", deep=True)
    assert checked.found == ()
    assert [stage.drift for stage in checked.stages] == ["", SAID, "", ""]
    difference = read_diff(*((code.store, code.store.get_run(run)) for run in ("r0", "r1")))
    assert difference.stages[1].drift == (f"B: {SAID}",)
    # The run that computed it may go.
    (code.store.root / "runs" / "r0.json").unlink()
    collect(code.store, Policy())
    assert code.store.output(old).is_dir()


@pytest.mark.parametrize("named", ["b", "all"])
def test_what_is_named_is_computed_again(code: Edited, named: str) -> None:
    for policy in (KEEP, REFUSE):
        assert planned(code.plan(replace(policy, recompute=frozenset({named}))))["b"] == "drift"
    assert states(code.go(replace(KEEP, recompute=frozenset({named}))))["b"] == "done"
    # What was computed by this code is there.
    assert [stage.reason for stage in code.plan(KEEP).stages] == [""] * 4


def test_a_cheap_output_is_computed_again(code: Edited) -> None:
    policy = DriftPolicy(None, 3600.0)
    assert planned(code.plan(policy))["b"] == planned(code.plan())["b"] == "drift"
    assert states(code.go(policy))["b"] == "done"


def test_who_refuses_is_told_what_to_type_before_anything_is_computed(code: Edited) -> None:
    summary = code.go(REFUSE)
    assert states(summary) == {"a": "cached", "b": "blocked", "c": "cached", "d": "blocked"}
    for text in ("(own.b)", "--recompute b", "code_drift=keep"):
        assert text in summary.outcomes["b"].error
    assert planned(code.plan(REFUSE)) == states(summary)
    assert len(code.store.manifests("b")) == 1
    assert not list(code.store.root.glob("stages/b/*/LEASE.json"))


def test_more_than_code_is_computed_again(code: Edited) -> None:
    assert states(code.go(KEEP, b="B"))["b"] == "done"
    assert states(code.go(KEEP, a="A"))["b"] == "done"


def test_with_an_unknown_input_it_may_be_kept(code: Edited) -> None:
    edited = code.plan(KEEP, a="A").stages[1]
    assert (edited.state, edited.reason) == ("unknown", f"input a is not computed yet; {SAID}")


def test_unfinished_work_goes_on(code: Edited) -> None:
    fingerprint = code.plan().stages[1].fingerprint
    assert fingerprint is not None
    work = code.store.directory("b", fingerprint) / "work"
    work.mkdir(parents=True)
    (work / "step-1").touch()
    assert states(code.go(KEEP))["b"] == "done"


def test_an_output_that_is_gone_is_computed_again(code: Edited) -> None:
    [manifest] = code.store.manifests("b")
    (code.store.output(manifest) / "text.txt").unlink()
    assert states(code.go(KEEP))["b"] == "done"


def test_a_stage_that_is_not_there_is_refused_before_anything_runs(code: Edited) -> None:
    with pytest.raises(PipelineError, match=r"--recompute e: there is no such stage; there are: a, b, c, d, or `all`"):
        code.go(DriftPolicy(recompute=frozenset({"e"})))
