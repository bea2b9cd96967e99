"""A rerun tells the password of a tracking server to its process, and not to who lists processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.rerun import rerun
from pipelines.run_lock import Code, Environment, Lock

AWAY = "http://someone:marked-7731@127.0.0.1:9/mlflow"


@pytest.mark.parametrize(("recorded", "variable", "told"), [
    ("http://127.0.0.1:9/mlflow", AWAY, "tracking_uri=null"),
    (None, AWAY, "tracking_uri=null"),
    ("http://other", AWAY, "tracking_uri=http://other"),
])  # fmt: skip
def test_the_words_of_the_process_hold_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: str | None, variable: str, told: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    words: list[str] = []

    class Process:
        def __init__(self, line: list[str], env: dict[str, str], **_: Any) -> None:
            words.extend(line)
            assert env["MLFLOW_TRACKING_URI"] == variable

        def wait(self) -> int:
            return 7

    monkeypatch.setattr(rerun.subprocess, "Popen", Process)
    store = Store(tmp_path / "store")
    lock = Lock("lumina run", {"tracking_uri": recorded}, Code(None), Environment("3", "linux", 1))
    command = rerun._Command(tmp_path, tmp_path / "config.yaml", ())
    record = RunRecord(run="r1", name="demo", started="", stages={})
    with pytest.raises(rerun.RunFailed):
        rerun._execute(command, store, store, record, lock, "lumina rerun", None)
    assert told in words
    assert "marked" not in " ".join(words)
