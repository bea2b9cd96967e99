from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import cli
from pipelines.engine.runner import run
from pipelines.engine.store.store import Attempt, Store
from pipelines.errors import StoreError
from pipelines.verify.check import verify
from pipelines.verify.mend import mend
from tests.pipelines.toy import EXECUTE, diamond, identifier


def go(store: Store) -> dict[str, str]:
    summary = run(diamond(), store, EXECUTE, identifier=identifier())
    assert summary.ok
    return {name: outcome.state for name, outcome in summary.outcomes.items()}


def flip(store: Store, stage: str) -> None:
    path = store.output(store.manifests(stage)[0]) / "text.txt"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def test_a_flipped_byte_is_named_and_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    store = Store(tmp_path)
    go(store)
    flip(store, "b")
    assert set(go(store).values()) == {"cached"}  # sizes are all that a run looks at

    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli.app, ["verify", *arguments, "--store", str(tmp_path)])
        return done.exit_code, done.output

    code, shown = call("--deep")
    assert code == 4
    assert "--deep --mend` has the next `lumina run` compute what is damaged again" in shown
    code, shown = call("--deep", "--mend")
    assert code == 4
    assert "The next `lumina run` computes again: b." in shown
    assert go(store) == {"a": "cached", "b": "done", "c": "cached", "d": "cached"}
    assert call("--deep", "--mend")[0] == 0


def test_what_is_whole_or_no_fault_of_an_output_is_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    go(store)
    (store.output(store.manifests("c")[0]) / "note.txt").touch()
    found = verify(store, None, deep=True)
    assert [problem.what for problem in found.found] == ["unexpected"]
    assert mend(store, found).set_aside == ()
    assert set(go(store).values()) == {"cached"}


def test_a_record_that_is_gone_or_torn_needs_no_mending_twice(tmp_path: Path) -> None:
    store = Store(tmp_path)
    go(store)
    for name in ("a", "b"):
        record = store.output(store.manifests(name)[0]).parent / "MANIFEST.json"
        if name == "a":
            record.unlink()
        else:
            record.write_text("{")
    assert mend(store, verify(store, None)).set_aside == ("a", "b")
    assert go(store) == {"a": "done", "b": "done", "c": "cached", "d": "cached"}


def test_a_stage_that_somebody_works_on_is_not_touched(tmp_path: Path) -> None:
    store = Store(tmp_path)
    go(store)
    flip(store, "b")
    manifest = store.manifests("b")[0]
    attempt = store.acquire("b", manifest.fingerprint)
    assert isinstance(attempt, Attempt)
    with pytest.raises(StoreError, match=r"stage b: process .* works on it"):
        mend(store, verify(store, None, deep=True))
    assert store.lookup("b", manifest.fingerprint) == manifest
