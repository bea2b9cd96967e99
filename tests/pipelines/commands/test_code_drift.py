"""Code drift at the command line: what is kept says so, and what is refused names what to type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipelines import cli
from pipelines.engine.fingerprint import DigestCache
from tests.pipelines.edited import KEEP, REFUSE, Edited
from tests.pipelines.test_cli import Settings, Untracked


class Priced(Settings):
    """For which every stage of the toy pipeline is expensive."""

    policy = KEEP


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edited:
    edited = Edited(tmp_path)
    monkeypatch.setattr(Priced, "policy", KEEP)
    monkeypatch.setattr("pipelines.dag.build", lambda settings: edited.pipeline(b=settings.values.get("b", "b")))
    monkeypatch.setattr("pipelines.config.load_config", lambda name, overrides: Priced(overrides))
    monkeypatch.setattr("pipelines.run_lock.portable", lambda settings: settings.model_dump(mode="json"))
    monkeypatch.setattr("pipelines.tracking.tracker.MlflowTracking", Untracked)
    monkeypatch.setenv("COLUMNS", "200")

    def identify(cache: DigestCache) -> Any:
        return edited.identifier()

    for place in ("plan", "runner", "fingerprint"):
        monkeypatch.setattr(f"pipelines.engine.{place}.Identifier", identify)
    return edited


def lumina(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


def test_what_is_kept_is_shown_and_what_is_refused_names_the_way_out(code: Edited) -> None:
    options = ["toy", "-o", "b=it's", "--store", str(code.store.root)]
    assert lumina("run", *options).exit_code == 0
    code.edit("b")
    planned = lumina("plan", *options)
    assert planned.exit_code == 0, planned.output
    assert "code differs since: own.b" in planned.output
    kept = lumina("run", *options)
    assert kept.exit_code == 0, kept.output
    assert "Every stage is cached" in kept.output
    assert "code differs since: own.b" in kept.output
    verified = lumina("verify", "--store", str(code.store.root))
    assert verified.exit_code == 0, verified.output
    assert "Kept, though the run's code differs from that which computed it" in verified.output
    assert "b: code differs since: own.b" in verified.output

    Priced.policy = REFUSE
    refused = lumina("run", *options)
    assert refused.exit_code == 1
    assert "Traceback" not in refused.output
    said = " ".join(refused.output.split())
    assert "only its code has changed (own.b)" in said
    assert "`--recompute b`" in said
    done = lumina("run", *options, "--recompute", "b")
    assert done.exit_code == 0, done.output
    compared = lumina("diff", *runs(code)[1:], "--store", str(code.store.root))
    assert compared.exit_code == 3
    assert "b in A: code differs since: own.b" in compared.output
    unknown = lumina("run", *options, "--recompute", "e")
    assert unknown.exit_code == 1
    assert unknown.output.startswith("error: --recompute e: there is no such stage")


def runs(code: Edited) -> list[str]:
    """Ids of the runs that are whole, in order."""
    records = [json.loads(path.read_text()) for path in (code.store.root / "runs").glob("*.json")]
    whole = [record for record in records if record["ok"]]
    made = {record["run"]: (code.store.root / "runs" / f"{record['run']}.json").stat().st_mtime_ns for record in whole}
    return sorted(made, key=made.__getitem__)


def test_a_plan_goes_as_far_as_asked_and_a_run_records_how_far_it_went(code: Edited) -> None:
    options = ["toy", "--store", str(code.store.root), "--until", "b"]
    data = json.loads(lumina("plan", *options, "--json").output)
    assert [stage["name"] for stage in data["stages"]] == ["a", "b"]
    assert lumina("run", *options).exit_code == 0
    assert lumina("plan", *options).exit_code == 0
    record = code.store.get_run(None)
    assert (record.until, record.ok, list(record.stages)) == ("b", True, ["a", "b"])
    assert lumina("plan", "toy", "--store", str(code.store.root)).exit_code == 2
