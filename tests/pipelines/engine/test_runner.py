from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.context import JobResult
from jobs.runtime import RuntimeConfig
from pipelines.compare.verify import verify
from pipelines.engine.call import check_result
from pipelines.engine.events import NoDisplay, RunSummary
from pipelines.engine.fingerprint import Identifier
from pipelines.engine.plan import plan
from pipelines.engine.runner import run
from pipelines.engine.signals import StopSignal
from pipelines.engine.stage import Execution, Pipeline, Stage
from pipelines.engine.store.store import Store
from pipelines.errors import StageError
from pipelines.execution import JobExecutor
from tests.pipelines.toy import EXECUTE, diamond, identifier, stage


def go(pipeline: Pipeline, root: Path, execute: JobExecutor = EXECUTE) -> RunSummary:
    return run(pipeline, Store(root), execute, identifier=identifier())


def states(summary: RunSummary) -> dict[str, str]:
    return {name: outcome.state for name, outcome in summary.outcomes.items()}


def text(summary: RunSummary, name: str) -> str:
    path = summary.outcomes[name].path
    assert path is not None
    return (path / "text.txt").read_text()


def test_a_second_run_does_nothing_and_plan_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    before = plan(diamond(), store, identifier())
    assert [s.state for s in before.stages] == ["run"] * 4
    assert before.exit_code == 2
    assert not any(tmp_path.iterdir())
    first = go(diamond(), tmp_path)
    assert set(states(first).values()) == {"done"}
    assert text(first, "d") == "abacd"
    assert set(states(go(diamond(), tmp_path)).values()) == {"cached"}
    assert plan(diamond(), store, identifier()).exit_code == 0
    assert store.get_run(None).ok


def test_a_run_records_where_its_clips_lie(tmp_path: Path) -> None:
    def recorded(*stages: Stage) -> str:
        go(Pipeline("clips", stages), tmp_path)
        return str(Store(tmp_path).get_run(None).media_root)

    raw, after = stage("raw"), stage("after", inputs=("raw",))
    assert recorded(raw, after) == ""

    def reading(**media: str) -> Stage:
        return replace(after, execution=replace(after.execution, **media))

    assert recorded(raw, reading(media_root="/data/clips")) == "/data/clips"
    made = tmp_path / recorded(raw, reading(media_root_from="raw"))
    assert (made / "text.txt").is_file()


def test_a_change_reruns_what_depends_on_it_and_going_back_hits(tmp_path: Path) -> None:
    go(diamond(), tmp_path)
    changed = plan(diamond(b="B"), Store(tmp_path), identifier())
    assert {s.name: s.state for s in changed.stages} == {"a": "cached", "b": "run", "c": "cached", "d": "unknown"}
    assert changed.stages[1].reason == "config.text b -> B"
    second = go(diamond(b="B"), tmp_path)
    assert states(second) == {"a": "cached", "b": "done", "c": "cached", "d": "done"}
    assert text(second, "d") == "aBacd"
    assert set(states(go(diamond(), tmp_path)).values()) == {"cached"}


def test_the_same_output_stops_the_wave(tmp_path: Path) -> None:
    def pipeline(value: str) -> Pipeline:
        return Pipeline("p", (stage("a", "constant", text=value), stage("b", inputs=("a",))))

    go(pipeline("1"), tmp_path)
    assert states(go(pipeline("2"), tmp_path)) == {"a": "done", "b": "cached"}


def test_runtime_never_changes_a_fingerprint(tmp_path: Path) -> None:
    go(diamond(), tmp_path)
    other = JobExecutor(
        RuntimeConfig(train_workers=7, num_cpus=3, checkpoint_every=1, max_failures=0, threads_per_worker=4)
    )
    assert set(states(go(diamond(), tmp_path, other)).values()) == {"cached"}


def test_a_failure_blocks_only_what_needs_it(tmp_path: Path) -> None:
    pipeline = Pipeline(
        "p",
        (stage("bad", "fail"), stage("after", inputs=("bad",)), stage("good"), stage("fine", inputs=("good",))),
    )
    summary = go(pipeline, tmp_path)
    assert states(summary) == {"bad": "failed", "after": "blocked", "good": "done", "fine": "done"}
    assert summary.outcomes["bad"].error == "RuntimeError: no luck with row 7"
    assert "toy.py" in summary.outcomes["bad"].trace
    assert not summary.ok
    assert states(go(pipeline, tmp_path))["fine"] == "cached"
    assert not list(tmp_path.glob("stages/bad/*/a-*"))


