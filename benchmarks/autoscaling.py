"""Train on a cluster that has no node to train on yet, and compare with a cluster of fixed nodes.

    python benchmarks/autoscaling.py

Ray's autoscaler, with nodes that are processes on this machine, brings the nodes that two training workers wait for,
one CPU each. Prints the time of both, and whether weights and losses are equal.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import kill_training

from tests.lumina.training import toy
from tests.ray_nodes import ray_nodes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--work", type=Path, help="an empty folder, kept; else a temporary one")
    args = parser.parse_args()
    # The nodes are ended with it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    args.half = False
    with tempfile.TemporaryDirectory() as name:
        folder = args.work or Path(name)
        folder.mkdir(exist_ok=True)
        toy.write(folder / "toy")
        results = {}
        for kind, cpus, autoscaled in (("fixed", (1, 1), 0), ("autoscaled", (), 2)):
            with ray_nodes(0, *cpus, dashboard=False, autoscaled=autoscaled) as running:
                seconds, _ = kill_training.run(folder / kind, running, args)
            results[kind] = json.loads((folder / kind / "result.json").read_text())
            print(f"{kind:10} {seconds:4.0f} s  {results[kind]['digest'][:23]}", flush=True)
    same = {key: results["fixed"][key] == results["autoscaled"][key] for key in results["fixed"]}
    print(", ".join(f"{key} {'equal' if value else 'DIFFERENT'}" for key, value in same.items()))
    if not all(same.values()):
        raise SystemExit("FAILED")


if __name__ == "__main__":
    main()
