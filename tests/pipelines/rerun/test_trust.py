"""Nothing of a record that was edited is executed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import cli
from pipelines.engine.store.checksum import seal
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.engine.store.typed import checked

RECORD = {
    "schema": "lumina.run/1",
    "run": "r1",
    "name": "x",
    "started": "2026-11-01T10:00:00+00:00",
    "ok": True,
    "stages": {},
    "lock": {
        "command": "lumina run demo",
        "config": {"runtime": {"train_workers": 1}},
        "code": {"commit": "0" * 40, "patch": f"sha256:{'1' * 64}"},
        "environment": {"python": "3", "platform": "x", "cpus": 1, "gpus": [], "packages": {}},
    },
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("something was executed")

    store = Store(tmp_path)
    store.put_run(checked(RunRecord, RECORD))
    monkeypatch.setattr(subprocess, "Popen", never)
    return store


def rerun(store: Store) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["rerun", "x", "--store", str(store.root)])
    return done.exit_code, " ".join(done.output.split())


@pytest.mark.parametrize("checksum", [True, False])
def test_an_edited_record_is_refused_before_anything_runs(store: Store, checksum: bool) -> None:
    path = store.root / "runs" / "r1.json"
    text = path.read_text().replace("0" * 40, "a" * 40)
    if not checksum:
        content = json.loads(text)
        del content["checksum"]
        text = json.dumps(content, indent=1)
    path.write_text(text)
    code, said = rerun(store)
    assert code == 1
    assert said.startswith(
        f"error: {path} was edited: its checksum is not that of what it says, and nothing acts on it"
    )


def test_a_patch_that_is_none_of_the_store_is_refused(store: Store) -> None:
    lock = {**RECORD["lock"], "code": {"commit": "0" * 40, "patch": "sha256:../../../evil"}}  # type: ignore[dict-item]
    (store.root / "runs" / "r1.json").write_text(seal(json.dumps(RECORD | {"lock": lock}, indent=1)))
    code, said = rerun(store)
    assert code == 1
    assert "run r1: the lock in its record is damaged: code.patch: 'sha256:../../../evil' is no fingerprint" in said