def test_missing_input_file_blocks_the_plan(tmp_path: Path) -> None:
    pipeline = Pipeline(
        "p", (replace(stage("a"), files={"manifest": tmp_path / "none.csv"}), stage("b", inputs=("a",)))
    )
    planned = plan(pipeline, Store(tmp_path), identifier())
    assert [s.state for s in planned.stages] == ["blocked", "blocked"]
    assert "none.csv" in planned.stages[0].reason
    assert planned.exit_code == 1


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a file cut short": lambda output: (output / "text.txt").write_text(""),
    "a file gone": lambda output: (output / "sub" / "more.txt").unlink(),
    "the output gone": shutil.rmtree,
    "the record cut short": lambda output: os.truncate(output.parent / "MANIFEST.json", 100),
    "the record gone": lambda output: (output.parent / "MANIFEST.json").unlink(),
    "all gone": lambda output: shutil.rmtree(output.parent),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["a", "b"])
def test_damaged_outputs_heal_alone(tmp_path: Path, name: str, damage: str) -> None:
    first = go(diamond(), tmp_path)
    damaged = first.outcomes[name].path
    assert damaged is not None
    DAMAGES[damage](damaged)
    planned = {stage.name: stage.reason for stage in plan(diamond(), Store(tmp_path), identifier()).stages}
    assert planned[name].startswith(("its output is gone or damaged: ", "never computed in this store"))
    assert (planned[name] == "never computed in this store") == (damage in ("the record gone", "all gone"))
    second = go(diamond(), tmp_path)
    assert states(second) == {"a": "cached", "b": "cached", "c": "cached", "d": "cached", name: "done"}
    for stage_name, outcome in second.outcomes.items():
        before = first.outcomes[stage_name].manifest
        assert outcome.manifest is not None
        assert before is not None
        assert outcome.manifest.digest == before.digest
    assert verify(Store(tmp_path), None, deep=True).found == ()


def test_independent_stages_run_side_by_side(tmp_path: Path) -> None:
    running: set[str] = set()
    together: list[int] = []

    class Watch(NoDisplay):
        def stage(self, name: str, state: str, detail: str = "") -> None:
            (running.add if state == "running" else running.discard)(name)
            together.append(len(running))

    pipeline = Pipeline("p", tuple(stage(name, sleep=0.5) for name in "abc"))
    run(pipeline, Store(tmp_path), EXECUTE, display=Watch(), identifier=identifier(), max_parallel=2)
    assert max(together) == 2


def test_the_cluster_starts_once_on_the_calling_thread_and_only_for_work(tmp_path: Path) -> None:
    started: list[threading.Thread] = []
    pipeline = Pipeline("p", tuple(replace(stage(name), execution=Execution()) for name in "abc"))

    def start() -> None:
        started.append(threading.current_thread())

    for _ in range(2):
        assert run(pipeline, Store(tmp_path), EXECUTE, start_cluster=start, identifier=identifier()).ok
    assert started == [threading.current_thread()]

    def refuse() -> None:
        raise ConnectionError("nobody at 10.0.0.1")

    summary = run(diamond_on_cluster(), Store(tmp_path), EXECUTE, start_cluster=refuse, identifier=identifier())
    assert summary.outcomes["a"].error == "the cluster did not start: ConnectionError: nobody at 10.0.0.1"


def diamond_on_cluster() -> Pipeline:
    return Pipeline("p", tuple(replace(s, execution=Execution()) for s in diamond(a="new").stages))


DRIVER = """
import os, sys
from pathlib import Path
from pipelines.engine.events import Interrupted
from tests.pipelines.engine.test_runner import go
from tests.pipelines.toy import stage
from pipelines.engine.stage import Execution, Pipeline, Stage
try:
    go(Pipeline("p", (stage("quick"), stage("slow", inputs=("quick",), sleep=float(sys.argv[2])))), Path(sys.argv[1]))
except Interrupted as stopped:
    print({name: o.state for name, o in stopped.summary.outcomes.items()}, flush=True)
    os._exit(130)
"""


