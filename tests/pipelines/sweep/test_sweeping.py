"""Runs of a sweep share what they can, outlive a failing one, and go on after kills, with the same command."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.runtime import RuntimeConfig
from pipelines.engine.store.lease import holding
from pipelines.engine.store.store import Store
from pipelines.engine.store.sweep_record import ArmRun, SweepRecord, sweep_names
from pipelines.errors import PipelineError, StoreError
from pipelines.sweep import processes
from pipelines.sweep.arms import SweepRun, read_sweep
from pipelines.sweep.processes import Processes, capacity, check_parallel, log_path, lumina_words
from pipelines.sweep.sweeping import begin, check_record, in_turn
from tests.pipelines.sweep.sweeper import sweep, toy_sweep


def computed(store: Store) -> Counter[str]:
    """How often each stage was computed to its end."""
    lines = [file.read_text().split() for file in sorted((store.root / "stages").glob("*/calls.txt"))]
    return Counter(words[at] for words in lines for at in range(0, len(words), 2))


def test_runs_beside_each_other_share_stages_and_a_failing_one_leaves_the_others_going(tmp_path: Path) -> None:
    store = Store(tmp_path)
    swept = sweep(store, ["x", "fail", "y"], parallel=3, sleep=0.2)
    assert (swept.whole, swept.exit_code) == (True, 1)
    record = SweepRecord.load(store.objects, "toy")
    assert record == swept.record
    assert sweep_names(store.objects) == ["toy"]
    assert [run.state for run in record.runs] == ["done", "failed", "done"]
    assert record.runs[1].error == "d: RuntimeError: no luck with row 7"
    assert (record.computations, record.unshared) == (5, 9)
    assert all(store.get_run(run.run).name == f"toy.{run.arm}" for run in record.runs)
    assert computed(store) == {"a": 1, "b": 1, "d": 2}
    assert all(log_path(store, "toy", run.name).is_file() for run in record.runs)
    # Once more: what is done is not started again.
    again = begin(*toy_sweep(store, ["x", "fail", "y"], 0.2), store, None, "c")
    assert [(one.state, one.run) for one in again.runs] == [
        ("done", record.runs[0].run), ("waiting", None), ("done", record.runs[2].run)
    ]  # fmt: skip


def forked(store: Store) -> int:
    """Pid of a process that sweeps: a fork imports nothing."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        code = sweep(store, ["x", "y"], sleep=0.6).exit_code
    finally:
        os._exit(code)


