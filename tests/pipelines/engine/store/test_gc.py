"""`lumina gc`: nothing that a kept run needs is ever removed, and what no run needs goes."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipelines import cli
from pipelines.compare.verify import verify
from pipelines.engine.runner import run
from pipelines.engine.stage import Pipeline
from pipelines.engine.store.attempt import Attempt, list_files
from pipelines.engine.store.gc import Collection, Policy, collect, find_garbage
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.run_record import RunRecord, StageEntry
from pipelines.engine.store.store import Store
from pipelines.engine.store.store_lock import in_use
from pipelines.errors import StoreError
from tests.pipelines.toy import EXECUTE, diamond, identifier

NOW = datetime(2026, 11, 21, tzinfo=UTC).timestamp()
DAY = 86400.0


def go(store: Store, pipeline: Pipeline, run_id: str, until: str | None = None) -> None:
    assert run(pipeline, store, EXECUTE, run_id=run_id, identifier=identifier(), until=until).ok


def tree(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


def whats(found: Collection) -> list[tuple[str, str]]:
    return [(item.what, item.path.split("/")[1]) for item in found.remove]


def test_what_only_older_runs_need_goes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, text in enumerate("xyz"):
        go(store, diamond(b=text), f"r{number}")
    before = tree(tmp_path)
    looked = find_garbage(store, Policy(keep_runs=2))
    assert whats(looked) == [("output", "b"), ("output", "d")]
    assert tree(tmp_path) == before
    assert looked.bytes > 0
    done = collect(store, Policy())
    assert whats(done) == [("output", "b")] * 2 + [("output", "d")] * 2
    assert done.kept_runs == ("r2",)
    assert verify(store, "r2", deep=True).found == ()
    assert {problem.what for problem in verify(store, "r1").found} == {"missing"}
    assert not collect(store, Policy()).remove
    go(store, diamond(b="x"), "r3")
    assert verify(store, "r3", deep=True).found == ()


def test_names_questions_and_whole_runs_keep_theirs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    go(store, diamond(b="x"), "r0")
    go(store, diamond(b="y"), "r1")
    go(store, diamond(b="z"), "r2", until="b")
    # r2 is the newest; r1 is the newest whole one.
    assert find_garbage(store, Policy()).kept_runs == ("r1", "r2")
    assert find_garbage(store, Policy(asked=("r0",))).kept_runs == ("r0", "r1", "r2")
    with pytest.raises(StoreError, match="holds no run 'r9'"):
        find_garbage(store, Policy(asked=("r9",)))
    (tmp_path / "latest" / "other").write_text("r0")
    assert find_garbage(store, Policy()).kept_runs == ("r0", "r1", "r2")


def test_nothing_goes_while_the_record_of_a_run_cannot_be_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    go(store, diamond(b="x"), "r0")
    go(store, diamond(b="y"), "r1")
    record = tmp_path / "runs" / "r0.json"
    record.rename(tmp_path / "r0.json")
    record.symlink_to(tmp_path / "r0.json")
    with pytest.raises(StoreError, match=r"runs/r0\.json is damaged \(it is a link"):
        find_garbage(store, Policy())
    with pytest.raises(StoreError, match=r"runs/r0\.json is damaged \(it is a link"):
        store.get_run("r0")


def test_days_count_instead(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, text in enumerate("xyz"):
        go(store, diamond(b=text), f"r{number}")
    now = time.time()
    assert not find_garbage(store, Policy(older_than_days=1)).remove
    assert (
        whats(find_garbage(store, Policy(older_than_days=1), now + 2 * DAY))
        == [("output", "b")] * 2 + [("output", "d")] * 2
    )


def begin(store: Store, stage: str, fingerprint: str) -> Attempt:
    attempt = store.acquire(stage, fingerprint)
    assert isinstance(attempt, Attempt)
    (attempt.out / "x.txt").write_text("x" * 100)
    return attempt


def finish(store: Store, attempt: Attempt, stage: str, fingerprint: str, run_id: str) -> None:
    files = list_files(attempt.out)
    digest = f"sha256:{'0' * 64}"
    store.commit(attempt, Manifest(stage, fingerprint, attempt.out.name, "files", digest, {}, files, run=run_id))


def test_abandoned_attempts_go_and_unfinished_work_stays_until_it_is_old(tmp_path: Path) -> None:
    store = Store(tmp_path)
    attempt = begin(store, "train", "ab" * 32)
    (attempt.work / "checkpoint").write_text("x" * 50)
    attempt.lease.release()
    found = collect(store, Policy())
    assert [(item.what, item.bytes) for item in found.remove] == [("attempt", 100)]
    assert [(item.what, item.bytes) for item in found.left] == [("unfinished", 50)]
    assert store.has_work("train", "ab" * 32)
    os.utime(attempt.work / "checkpoint", (NOW, time.time() - 3 * DAY))
    assert not collect(store, Policy(older_than_days=4)).remove
    assert [item.what for item in collect(store, Policy(older_than_days=2)).remove] == ["unfinished"]
    assert not store.has_work("train", "ab" * 32)


def test_what_somebody_works_on_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    attempt = begin(store, "train", "ab" * 32)
    found = collect(store, Policy(older_than_days=0))
    assert not found.remove
    assert "works on it" in found.left[0].why
    assert (attempt.out / "x.txt").exists()


def test_outputs_of_a_killed_run_stay_until_they_are_old(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish(store, begin(store, "a", "ab" * 32), "a", "ab" * 32, "killed")
    found = collect(store, Policy())
    assert not found.remove
    assert "was killed" in found.left[0].why
    assert not collect(store, Policy(older_than_days=1)).remove
    manifest = store.directory("a", "ab" * 32) / "MANIFEST.json"
    os.utime(manifest, (NOW, time.time() - 2 * DAY))
    assert [item.what for item in collect(store, Policy(older_than_days=1)).remove] == ["output"]
    assert not manifest.parent.exists()


def test_a_half_removed_output_is_never_read_and_goes_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    go(store, diamond(b="x"), "r0")
    go(store, diamond(b="y"), "r1")
    entry = store.get_run("r0").stages["b"]

    def fail(path: Path) -> None:
        (path / entry.path.split("/")[-1] / "text.txt").unlink()
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", fail)
        with pytest.raises(StoreError, match="Permission denied"):
            collect(store, Policy())
    assert store.lookup("b", entry.fingerprint) is None
    assert ("attempt", "b") in whats(collect(store, Policy()))
    go(store, diamond(b="x"), "r2")
    assert verify(store, "r2", deep=True).found == ()


def test_nothing_is_removed_while_a_run_is_at_work(tmp_path: Path) -> None:
    store = Store(tmp_path)
    go(store, diamond(b="x"), "r0")
    go(store, diamond(b="y"), "r1")
    with in_use(tmp_path, lambda note: None):
        with pytest.raises(StoreError, match="a run is at work on it"):
            collect(store, Policy())
        assert find_garbage(store, Policy()).remove
    assert collect(store, Policy()).remove


@pytest.mark.parametrize("text", ["{", "[]", '{"run": "r0"}', '{"stages": 1, "started": "x"}'])
def test_a_damaged_record_stops_it(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    go(store, diamond(), "r0")
    (tmp_path / "runs" / "r1.json").write_text(text)
    with pytest.raises(StoreError, match=r"r1\.json"):
        collect(store, Policy())


FINGERPRINTS = [f"{number:02x}" * 32 for number in range(4)]
STAGES = ["a", "b@1", "c"]
PAIRS = st.tuples(st.sampled_from(STAGES), st.sampled_from(FINGERPRINTS))
RUNS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["demo", "paper"]),
            "age": st.integers(0, 20),
            "ok": st.booleans(),
            "until": st.sampled_from([None, "a"]),
            "stages": st.dictionaries(st.sampled_from(STAGES), st.sampled_from([None, *FINGERPRINTS])),
        }
    ),
    max_size=6,
)


@settings(max_examples=60)
@given(
    RUNS,
    st.dictionaries(PAIRS, st.tuples(st.sampled_from(["r0", "r1", "r9", ""]), st.booleans())),
    st.one_of(
        st.builds(Policy, keep_runs=st.integers(1, 3)), st.builds(Policy, older_than_days=st.integers(0, 25).map(float))
    ),
    st.integers(0, 5),
)
def test_no_kept_run_ever_loses_anything(
    runs: list[dict[str, Any]], outputs: dict[tuple[str, str], tuple[str, bool]], policy: Policy, asked: int
) -> None:
    with TemporaryDirectory() as folder:
        store = Store(folder)
        for stage, fingerprint in outputs:
            made_by, orphan = outputs[stage, fingerprint]
            finish(store, begin(store, stage, fingerprint), stage, fingerprint, made_by)
            if orphan:
                (store.directory(stage, fingerprint) / "a-orphan").mkdir()
        for number, content in enumerate(runs):
            stages = {
                stage: StageEntry(fingerprint=fingerprint, digest=fingerprint)
                for stage, fingerprint in content["stages"].items()
            }
            started = datetime.fromtimestamp(time.time() - content["age"] * DAY, UTC).isoformat(timespec="seconds")
            told = {key: content[key] for key in ("name", "ok", "until")}
            store.put_run(RunRecord(run=f"r{number}", started=started, stages=stages, **told))
        if asked < len(runs):
            policy = Policy(policy.keep_runs, policy.older_than_days, (f"r{asked}",))
        looked = find_garbage(store, policy)
        found = collect(store, policy)
        assert found == looked
        must = {f"r{asked}"} if asked < len(runs) else set()
        for name in {content["name"] for content in runs}:
            ours = [number for number, content in enumerate(runs) if content["name"] == name]
            must |= {f"r{min(ours, key=lambda number: (runs[number]['age'], -number))}", f"r{ours[-1]}"}
            if policy.older_than_days is not None:
                must |= {f"r{number}" for number in ours if runs[number]["age"] < policy.older_than_days}
        assert must <= set(found.kept_runs)
        needed = {
            (stage, fingerprint)
            for number, content in enumerate(runs)
            if f"r{number}" in found.kept_runs
            for stage, fingerprint in content["stages"].items()
        }
        named = {pair for content in runs for pair in content["stages"].items()}
        for stage, fingerprint in outputs:
            there = store.lookup(stage, fingerprint) is not None
            assert there or (stage, fingerprint) not in needed
            assert not there or (stage, fingerprint) in needed or (stage, fingerprint) not in named
            assert not (store.directory(stage, fingerprint) / "a-orphan").exists()


def test_the_command_removes_only_when_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    store = Store(tmp_path)

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(cli.app, ["gc", *arguments, "--store", str(tmp_path)])

    assert call().exit_code == 1
    go(store, diamond(b="x"), "r0")
    go(store, diamond(b="y"), "r1")
    shown = call()
    assert shown.exit_code == 0, shown.output
    assert "1 of 2 runs are kept." in shown.output
    assert "2 outputs" in shown.output
    assert "--yes removes them" in shown.output
    assert max(len(line) for line in shown.output.splitlines()) <= 100
    assert "two rules" in call("--keep-runs", "1", "--older-than", "2").output
    assert "Nothing to remove" in call("--keep", "r0", "--yes").output
    content = json.loads(call("--json", "--yes").output)
    assert content["removed"]
    assert len(content["remove"]) == 2
    assert "Nothing to remove" in call().output
