"""Curation after an edit of the data, which takes what it can from an earlier output, against computing it all.

    python benchmarks/edited_data.py --clips 300

The edit: a tenth of the clips is new, a tenth is gone, a tenth has other captions, and the system prompt is another.
Prints for each stage that opens files the seconds and rows of both ways, and whether their digests are equal; exit 1 if
one is not. Clips are those of `curation_stages.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])

from curation_stages import LATENTS, MOTION, ZOO, render

from curation.decode import ProbeConfig
from curation.manifests import IngestConfig
from curation.selection import SelectConfig
from curation.sources import TagConfig
from jobs import cluster
from jobs.context import InputRef, JobResult
from jobs.runtime import RuntimeConfig
from lumina.config import Config
from tests.jobs.chain import Chain

STAGES = ("probe", "motion", "latents")


def curate(chain: Chain, manifest: Path, tag: TagConfig) -> dict[str, tuple[JobResult, float]]:
    """Run all stages up to latents; result and seconds of each."""
    chain.refs["manifest"] = InputRef("manifest", manifest, "")
    found = {}

    def run(stage: str, operator: str, config: Config, **inputs: str) -> None:
        began = time.perf_counter()
        result = chain.run(stage, f"curation.{operator}_OPERATOR", config, **inputs)
        found[stage] = (result, time.perf_counter() - began)

    run("ingest", "manifests:INGEST", IngestConfig(), manifest="manifest")
    run("probe", "decode:PROBE", ProbeConfig(), clips="ingest")
    run("motion", "motion_scores:MOTION", MOTION, clips="probe")
    run("tag", "sources:TAG", tag, clips="probe")
    run("select", "selection:SELECT", SelectConfig(), clips="probe", motion="motion", tag="tag")
    run("latents", "latents:ENCODE_LATENTS", LATENTS, select="select", tag="tag")
    return found


def write_manifest(path: Path, clips: range, captions: str) -> None:
    """List the clips; every tenth has a caption that begins with `captions`."""
    lines = [f"{n:04}.mp4,{captions if n % 10 == 0 else 'a'} clip {n},web" for n in clips]
    path.write_text("\n".join(["video,caption,source", *lines]) + "\n")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=300)
    clips = parser.parse_args().clips
    weights = {"vae": str(ZOO / "vae"), "unimatch": str(ZOO / "unimatch")}
    runtime = RuntimeConfig(curation_workers=os.cpu_count())
    cluster.ensure(runtime)
    with tempfile.TemporaryDirectory() as folder:
        root, media = Path(folder), Path(folder) / "media"
        render(media, clips + clips // 10)
        before, after = media / "before.csv", media / "after.csv"
        write_manifest(before, range(clips), "some")
        write_manifest(after, range(clips // 10, clips + clips // 10), "another")
        first = Chain(root / "first", media, weights)
        again, fresh = Chain(root / "again", media, weights, first), Chain(root / "fresh", media, weights)
        for chain in (first, again, fresh):
            chain.runtime = runtime
        curate(first, before, TagConfig(template="Videos from {source}."))
        edited = TagConfig(template="Good videos from {source}.")
        taken, computed = curate(again, after, edited), curate(fresh, after, edited)
    differ = 0
    for stage in STAGES:
        (one, seconds), (other, whole) = taken[stage], computed[stage]
        equal = one.digest == other.digest
        differ += not equal
        print(
            f"{stage:8} {sum(one.taken.values())} of {one.counts['in']} rows taken, {seconds:6.1f} s; all computed "
            f"{whole:6.1f} s; ratio {seconds / whole:.2f}; digests {'equal' if equal else 'DIFFER'}"
        )
    if differ:
        raise SystemExit(f"{differ} stages differ")


if __name__ == "__main__":
    main()
