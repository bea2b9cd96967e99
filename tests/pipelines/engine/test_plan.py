"""`plan` says for each stage what a run would do with it, and which part of the recipe is the reason."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.engine.plan import plan
from pipelines.engine.runner import run
from pipelines.engine.stage import Pipeline
from pipelines.engine.store.lease import Lease, try_acquire
from pipelines.engine.store.objects import LocalObjects
from tests.pipelines.edited import COST_S, Edited, planned, states
from tests.pipelines.toy import EXECUTE, stage


@pytest.fixture
def code(tmp_path: Path) -> Edited:
    return Edited(tmp_path)


def test_a_change_of_code_alone_is_drift_and_names_the_module(code: Edited) -> None:
    code.go()
    code.edit("b")
    found = code.plan()
    assert planned(found) == {"a": "cached", "b": "drift", "c": "cached", "d": "unknown"}
    b = found.stages[1]
    assert re.fullmatch(r"code own\.b [0-9a-f]{8} -> [0-9a-f]{8}", b.reason)
    [change] = b.changes
    assert (change.part, change.key) == ("code", "own.b")
    assert len(change.old) == len(change.new) == 32
    assert b.fingerprint is not None
    assert b.writes == f"stages/b/{b.fingerprint[:20]}"
    assert b.last_seconds is not None
    assert b.last_seconds >= COST_S
    assert b.last_bytes == len("ab") * 3
    assert found.exit_code == 2


def test_modules_that_came_and_went_are_told(code: Edited) -> None:
    code.go()
    code.edit("more", "")
    code.edit("a", "from own import more\n")
    reason = code.plan().stages[0].reason
    assert re.fullmatch(r"code own\.a \w+ -> \w+ and 2 more modules", reason)
    changes = {change.key: (change.old, change.new) for change in code.plan().stages[0].changes}
    assert changes["own.helper"][1] == changes["own.more"][0] == "(absent)"


def test_more_than_code_is_no_drift(code: Edited) -> None:
    code.go()
    code.edit("b")
    found = code.plan(b="B").stages[1]
    assert found.state == "run"
    assert re.fullmatch(r"config\.text b -> B; 1 other difference", found.reason)
    assert [change.part for change in found.changes] == ["config", "code"]


def test_a_stage_whose_inputs_are_unknown_tells_its_own_change(code: Edited) -> None:
    code.go()
    code.edit("helper", "value = 2\n")
    assert planned(code.plan()) == {"a": "drift", "b": "drift", "c": "drift", "d": "drift"}
    d = code.plan().stages[3]
    assert re.fullmatch(r"code own\.helper \w+ -> \w+", d.reason)
    assert (d.fingerprint, d.writes) == (None, None)
    assert planned(code.plan(d="D")) == {"a": "drift", "b": "drift", "c": "drift", "d": "run"}
    code.edit("helper", "value = 1\n")
    assert planned(code.plan(a="A")) == {"a": "run", "b": "unknown", "c": "unknown", "d": "unknown"}
    assert code.plan(a="A").stages[3].reason == "input b is not computed yet"


def test_another_input_is_told_with_its_digests_old_and_new(code: Edited) -> None:
    code.go()
    code.go(a="A")
    code.edit("b")
    found = code.plan(a="A", b="b2").stages[1]
    assert found.state == "run"
    # Compared with the newest output where no output differs in code alone.
    assert found.reason.startswith("config.text b -> b2")
    found = plan(code.pipeline(a="A").until("a"), code.store, code.identifier()).stages
    assert [one.state for one in found] == ["cached"]
    for manifest in list(code.store.root.glob("stages/b/*/MANIFEST.json")):
        if json.loads(manifest.read_text())["recipe"]["inputs"] != code.store.manifests("b")[-1].recipe["inputs"]:
            manifest.unlink()
    code.edit("b", "from own import helper\nvalue = 1\n")
    found = code.plan(a="A").stages
    assert found[1].state == "run"
    assert re.fullmatch(r"input a [0-9a-f]{12} -> [0-9a-f]{12}", found[1].reason)


def test_a_known_input_that_differs_is_reason_enough_beside_an_unknown_one(code: Edited) -> None:
    code.go()
    code.go(b="B")
    for manifest in code.store.root.glob("stages/d/*/MANIFEST.json"):
        if json.loads(manifest.read_text())["recipe"]["inputs"]["b"] == code.store.manifests("b")[0].digest:
            manifest.unlink()
    # b has another output than d has seen, whatever comes of c.
    found = code.plan(b="B", c="C").stages[3]
    assert found.state == "run"
    assert re.fullmatch(r"input b [0-9a-f]{12} -> [0-9a-f]{12}", found.reason)
    assert (found.fingerprint, found.writes) == (None, None)


def test_an_input_that_came_is_a_change_though_it_is_unknown(code: Edited) -> None:
    code.go()
    stages = code.pipeline(a="A").by_name
    wider = replace(stages["b"], inputs={"a": "a", "other": "c"})
    pipeline = Pipeline("wider", (stages["a"], stages["c"], wider))
    assert plan(pipeline, code.store, code.identifier()).stages[2].state == "run"


def test_the_output_that_differs_in_code_alone_explains_and_not_the_newest(code: Edited) -> None:
    code.go()
    code.go(b="B")
    code.edit("b")
    found = code.plan().stages[1]
    assert (found.state, [change.part for change in found.changes]) == ("drift", ["code"])


def test_weights_and_files_are_told_by_short_digests(tmp_path: Path) -> None:
    code = Edited(tmp_path)
    weights, table = tmp_path / "w.bin", tmp_path / "t.csv"

    def pipeline() -> Pipeline:
        return Pipeline("p", (replace(stage("s"), weights={"vae": str(weights)}, files={"table": table}),))

    weights.write_text("one")
    table.write_text("one")
    run(pipeline(), code.store, EXECUTE, identifier=code.identifier())
    weights.write_text("two")
    [found] = plan(pipeline(), code.store, code.identifier()).stages
    assert re.fullmatch(r"weights\.vae sha256:[0-9a-f]{12} -> sha256:[0-9a-f]{12}", found.reason)
    weights.write_text("one")
    table.write_text("two")
    [found] = plan(pipeline(), code.store, code.identifier()).stages
    assert re.fullmatch(r"files\.table sha256:[0-9a-f]{12} -> sha256:[0-9a-f]{12}", found.reason)


def test_unfinished_work_is_resumed_and_work_of_others_named(code: Edited) -> None:
    code.go()
    code.edit("b")
    fingerprint = code.plan().stages[1].fingerprint
    assert fingerprint is not None
    directory = code.store.directory("b", fingerprint)
    lease = try_acquire(LocalObjects(directory))
    assert isinstance(lease, Lease)
    found = code.plan().stages[1]
    assert found.state == "run"
    assert "is computing it now" in found.reason
    lease.release()
    (directory / "work").mkdir()
    (directory / "work" / "step-1").touch()
    found = code.plan().stages[1]
    assert (found.state, found.reason) == ("resume", "unfinished work is there")


def test_a_plan_as_data_sums_up_and_is_whole(code: Edited) -> None:
    code.go()
    code.edit("b")
    made = code.plan()
    data = json.loads(json.dumps(made.as_dict()))
    assert data["exit"] == 2
    assert {key: data["summary"][key] for key in ("cached", "drift", "unknown", "run")} == {
        "cached": 2, "drift": 1, "unknown": 1, "run": 0,
    }  # fmt: skip
    assert data["summary"]["seconds"] == pytest.approx(made.seconds, abs=1e-3)
    assert data["summary"]["seconds"] >= 2 * COST_S
    assert data["summary"]["bytes"] == (len("ab") + len("abacd")) * 3
    b = data["stages"][1]
    assert b["changes"][0]["key"] == "own.b"


def test_what_is_planned_is_what_runs(code: Edited) -> None:
    code.go()
    code.edit("b")
    assert states(code.go()) == {"a": "cached", "b": "done", "c": "cached", "d": "cached"}
    assert code.plan().exit_code == 0
