"""Kill driver, workers and decoders of curation at random moments, and compare with an undisturbed run.

    python benchmarks/kill_curation.py --clips 500 --kills 10

On a CPU all workers are Ray tasks; the actors that networks have on GPUs are killed by tests/jobs/test_curate.py.
Stages probe, motion (UniMatch) and encode_latents run over rendered clips. Victims take turns; moments are drawn from
the seed. Prints every stage's digest in both runs, whether each clip is there once, and the share of finished rows that
was not computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])

import psutil
import pyarrow as pa

from curation.decode import PROBE_OPERATOR, ProbeConfig
from curation.latents import ENCODE_LATENTS_OPERATOR, EncodeLatentsConfig
from curation.manifests import IngestConfig
from curation.motion_scores import MOTION_OPERATOR, MotionConfig
from curation.operator import Env, Operator
from curation.selection import SelectConfig
from curation.sources import TagConfig
from jobs import cluster
from jobs.context import InputRef
from jobs.runtime import RuntimeConfig
from lumina import zoo
from lumina.randomness import generator
from lumina.shapes import SOURCES, film, sample_scene
from lumina.video import write_h264
from tests.jobs.chain import Chain

VICTIMS = {
    "driver": "--drive",
    "worker": "ray::MapBatches",
    "decoder": "curation.decoding_child",
}


def _logged(operator: Operator) -> Operator:
    """The operator, with a line in a file for every row that it has computed."""
    make = operator.map
    if make is None:
        raise TypeError(f"{operator.name} computes nothing in workers")

    def make_logged(config: Any, env: Env) -> Callable[[pa.Table], pa.Table]:
        compute = make(config, env)

        def computed(table: pa.Table) -> pa.Table:
            rows = compute(table)
            with open(env.weights["log"], "a") as log:
                log.write("".join(f"{operator.name} {name}\n" for name in table["clip_id"].to_pylist()))
            return rows

        return computed

    return replace(operator, map=make_logged)


PROBE, MOTION, LATENTS = map(_logged, (PROBE_OPERATOR, MOTION_OPERATOR, ENCODE_LATENTS_OPERATOR))


def drive(root: Path, media: Path) -> None:
    """Run all stages that have no digest yet."""
    parts = Path(zoo.__file__).parent
    weights = {"vae": str(parts / "vae"), "unimatch": str(parts / "unimatch"), "log": str(root / "computed.txt")}
    chain = Chain(root, media, weights)
    chain.runtime = RuntimeConfig()
    cluster.ensure(chain.runtime)
    chain.refs["manifest"] = InputRef("manifest", media, "")
    motion = MotionConfig(height=64, width=64, interval_s=0.25)
    name = "kill_curation"
    for stage, operator, config, inputs in (
        ("ingest", "curation.manifests:INGEST_OPERATOR", IngestConfig(), {"manifest": "manifest"}),
        ("probe", f"{name}:PROBE", ProbeConfig(), {"clips": "ingest"}),
        ("motion", f"{name}:MOTION", motion, {"clips": "probe"}),
        ("tag", "curation.sources:TAG_OPERATOR", TagConfig(template="From {source}."), {"clips": "probe"}),
        (
            "select",
            "curation.selection:SELECT_OPERATOR",
            SelectConfig(),
            {"clips": "probe", "motion": "motion", "tag": "tag"},
        ),
        (
            "latents",
            f"{name}:LATENTS",
            EncodeLatentsConfig(resolution=64, fps=8, num_frames=17),
            {"select": "select", "tag": "tag"},
        ),
    ):
        done = root / stage / "digest"
        if done.exists():
            chain.refs[stage] = InputRef(stage, root / stage / "out", done.read_text())
            continue
        result = chain.run(stage, operator, config, **inputs)
        partial = done.with_suffix(".partial")
        partial.write_text(result.digest)
        partial.replace(done)
    ids = [row["clip_id"] for row in chain.rows("latents")]
    summary = {"rows": len(ids), "distinct": len(set(ids)), **{n: ref.digest for n, ref in chain.refs.items()}}
    (root / "summary.json").write_text(json.dumps(summary))
    cluster.shutdown()


def render(folder: Path, clips: int) -> None:
    """Write rendered clips."""
    folder.mkdir()
    for number in range(clips):
        rng = generator(3, "kill", number)
        frames = film(sample_scene(rng), SOURCES["handheld"], rng, num_frames=35, height=96, width=96, fps=16)
        write_h264(folder / f"{number:04}.mp4", frames, 16)


def start(root: Path, media: Path) -> subprocess.Popen[bytes]:
    """A driver of its own."""
    root.mkdir(exist_ok=True)
    with (root / "driver.log").open("ab") as log:
        command = [sys.executable, __file__, "--drive", str(root), "--media", str(media)]
        return subprocess.Popen(command, stdout=log, stderr=log)


def processes(word: str) -> list[psutil.Process]:
    """Running processes whose command line names `word`."""
    running = (one for one in psutil.process_iter(["cmdline", "status"]) if one.info["status"] != psutil.STATUS_ZOMBIE)
    found = (one for one in running if word in " ".join(one.info["cmdline"] or ()))
    return sorted(found, key=lambda process: process.pid)


def finished_rows(root: Path) -> list[str]:
    """What has been computed so far, repetitions included."""
    path = root / "computed.txt"
    return path.read_text().splitlines() if path.exists() else []


def disturb(root: Path, media: Path, kills: int, seed: int) -> Counter[str]:
    """Run to the end while killing; returns the number of kills by victim."""
    rng = generator(seed, "kills")
    killed: Counter[str] = Counter()
    driver = start(root, media)
    names = list(VICTIMS)
    while driver.poll() is None and sum(killed.values()) < kills:
        victim = names[sum(killed.values()) % len(names)]
        before = len(finished_rows(root))
        time.sleep(float(rng.uniform(0.2, 2)))
        while driver.poll() is None:
            targets = processes(VICTIMS[victim])
            # Something must have happened since the last kill, or nothing would ever be finished.
            if targets and len(finished_rows(root)) > before:
                target = targets[int(rng.integers(len(targets)))]
                target.kill()
                killed[victim] += 1
                print(f"killed {victim:8} after {len(finished_rows(root))} computed rows", flush=True)
                break
            time.sleep(0.1)
        if victim == "driver" and driver.wait() is not None:
            time.sleep(2)
            driver = start(root, media)
    if driver.wait() != 0:
        raise SystemExit(f"the driver failed; see {root / 'driver.log'}")
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--media", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.drive:
        drive(args.drive, args.media)
        return
    with tempfile.TemporaryDirectory() as name:
        media, calm, rough = (Path(name) / part for part in ("media", "calm", "rough"))
        render(media, args.clips)
        if start(calm, media).wait() != 0:
            raise SystemExit((calm / "driver.log").read_text())
        killed = disturb(rough, media, args.kills, args.seed)
        wanted, got = (json.loads((root / "summary.json").read_text()) for root in (calm, rough))
        rows = finished_rows(rough)
    for stage in wanted:
        print(f"{stage:10} {'equal' if wanted[stage] == got[stage] else 'DIFFERENT'}")
    once = got["rows"] == got["distinct"] == args.clips
    again = len(rows) - len(set(rows))
    print(f"{sum(killed.values())} kills: {', '.join(f'{count} {name}' for name, count in killed.items())}")
    print(f"{got['rows']} rows of {args.clips} clips, each once: {'yes' if once else 'NO'}")
    print(f"{len(rows)} rows computed for {len(set(rows))}: {1 - again / len(rows):.1%} not computed again (aim 90 %)")
    if wanted != got or not once:
        raise SystemExit("FAILED")


if __name__ == "__main__":
    main()