DRIVER_WITH_CLUSTER = """
import os, signal, sys, time
from pathlib import Path
from pipelines.engine.events import Interrupted
from pipelines.engine.runner import run
from pipelines.engine.store.store import Store
from tests.pipelines.engine.test_runner import diamond_on_cluster
from tests.pipelines.toy import EXECUTE, identifier
def start():
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as ray.init does
    print("starting", flush=True)
    time.sleep(60)
try:
    run(diamond_on_cluster(), Store(Path(sys.argv[1])), EXECUTE, start_cluster=start, identifier=identifier())
except Interrupted:
    os._exit(130)  # as the command line does: an interpreter that ends no longer handles signals
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_driver_leaves_nothing_in_the_way(tmp_path: Path, number: signal.Signals) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), "30"], stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("stages/slow/*/a-*")):
        time.sleep(0.05)
        assert driver.poll() is None
    driver.send_signal(number)
    # As when a terminal and a parent process both pass on one Ctrl-C.
    driver.send_signal(number)
    out, _ = driver.communicate(timeout=20)
    if number != signal.SIGKILL:
        assert driver.returncode == 130
        assert out.strip() == "{'quick': 'done', 'slow': 'interrupted'}"
        assert not list(tmp_path.glob("stages/slow/*/LEASE.json"))
    started = time.monotonic()
    pipeline = Pipeline("p", (stage("quick"), stage("slow", inputs=("quick",), sleep=0.0)))
    assert states(go(pipeline, tmp_path)) == {"quick": "cached", "slow": "done"}
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_is_stopped_does_not_wait_for_a_cluster_that_starts(tmp_path: Path, number: signal.Signals) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER_WITH_CLUSTER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "starting\n"
    driver.send_signal(number)
    driver.send_signal(number)
    assert driver.wait(timeout=10) == 130
    assert not list(tmp_path.glob("stages/*/*/LEASE.json"))


def test_who_is_stopped_while_a_cluster_is_imported_breaks_no_import(tmp_path: Path) -> None:
    """An import that is torn keeps the lock under which all later ones of the process wait."""
    slow = "import time; print('starting', flush=True); time.sleep(1); print('imported', flush=True)"
    (tmp_path / "slow.py").write_text(slow)
    code = DRIVER_WITH_CLUSTER.replace(
        'print("starting", flush=True)', f"sys.path.append({str(tmp_path)!r}); import slow"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "starting\n"
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(timeout=10) == 130
    assert driver.stdout.read() == "imported\n"


def test_a_call_that_takes_signals_has_those_of_others_only() -> None:
    before, alarm = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)
    stop = StopSignal()
    with stop.listening():
        ours = signal.getsignal(signal.SIGTERM)
        with stop.interrupting():
            assert signal.signal(signal.SIGTERM, signal.SIG_DFL) == ours
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) == ours
        assert signal.signal(signal.SIGALRM, alarm) == signal.SIG_IGN
        assert signal.signal(signal.SIGTERM, signal.SIG_DFL) == ours
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_call_that_takes_signals_below_python_has_them_no_longer_than_it_lasts() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop = StopSignal()
    try:
        with stop.listening():
            with stop.interrupting():
                ctypes.CDLL(None).signal(int(signal.SIGTERM), 1)  # ignored
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_edited_helper_module_reruns_its_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.engine.code_closure import CodeIndex
    from pipelines.engine.stage import Execution, Stage
    from tests.pipelines.toy import ToyConfig

    home = tmp_path / "code" / "editedpkg"
    home.mkdir(parents=True)
    (home / "__init__.py").touch()
    (home / "helper.py").write_text("# one\nvalue = 1\n")
    (home / "job.py").write_text(
        "from editedpkg import helper\nfrom tests.pipelines import toy\ndef go(ctx):\n    return toy.constant(ctx)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    pipeline = Pipeline("p", (Stage("s", "editedpkg.job:go", ToyConfig(), execution=Execution(uses_cluster=False)),))

    def once() -> str:
        names = Identifier(code=CodeIndex({"editedpkg": home}))
        reasons = plan(pipeline, Store(tmp_path / "store"), names).stages[0].reason
        state = states(run(pipeline, Store(tmp_path / "store"), EXECUTE, identifier=names))["s"]
        return f"{state}: {reasons}"

    assert once() == "done: never computed in this store"
    (home / "helper.py").write_text('"""Doc."""\nvalue = 1  # two\n')
    assert once() == "cached: "
    (home / "helper.py").write_text("value = 2\n")
    assert re.fullmatch(r"done: code editedpkg\.helper [0-9a-f]{8} -> [0-9a-f]{8}", once())
    (home / "helper.py").write_text("value = 1\n")
    assert once() == "cached: "


def test_results_are_held_to_the_contract() -> None:
    digest = "sha256:" + "0" * 64
    check_result("s", JobResult("rows", digest, {"in": 3, "ok": 2, "quarantined/missing_file": 1}))
    with pytest.raises(StageError, match="3 rows came in"):
        check_result("s", JobResult("rows", digest, {"in": 3, "ok": 2}))
    with pytest.raises(StageError, match="digest 'x'"):
        check_result("s", JobResult("rows", "x"))


def test_planning_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipelines.engine.plan import plan\n"
        "from pipelines.engine.store.store import Store\n"
        "from tests.pipelines.toy import EXECUTE, diamond, identifier\n"
        "plan(diamond(), Store(sys.argv[1]), identifier())\n"
        "print(sorted({'ray', 'mlflow', 'torch', 'deepspeed', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert found.stdout.strip() == "[]"