def test_it_goes_on_after_three_kills(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, stage in ((signal.SIGKILL, "a"), (signal.SIGTERM, "b"), (signal.SIGKILL, "d")):
        pid = forked(store)
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(f"stages/{stage}/*/a-*")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(pid, number)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert ended == (130 if number == signal.SIGTERM else -number)
    assert "done" not in {run.state for run in SweepRecord.load(store.objects, "toy").runs}
    assert sweep(store, ["x", "y"], sleep=0.6).exit_code == 0
    assert [run.state for run in SweepRecord.load(store.objects, "toy").runs] == ["done", "done"]
    assert computed(store) == {"a": 1, "b": 1, "d": 2}


def test_two_sweeps_of_one_name_do_not_take_each_others_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    one, plan = toy_sweep(store, ["x", "y"])
    begin(one, plan, store, None, "lumina sweep toy").put(store.objects)
    before = (tmp_path / "sweeps" / "toy.json").read_bytes()
    with holding(store.objects, "sweeps/toy/LEASE.json"), pytest.raises(PipelineError, match="toy is at work, as proc"):
        sweep(store, ["x", "y", "z"])
    other = toy_sweep(store, ["y", "z"])[0]
    with pytest.raises(
        PipelineError, match=r"toy of this store has runs that this one has not \(x\), .*another --name"
    ):
        check_record(other, store)
    with pytest.raises(PipelineError, match="has runs of the config toy, "):
        check_record(replace(one, config="mine.yaml"), store)
    assert (tmp_path / "sweeps" / "toy.json").read_bytes() == before
    # More arms, none at all, and what nobody can read, stand in nobody's way.
    check_record(toy_sweep(store, ["x", "y", "z"])[0], store)
    check_record(replace(other, name="another"), store)
    (tmp_path / "sweeps" / "toy.json").write_text("{}")
    check_record(other, store)


def test_a_run_that_starts_while_the_sweep_is_asked_to_stop_stops_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _, plan = toy_sweep(store, ["x", "y"], 0.0)

    def words(_run: SweepRun, _slot: int) -> tuple[list[str], dict[str, str]]:
        os.kill(os.getpid(), signal.SIGTERM)
        return ["sh", "-c", f"sleep 5; touch {tmp_path / 'end'}"], {}

    ends: list[str] = []
    assert not Processes(store, "toy", words, 1, lambda _, ended: ends.append(ended.state)).bring_up(plan.runs)
    assert ends[-1] == "stopped"
    assert not (tmp_path / "end").exists()


def test_a_run_that_does_not_even_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.pipelines.sweep.sweeper.ROOT", tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    swept = sweep(Store(tmp_path), ["x", "y"])
    assert [run.state for run in swept.record.runs] == ["failed", "failed"]
    assert "exit code 1; " in swept.record.runs[0].error
    assert "No module named" in swept.record.runs[0].error


def test_a_record_that_was_edited_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = ArmRun(arm="x", name="toy.x", state="failed")
    SweepRecord(name="toy", config="toy", command="c", started="now", runs=(run,)).put(store.objects)
    path = tmp_path / "sweeps" / "toy.json"
    path.write_text(path.read_text().replace('"failed"', '"done"'))
    with pytest.raises(StoreError, match=r"toy\.json is damaged .its checksum"):
        SweepRecord.load(store.objects, "toy")


def test_the_first_seed_of_all_arms_comes_first() -> None:
    runs = read_sweep("demo", ["train.2.lr=1e-3,2e-3"], seeds=(5, 3)).runs
    assert [(run.arm, run.seed) for run in in_turn(runs)] == [
        ("lr=1e-3", 5), ("lr=2e-3", 5), ("lr=1e-3", 3), ("lr=2e-3", 3)
    ]  # fmt: skip
    # And when it goes on: the first arm's is done, and its second seed is not first for that.
    assert [(run.arm, run.seed) for run in in_turn(runs, {runs[0].name})] == [
        ("lr=2e-3", 5), ("lr=1e-3", 3), ("lr=2e-3", 3)
    ]  # fmt: skip


def test_room_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.os, "cpu_count", lambda: 2)
    assert capacity(RuntimeConfig(), 6) == 1
    monkeypatch.setattr(processes.os, "cpu_count", lambda: 16)
    assert capacity(RuntimeConfig(), 6) == 6
    assert capacity(RuntimeConfig(threads_per_worker=4), 6) == 2
    assert capacity(RuntimeConfig(ray_address="auto"), 6) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    on_gpus = RuntimeConfig(use_gpu=True, train_workers=2)
    assert capacity(on_gpus, 6) == 2
    check_parallel(2, on_gpus)
    with pytest.raises(PipelineError, match=r"each run takes 2 GPUs .*this machine has 4: give at most 2"):
        check_parallel(3, on_gpus)
    read = read_sweep("demo", ["train.2.lr=1e-3,2e-3", "runtime={use_gpu: true, train_workers: 2}"])
    line, more = lumina_words(read, 2, "select", "again")(read.runs[1], 1)
    assert more["CUDA_VISIBLE_DEVICES"] == "6,7"
    assert "runtime.num_cpus=16" in line
    at, arm = line.index("--name"), read.runs[1].arm
    named = ["--name", read.runs[1].name, "--continue-with", "again", "--until", "select"]
    assert line[at : at + 8] == [*named, "--tag", f"lumina.sweep={read.name}"]
    assert f"lumina.arm={arm}" in line
    alone, _ = lumina_words(read, 1, None, "again")(read.runs[1], 0)
    assert not any("num_cpus" in word for word in alone)
