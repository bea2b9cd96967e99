"""`lumina run` stops at the cost gate and says what to type; what it says works."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipelines import cli
from pipelines.engine.fingerprint import DigestCache
from pipelines.engine.store.manifest import Manifest
from tests.pipelines.edited import COST_S, Edited
from tests.pipelines.test_cli import Settings, Untracked


class Priced(Settings):
    """With a gate that every stage of the toy pipeline is above."""

    cost_gate_s = COST_S / 2


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edited:
    edited = Edited(tmp_path)
    module = ModuleType("pipelines.text_to_video")
    module.build = lambda settings: edited.pipeline(b=settings.values.get("b", "b"))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipelines.text_to_video", module)
    monkeypatch.setattr("pipelines.config.load_config", lambda name, overrides: Priced(overrides))
    monkeypatch.setattr("pipelines.rerun.lock.portable", lambda settings: settings.model_dump(mode="json"))
    monkeypatch.setattr("pipelines.tracking.tracker.MlflowTracking", Untracked)
    monkeypatch.setenv("COLUMNS", "200")

    def identify(cache: DigestCache) -> Any:
        return edited.identifier()

    for place in ("plan", "runner", "fingerprint"):
        monkeypatch.setattr(f"pipelines.engine.{place}.Identifier", identify)
    return edited


def lumina(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


def test_the_gate_stops_a_run_and_both_ways_out_work(code: Edited) -> None:
    options = ["toy", "-o", "b=it's", "--store", str(code.store.root)]
    assert lumina("run", *options).exit_code == 0
    code.edit("b")
    planned = lumina("plan", *options)
    assert planned.exit_code == 2
    assert "4 stages: 2 cached, 1 drift, 1 unknown" in planned.output
    assert "stops at b: only its code has changed" in planned.output
    stopped = lumina("run", *options)
    assert stopped.exit_code == 1
    assert "b is held back: only its code has changed (own.b)" in stopped.output
    assert "Traceback" not in stopped.output
    said = [line.strip() for line in stopped.output.splitlines() if line.startswith("  lumina ")]
    rerun = next(line for line in said if "--rerun" in line)
    keep = next(line for line in said if line.startswith("lumina accept"))
    assert shlex.split(keep) == ["lumina", "accept", "b", *options, "--reason", "..."]
    # The same commands stand below the plan.
    assert {rerun, keep} <= {line.strip() for line in planned.output.splitlines()}

    kept = lumina(*shlex.split(keep)[1:-1], "another name")
    assert kept.exit_code == 0, kept.output
    assert kept.output == "b: accepted, though own.b changed: another name\n"
    assert lumina("plan", *options).exit_code == 0
    again = lumina("run", *options)
    assert again.exit_code == 0
    assert "Every stage is cached" in again.output
    assert "accepted: another name" in again.output
    verified = lumina("verify", "--store", str(code.store.root))
    assert verified.exit_code == 0, verified.output
    assert "ALIASED" in verified.output
    assert "b: another name (" in verified.output

    code.edit("b", "value = 3\n")
    done = lumina(*shlex.split(rerun)[1:])
    assert done.exit_code == 0, done.output
    assert not Manifest.from_json((newest(code, "b") / "MANIFEST.json").read_text()).accepted
    compared = lumina("diff", *runs(code)[1:], "--store", str(code.store.root))
    assert compared.exit_code == 3
    assert "Accepted for code that never computed it" in compared.output
    assert "b in A: another name (" in compared.output


def test_what_another_command_started_goes_on_with_that_command(code: Edited) -> None:
    options = ["toy", "--store", str(code.store.root)]
    assert lumina("run", *options).exit_code == 0
    code.edit("b")
    stopped = lumina("run", *options, "--continue-with", "lumina submit toy --until d")
    said = [line.strip() for line in stopped.output.splitlines() if line.startswith("  lumina ")]
    assert said[-2:] == [
        "lumina submit toy --until d --rerun b",
        f'lumina accept b CONFIG --store {code.store.root} --reason "..."',
    ]


def newest(code: Edited, stage: str) -> Path:
    [manifest, *_] = code.store.manifests(stage)
    return code.store.directory(stage, manifest.fingerprint.removeprefix("sha256:"))


def runs(code: Edited) -> list[str]:
    """Ids of the runs that are whole, in order."""
    records = [json.loads(path.read_text()) for path in (code.store.root / "runs").glob("*.json")]
    whole = [record for record in records if record["ok"]]
    made = {record["run"]: (code.store.root / "runs" / f"{record['run']}.json").stat().st_mtime_ns for record in whole}
    return sorted(made, key=made.__getitem__)


def test_what_cannot_be_accepted_is_one_line(code: Edited) -> None:
    options = ["toy", "--store", str(code.store.root)]
    assert lumina("run", *options).exit_code == 0
    refused = lumina("accept", "b", *options, "--reason", "why not")
    assert refused.exit_code == 1
    assert refused.output == "error: stage b: its output is there, so there is nothing to accept\n"
    assert lumina("accept", "b", *options).exit_code == 2
    unknown = lumina("run", *options, "--rerun", "e")
    assert unknown.exit_code == 1
    assert unknown.output.startswith("error: --rerun e: there is no such stage")


def test_a_plan_goes_as_far_as_asked_and_a_run_records_how_far_it_went(code: Edited) -> None:
    options = ["toy", "--store", str(code.store.root), "--until", "b"]
    data = json.loads(lumina("plan", *options, "--json").output)
    assert [stage["name"] for stage in data["stages"]] == ["a", "b"]
    assert lumina("run", *options).exit_code == 0
    assert lumina("plan", *options).exit_code == 0
    record = code.store.get_run(None)
    assert (record["until"], record["ok"], list(record["stages"])) == ("b", True, ["a", "b"])
    assert lumina("plan", "toy", "--store", str(code.store.root)).exit_code == 2
