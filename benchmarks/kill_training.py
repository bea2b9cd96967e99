"""Kill ranks, drivers and Ray nodes of a training stage at random steps, and compare with an undisturbed run.

    python benchmarks/kill_training.py --kills 10

A head node that runs no worker and two nodes with one CPU each, all processes of their own on this machine; two workers
train three scales (float32, or bfloat16 with ZeRO-2). Every run gets one kill: of one rank, of both ranks, of the
driver (started again, as a user would), or of a node (another joins five seconds later), at a step drawn from the seed.
Prints whether final weights, averaged weights and logged losses are bit-identical to the undisturbed run's, and what a
kill cost. In a last run a node is lost for good, and one worker goes on alone (`runtime.min_train_workers`): its losses
may differ by rounding, since one worker adds up in another order than two.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
os.environ["PYTHONPATH"] = str(REPOSITORY)
os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "10"

from jobs import cluster, tokens, train
from jobs.context import InputRef, JobContext
from jobs.runtime import RuntimeConfig
from lumina.files import read_jsonl
from lumina.randomness import generator
from lumina.training.loop_config import METRICS_FILE
from tests.lumina.training import toy
from tests.ray_nodes import Nodes, processes, ray_nodes

if tokens.MODE not in os.environ:
    # The driver has that of the process that started the nodes.
    os.environ |= tokens.own()
VICTIMS = ("rank", "both ranks", "driver", "node")
TIMED = ("tokens_per_second", "samples_per_second", "seconds_per_step", "data_share", "flop")


def drive(root: Path, address: str, steps: int, half: bool, least: int) -> None:
    """Train the stage in `root`, on from where it was left."""
    out = root / f"out-{time.time_ns()}"
    out.mkdir()
    precision = {"precision": "bf16", "zero_stage": 2} if half else {}
    ctx = JobContext(
        stage="train@1",
        fingerprint="f" * 64,
        operator="",
        # The released epsilon, 1e-15, would make the rounding noise of gradients that are almost 0 into full steps.
        config=toy.stage(steps=steps, lr=1e-3, eps=1e-6, **precision),
        runtime=RuntimeConfig(
            ray_address=address,
            train_workers=2,
            min_train_workers=least,
            checkpoint_every=10,
            log_every=5,
            max_failures=9,
        ),
        inputs={
            "latents": InputRef("encode_latents@1", root.parent / "toy" / "latents", ""),
            "text": InputRef("encode_text", root.parent / "toy" / "text", ""),
        },
        weights={},
        media_root="",
        out=out,
        work=root / "work",
        progress=lambda done, total, unit: None,
        log_metrics=lambda metrics, step: None,
    )
    cluster.ensure(ctx.runtime)
    result = train.run(ctx)
    losses = [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in read_jsonl(out / METRICS_FILE)]
    (root / "result.json").write_text(json.dumps({"digest": result.digest, "losses": losses}))
    cluster.shutdown()


def start(root: Path, running: Nodes, args: argparse.Namespace, least: int) -> subprocess.Popen[bytes]:
    """A driver of its own."""
    root.mkdir(exist_ok=True)
    command = [sys.executable, __file__, "--drive", str(root), "--address", running.address, "--steps", str(args.steps)]
    command += ["--least", str(least)]
    with (root / "driver.log").open("ab") as log:
        return subprocess.Popen(command + ["--half"] * args.half, stdout=log, stderr=log)


def run(
    root: Path, running: Nodes, args: argparse.Namespace, victim: str = "", step: int = 0, least: int = 2
) -> tuple[float, str]:
    """Train to the end, with one kill after `step`; returns seconds, and what was killed at which step."""
    began, told = time.monotonic(), ""
    driver = start(root, running, args, least)
    while driver.poll() is None:
        if victim and not told and (reached := _last_step(root)) >= step:
            kill(victim, running, driver)
            told = f"{victim} after step {reached}"
            if victim == "driver":
                driver.wait()
                driver = start(root, running, args, least)
            if victim == "node" and least == 2:
                time.sleep(5)
                running.join(1)
        time.sleep(0.05)
    if driver.returncode != 0 or bool(victim) != bool(told):
        raise SystemExit(f"{victim or 'undisturbed'}: the driver ended with {driver.returncode}; see {root}/driver.log")
    return time.monotonic() - began, told


def kill(victim: str, running: Nodes, driver: subprocess.Popen[bytes]) -> None:
    """kill -9, without a warning."""
    if victim == "driver":
        driver.send_signal(signal.SIGKILL)
    elif victim == "node":
        running.lose(running.alive()[0])
    else:
        ranks = [rank for node in running.alive() for rank in processes(node, "RayTrainWorker")]
        for process in ranks[: 1 if victim == "rank" else None]:
            process.kill()


def _last_step(root: Path) -> int:
    path = root / "work" / METRICS_FILE
    rows = read_jsonl(path) if path.exists() else []
    return int(rows[-1]["step"]) if rows else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--half", action="store_true", help="bfloat16 and ZeRO-2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="an empty folder, kept; else a temporary one")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--least", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.drive:
        drive(args.drive, args.address, args.steps, args.half, args.least)
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    with tempfile.TemporaryDirectory() as name:
        folder = args.work or Path(name)
        folder.mkdir(exist_ok=True)
        toy.write(folder / "toy")
        rng, failed = generator(args.seed, "kills"), 0
        with ray_nodes(0, 1, 1, dashboard=False) as running:
            calm, _ = run(folder / "calm", running, args)
            wanted = json.loads((folder / "calm" / "result.json").read_text())
            print(f"undisturbed: {calm:.0f} s, {len(wanted['losses'])} logged points, {wanted['digest'][:23]}")
            for number in range(args.kills):
                step, root = int(rng.integers(5, args.steps - 50)), folder / f"kill-{number}"
                seconds, told = run(root, running, args, VICTIMS[number % len(VICTIMS)], step)
                got = json.loads((root / "result.json").read_text())
                same = {key: got[key] == wanted[key] for key in wanted}
                failed += not all(same.values())
                verdict = ", ".join(f"{key} {'equal' if value else 'DIFFERENT'}" for key, value in same.items())
                print(f"{told:28} {seconds:4.0f} s  {verdict}", flush=True)
            seconds, told = run(folder / "alone", running, args, "node", args.steps // 2, least=1)
            got = json.loads((folder / "alone" / "result.json").read_text())
            pairs = zip(got["losses"], wanted["losses"], strict=True)
            apart = max(abs(one["loss"] / other["loss"] - 1) for one, other in pairs)
            print(f"{told} for good: {seconds:.0f} s, losses differ by {apart:.1e} at most")
    if failed:
        raise SystemExit(f"{failed} of {args.kills} differ")


if __name__ == "__main__":
    main()
