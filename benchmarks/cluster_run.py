"""Submit the small demo to a cluster of three Ray nodes, disturb it in every way, and compare with a local run.

    python benchmarks/cluster_run.py --work /tmp/cluster_run

A head, where the jobs' drivers run, and two nodes with one CPU each, all process trees of their own on this machine.
`lumina submit` is typed in an empty folder with a bare environment. The cases: undisturbed; the terminal killed, and
the log picked up by `lumina jobs logs`; a node killed in `motion` or in `train@2`, with another joining five seconds
later; the job's driver killed, and the run submitted again; the head killed, and the run submitted to a new cluster.
Prints for each whether all digests are those of a local run, the wall time, what the disturbance cost against the
undisturbed job, and what was kept of the stage that it hit; exit 1 if a digest differs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from kill_resume import SMALL

from jobs import tokens
from jobs.parts import rows_written
from lumina.files import read_jsonl
from lumina.training import resume
from pipelines.engine.store.store import Store
from tests.ray_nodes import Nodes, kill_tree, lumina, processes, ray_nodes

os.environ |= tokens.own()
SETTINGS = {
    **SMALL,
    "train.1.steps": "20",
    "train.2.steps": "150",
    "train.3.steps": "20",
    "evaluate.suite.count": "6",
    "evaluate.sampler.steps": "5",
    "export.sampler.steps": "5",
}
TRAINING, CURATION = "train@2", "motion"
KILL_STEP, KILL_ROWS, JOIN_AFTER_S, LATEST_S = 45, 1, 5.0, 1800.0
DRIVER = "run config.yaml"
"""What the command line of a job's driver holds."""


@dataclass(frozen=True)
class Case:
    """One run of the demo under one name and in one store of its own."""

    name: str
    folder: Path
    nodes: Nodes
    until: str | None

    @property
    def store(self) -> Path:
        return self.folder / self.name

    def submit(self, nodes: Nodes | None = None) -> subprocess.Popen[bytes]:
        """Type `lumina submit`; what it says is added to the case's log."""
        words = ["submit", "demo", "--name", self.name, "--resource", "driver=1", "--store", str(self.store)]
        words += [part for key, value in SETTINGS.items() for part in ("-o", f"{key}={value}")]
        words += ["--until", self.until] if self.until else []
        return self._type(*words, "--address", (nodes or self.nodes).dashboard)

    def follow(self) -> subprocess.Popen[bytes]:
        """Type `lumina jobs logs`."""
        return self._type("jobs", "logs", self.name, "--address", self.nodes.dashboard)

    def _type(self, *words: str) -> subprocess.Popen[bytes]:
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        with (self.folder / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(lumina(empty, *words), cwd=empty, stdout=log, stderr=log, start_new_session=True)

    def work(self, stage: str) -> Path | None:
        """Where the stage keeps what it goes on from; None when there is nothing yet."""
        found = sorted(self.store.glob(f"stages/{stage}/*/work"))
        return found[0] if found else None

    def wait(self, what: str, reached: Callable[[], bool], terminal: subprocess.Popen[bytes]) -> None:
        """Wait until something is so, while the terminal is at work."""
        deadline = time.monotonic() + LATEST_S
        while not reached():
            if terminal.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.name}: {what} was never seen; see {self.folder / self.name}.log")
            time.sleep(0.05)

    def end(self, terminal: subprocess.Popen[bytes]) -> None:
        """Wait for a run's good end."""
        if terminal.wait(LATEST_S) != 0:
            raise SystemExit(f"{self.name}: exit code {terminal.returncode}; see {self.folder / self.name}.log")

    def step(self) -> int:
        """The last logged step of the stage that is disturbed."""
        work = self.work(TRAINING)
        path = work / "metrics.jsonl" if work else None
        rows = read_jsonl(path) if path and path.exists() else []
        return int(rows[-1]["step"]) if rows else 0

    def rows(self) -> int:
        """Rows of the curation stage that is disturbed which are on the disk."""
        work = self.work(CURATION)
        parts = work / "parts" if work else None
        return rows_written(parts) if parts and parts.is_dir() else 0

    def checkpoint(self) -> int:
        """Step from which the training stage that is disturbed would go on."""
        work = self.work(TRAINING)
        return max((one.step for one in resume.complete(work / "engine")), default=0) if work else 0


def undisturbed(case: Case) -> str:
    case.end(case.submit())
    return ""


def terminal_killed(case: Case) -> str:
    terminal = case.submit()
    case.wait("a running stage", lambda: bool(list(case.store.glob("stages/*/*/work"))), terminal)
    kill_tree(terminal)
    case.end(case.follow())
    return "`lumina jobs logs` followed the rest"


