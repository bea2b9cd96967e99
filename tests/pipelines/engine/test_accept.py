"""An accepted output stands for code that never computed it, and says so wherever it is looked at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.diff.difference import read_diff
from pipelines.engine.accept import _alias, accept, undone
from pipelines.engine.cache_miss import Nearest
from pipelines.engine.fingerprint import Identified, fingerprint
from pipelines.engine.recipe_diff import recipe_changes
from pipelines.engine.runner import run
from pipelines.engine.store.gc import Policy, collect
from pipelines.engine.store.lease import Lease, try_acquire
from pipelines.engine.store.manifest import Acceptance, Manifest
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError
from pipelines.rerun.seed import copy_stages
from pipelines.verify.check import verify
from tests.pipelines.edited import LIMIT, Edited, planned, states
from tests.pipelines.toy import EXECUTE

WHO, WHY = "eva@bench", "renamed a variable"


@pytest.fixture
def code(tmp_path: Path) -> Edited:
    """Everything computed, then the code of `b` edited."""
    edited = Edited(tmp_path)
    edited.go(run_id="r0")
    edited.edit("b")
    return edited


def accepted(code: Edited, stage: str = "b", why: str = WHY, **texts: str) -> tuple[Manifest, ...]:
    return accept(code.pipeline(**texts), code.store, code.identifier(), stage, why, who=WHO)


def test_what_is_accepted_is_used_and_named_for_ever(code: Edited) -> None:
    [old] = code.store.manifests("b")
    [new] = accepted(code)
    assert new.fingerprint != old.fingerprint == new.aliased_from
    assert code.store.output(new) == code.store.output(old)
    assert (new.digest, new.files, new.seconds) == (old.digest, old.files, old.seconds)
    [word] = new.accepted
    assert (word.reason, word.who, word.fingerprint) == (WHY, WHO, old.fingerprint)
    assert set(word.code) == {"own.b"}
    assert not list(code.store.directory("b", new.fingerprint.removeprefix("sha256:")).glob("a-*"))

    found = code.plan(LIMIT)
    assert planned(found) == dict.fromkeys("abcd", "cached")
    assert found.stages[1].reason == f"accepted: {WHY} ({WHO}, {word.at[:10]})"
    summary = code.go(LIMIT, run_id="r1")
    assert states(summary) == dict.fromkeys("abcd", "cached")
    record = code.store.get_run("r1")["stages"]["b"]
    assert record["accepted"].startswith(WHY)
    assert record["fingerprint"] == new.fingerprint
    assert (code.store.root / record["path"]) == code.store.output(old)

    checked = verify(code.store, "r1", deep=True)
    assert checked.found == ()
    assert [stage.accepted.startswith(WHY) for stage in checked.stages] == [False, True, False, False]
    difference = read_diff(*((code.store, code.store.get_run(run)) for run in ("r0", "r1")))
    assert difference.stages[1].verdict == "same content"
    assert difference.stages[1].accepted == (f"B: {WHY} ({WHO}, {word.at[:10]})",)
    assert not difference.notes


def test_what_is_accepted_twice_tells_both(code: Edited) -> None:
    [first] = accepted(code)
    code.edit("b", "value = 3\n")
    [second] = accepted(code, why="and  its\nimport")
    assert second.aliased_from == first.aliased_from
    assert [word.reason for word in second.accepted] == [WHY, "and its import"]
    assert second.accepted[1].code["own.helper"][1] is None
    code.go(run_id="r1")
    assert verify(code.store, "r1").found == ()


def test_all_takes_each_stage_after_those_that_it_reads(code: Edited) -> None:
    code.edit("helper", "value = 2\n")
    assert [one.stage for one in accepted(code, "all")] == ["a", "b", "c", "d"]
    assert code.plan().exit_code == 0
    with pytest.raises(PipelineError, match="no stage of which nothing but code has changed"):
        accepted(code, "all")
    # What changed in its config, too, waits for a run, and so does what reads it.
    code.edit("helper", "value = 3\n")
    assert [one.stage for one in accepted(code, "all", b="B")] == ["a", "c"]


def test_what_cannot_be_accepted_is_refused_with_the_reason(code: Edited) -> None:
    def refused(match: str, stage: str = "b", why: str = WHY, **texts: str) -> None:
        before = sorted(code.store.root.rglob("MANIFEST.json"))
        with pytest.raises(PipelineError, match=match):
            accepted(code, stage, why, **texts)
        assert sorted(code.store.root.rglob("MANIFEST.json")) == before

    refused(r"stage b: more than code differs from its last output: config\.text b -> B; only changes of code", b="B")
    refused("stage a: its output is there, so there is nothing to accept", "a")
    refused("no stage 'e'; there are: a, b, c, d", "e")
    refused("no reason is given", why=" \n")
    refused("stage d: its input b is not there for this code: run or accept that first", "d")
    refused("stage b: its input a is not there for this code", a="A")
    [old] = code.store.manifests("b")
    (code.store.output(old) / "text.txt").unlink()
    refused("stage b: its output is gone or damaged")
    shutil.rmtree(code.store.root / "stages" / "b")
    refused("stage b: it was never computed in this store")
    with pytest.raises(PipelineError, match="holds no outputs"):
        accept(code.pipeline(), Store(code.root / "none"), code.identifier(), "b", WHY)


def test_what_somebody_computes_is_not_accepted(code: Edited) -> None:
    fingerprint = code.plan().stages[1].fingerprint
    assert fingerprint is not None
    lease = try_acquire(code.store.directory("b", fingerprint))
    assert isinstance(lease, Lease)
    with pytest.raises(PipelineError, match=r"stage b: process \d+ on .* is computing it now"):
        accepted(code)
    lease.release()
    assert accepted(code)


def test_gc_keeps_what_an_accepted_output_stands_for(code: Edited) -> None:
    [new] = accepted(code)
    out = code.store.output(new)
    # Nobody has run with it yet, and the run that computed the output is dropped.
    shutil.rmtree(code.store.root / "runs")
    shutil.rmtree(code.store.root / "latest")
    code.go(run_id="r2", b="B")
    collect(code.store, Policy())
    assert out.is_dir()
    code.go(run_id="r3")
    collect(code.store, Policy())
    assert out.is_dir()
    assert states(code.go())["b"] == "cached"
    # No run needs it any more: it goes with what stands for it.
    (code.store.root / "runs" / "r3.json").unlink()
    code.go(run_id="r4", b="C")
    assert collect(code.store, Policy()).remove
    assert out.is_dir()
    collect(code.store, Policy(older_than_days=0.0))
    assert not out.exists()
    assert not code.store.directory("b", new.fingerprint.removeprefix("sha256:")).exists()


def test_a_store_that_begins_with_an_accepted_output_keeps_it(code: Edited, tmp_path: Path) -> None:
    [new] = accepted(code)
    code.go(run_id="r1")
    target = Store(tmp_path / "another")
    copy_stages(code.store, code.store.get_run("r1"), "d", target)
    assert (target.output(new) / "text.txt").read_text() == "ab"
    summary = run(code.pipeline(), target, EXECUTE, run_id="r2", identifier=code.identifier())
    assert states(summary) == {"a": "cached", "b": "cached", "c": "cached", "d": "done"}
    # Nothing but the accepted output's record says whose the attempt is.
    assert not collect(target, Policy()).remove
    assert verify(target, "r2", deep=True).found == ()


def test_without_the_output_it_is_computed_again(code: Edited) -> None:
    [old] = code.store.manifests("b")
    accepted(code)
    shutil.rmtree(code.store.output(old))
    assert planned(code.plan())["b"] == "drift"
    summary = code.go(LIMIT)
    assert states(summary)["b"] == "done"
    made = summary.outcomes["b"].manifest
    assert made is not None
    assert not made.accepted


def _forge(change: Callable[[Manifest], Manifest]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(change(Manifest.from_json(path.read_text())).to_json())

    return write


def _code(manifest: Manifest) -> Manifest:
    return replace(manifest, accepted=(replace(manifest.accepted[0], code={}),))


@pytest.mark.parametrize(
    ("forge", "detail"),
    [
        (_forge(_code), "was accepted for other code than it tells"),
        (_forge(lambda one: replace(one, accepted=())), "which nobody accepted"),
        (
            _forge(lambda one: replace(one, aliased_from="sha256:../../x")),
            "aliased_from: 'sha256:../../x' is no fingerprint",
        ),
    ],
)
def test_verify_checks_the_record_of_an_acceptance(code: Edited, forge: Callable[[Path], None], detail: str) -> None:
    [new] = accepted(code)
    code.go(run_id="r1")
    forge(code.store.directory("b", new.fingerprint.removeprefix("sha256:")) / "MANIFEST.json")
    problems = [problem for stage in verify(code.store, "r1").stages for problem in stage.problems]
    assert any(detail in problem.detail for problem in problems), problems


CODE = st.dictionaries(st.sampled_from(["m", "m.a", "m.b", "m/x.j2"]), st.sampled_from(["1" * 32, "2" * 32]))


@given(old=CODE, new=CODE)
def test_what_an_acceptance_tells_leads_back_to_the_recipe_that_ran(old: dict[str, str], new: dict[str, str]) -> None:
    before, after = ({"config": {"a": 1}, "code": code, "stage": "s"} for code in (old, new))
    found = Nearest(Manifest("s", f"sha256:{'0' * 64}", "a-1", "", "", before, ()), recipe_changes(before, after))
    made = _alias(found, Identified(after, fingerprint(after), {}), Acceptance(WHY, WHO, "", "", {}))
    [word] = Manifest.from_json(made.to_json()).accepted
    assert undone(after, word) == before


def test_older_records_are_read_without_acceptances(code: Edited) -> None:
    [old] = code.store.manifests("b")
    data = json.loads(old.to_json())
    del data["accepted"], data["aliased_from"]
    assert Manifest.from_json(json.dumps(data)) == old
