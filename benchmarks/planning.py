"""Measure `plan` on a pipeline of many stages against reading the same manifests as JSON.

    python benchmarks/planning.py --out WORK [--stages 10000] [--files 3]

A synthetic pipeline with the real jobs' code, every stage with a finished output in the store, each reading the two
stages before it. Both then run in turns: `plan` as the command calls it (recipes, fingerprints, records, sizes of
files), and a loop that reads every MANIFEST.json and parses it. Twice: everything cached, and everything changed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lumina.config import Config
from pipelines.engine.fingerprint import Identifier
from pipelines.engine.plan import Plan, plan
from pipelines.engine.stage import Pipeline, Stage
from pipelines.engine.store.manifest import Manifest, OutputFile
from pipelines.engine.store.store import Store

JOBS = ("jobs.train:run", "jobs.evaluate:run", "jobs.export:run", "jobs.curation_page:run")


class StageConfig(Config):
    """As many settings as a stage has."""

    number: int
    sizes: tuple[tuple[int, int], ...] = ((256, 256), (512, 288), (288, 512))
    rates: tuple[tuple[str, float], ...] = (("lr", 1e-4), ("decay", 0.01), ("ema", 0.9999))
    name: str = "a stage of many"


def stages(count: int) -> Iterator[Stage]:
    """Stages that each read the two before them."""
    for number in range(count):
        upstream = [f"stage@{number - back}" for back in (1, 2) if number >= back]
        inputs = {f"input{index}": name for index, name in enumerate(upstream)}
        entry = JOBS[number % len(JOBS)]
        yield Stage(f"stage@{number}", entry, StageConfig(number=number), inputs=inputs, depends=("torch", "numpy"))


def fill(store: Store, pipeline: Pipeline, files: int) -> list[Path]:
    """Put a finished output of every stage into the store; the manifests' paths."""
    identifier, digests, paths = Identifier(), dict[str, str](), []
    for stage in pipeline.order:
        found = identifier.identify(stage, digests)
        digests[stage.name] = f"sha256:{found.fingerprint}"
        directory = store.directory(stage.name, found.fingerprint)
        paths.append(directory / "MANIFEST.json")
        if paths[-1].is_file():
            continue
        (directory / "a-1").mkdir(parents=True, exist_ok=True)
        outputs = [OutputFile(f"part-{index:05}.parquet", 100, "0" * 64) for index in range(files)]
        for output in outputs:
            (directory / "a-1" / output.path).write_bytes(b"x" * output.bytes)
        digest = digests[stage.name]
        made = Manifest(stage.name, digest, "a-1", "files", digest, found.recipe, tuple(outputs), seconds=60.0)
        paths[-1].write_text(made.to_json())
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stages", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    store = Store(args.out)
    store.prepare()
    pipeline = Pipeline("many", tuple(stages(args.stages)))
    changed = Pipeline("many", tuple(replace(stage, version=2) for stage in pipeline.stages))
    paths = fill(store, pipeline, args.files)

    def read() -> None:
        for path in paths:
            json.loads(path.read_text())

    def timed(work: Callable[[], object]) -> tuple[float, float]:
        begun, cpu = time.perf_counter(), time.process_time()
        work()
        return time.perf_counter() - begun, time.process_time() - cpu

    made: dict[str, Plan] = {}

    def cached() -> None:
        made["cached"] = plan(pipeline, store)

    def other() -> None:
        made["run"] = plan(changed, store)

    turns = [(timed(cached), timed(other), timed(read)) for _ in range(args.repeats)]
    for state, found in made.items():
        if found.count("cached" if state == "cached" else "run") != args.stages:
            raise SystemExit(f"the plan is wrong: {found.as_dict()['summary']}")
    print(f"{args.stages:,} stages, {sum(path.stat().st_size for path in paths) / 1e6:.0f} MB of manifests; medians:")
    for name, column in (("all cached", 0), ("all changed", 1), ("reading JSON", 2)):
        wall, cpu = (statistics.median(turn[column][clock] for turn in turns) for clock in (0, 1))
        print(f"  {name:<14} {wall:6.2f} s, {cpu:6.2f} s of CPU time")
    ratios = [turn[0][1] / turn[2][1] for turn in turns]
    print(
        f"  CPU time of a cached plan: {statistics.median(ratios):.1f} [{min(ratios):.1f}, {max(ratios):.1f}] x reading"
    )


if __name__ == "__main__":
    main()