def curation_node_killed(case: Case) -> str:
    terminal = case.submit()
    case.wait(
        f"{CURATION} at work",
        lambda: case.rows() >= KILL_ROWS and bool(case.nodes.running("ray::MapBatches")),
        terminal,
    )
    case.nodes.lose(case.nodes.running("ray::MapBatches")[0])
    before = _inodes(case)
    time.sleep(JOIN_AFTER_S)
    case.nodes.join(1)
    case.end(terminal)
    data = {path.stat().st_ino for path in case.store.glob(f"stages/{CURATION}/*/a-*/data/*.parquet")}
    rows, kept = sum(before.values()), sum(count for inode, count in before.items() if inode in data)
    return f"{rows} rows of {CURATION} were on the disk, {kept} of them are in the output as they were"


def _inodes(case: Case) -> Mapping[int, int]:
    """Files of finished rows, and the rows in each."""
    work = case.work(CURATION)
    records = [json.loads(path.read_text()) for path in sorted((work / "parts").glob("part-*.json"))] if work else []
    files = [file for record in records for file in record["files"]]
    return {(work / "parts" / file["name"]).stat().st_ino: file["rows"] for file in files} if work else {}


def training_node_killed(case: Case) -> str:
    terminal = case.submit()
    case.wait(
        f"{TRAINING} at work", lambda: case.step() >= KILL_STEP and bool(case.nodes.running("RayTrainWorker")), terminal
    )
    case.nodes.lose(case.nodes.running("RayTrainWorker")[0])
    told = f"after step {case.step()} of {TRAINING}, which went on from {case.checkpoint()}"
    time.sleep(JOIN_AFTER_S)
    case.nodes.join(1)
    case.end(terminal)
    return told


def driver_killed(case: Case) -> str:
    terminal = case.submit()
    case.wait(f"{TRAINING} at work", lambda: case.step() >= KILL_STEP, terminal)
    for driver in processes(case.nodes.head, DRIVER):
        driver.kill()
    told = f"after step {case.step()} of {TRAINING}, which went on from {case.checkpoint()}"
    if terminal.wait(LATEST_S) == 0:
        raise SystemExit(f"{case.name}: the terminal was told that all is well")
    case.end(case.submit())
    if "-a2" not in (case.folder / f"{case.name}.log").read_text():
        raise SystemExit(f"{case.name}: no second attempt; see {case.folder / case.name}.log")
    return told


def head_killed(case: Case) -> str:
    """The last case: nothing of its cluster is left."""
    terminal = case.submit()
    case.wait(f"{TRAINING} at work", lambda: case.step() >= KILL_STEP, terminal)
    case.nodes.lose(case.nodes.head)
    told = f"after step {case.step()} of {TRAINING}, which went on from {case.checkpoint()}"
    kill_tree(terminal)
    with ray_nodes(1, 1, 1, resources={"driver": 1}) as nodes:
        case.end(case.submit(nodes))
    return f"{told}; a new cluster's start is in the time"


CASES: Mapping[str, Callable[[Case], str]] = {
    "undisturbed": undisturbed,
    "terminal": terminal_killed,
    "node-in-curation": curation_node_killed,
    "node-in-training": training_node_killed,
    "driver": driver_killed,
    "head": head_killed,
}


def digests(store: Path) -> dict[str, str]:
    """Stage to digest of the newest run: the store may hold the outputs of other code, too."""
    return {name: stage.digest for name, stage in Store(store).get_run(None).stages.items()}


def local(work: Path, until: str | None) -> dict[str, str]:
    """The digests of a run on this machine alone."""
    overrides = [part for key, value in SETTINGS.items() for part in ("-o", f"{key}={value}")]
    overrides += ["--until", until] if until else []
    began = time.monotonic()
    with (work / "local.log").open("ab") as log:
        done = subprocess.run(
            lumina(work, "run", "demo", "--store", str(work / "local"), *overrides), stdout=log, stderr=log, check=False
        )
    if done.returncode != 0:
        raise SystemExit(f"the local run ended with exit code {done.returncode}; see {work / 'local.log'}")
    print(f"local: {time.monotonic() - began:.0f} s", flush=True)
    return digests(work / "local")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for stores and logs; what is done stays done")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only these; may be repeated")
    parser.add_argument("--until", help="last stage of every run, train@2 or a later one")
    args = parser.parse_args()
    # The nodes are ended with it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    args.work.mkdir(exist_ok=True)
    wanted, calm, failed = local(args.work, args.until), 0.0, 0
    with ray_nodes(1, 1, 1, resources={"driver": 1}, RAY_JOB_STOP_WAIT_TIME_S="60") as nodes:
        for name in args.case or CASES:
            case = Case(name, args.work, nodes, args.until)
            began = time.monotonic()
            told = CASES[name](case)
            seconds = time.monotonic() - began
            calm = calm or seconds
            found = digests(case.store)
            equal = sum(found.get(stage) == digest for stage, digest in wanted.items())
            failed += found != wanted
            print(
                f"{name:18} {equal} of {len(wanted)} digests equal, {seconds:4.0f} s ({seconds - calm:+.0f})  {told}",
                flush=True,
            )
    if failed:
        raise SystemExit(f"{failed} cases differ from the local run")


if __name__ == "__main__":
    main()
