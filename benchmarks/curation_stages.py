"""Time the stages of curation on the local cluster, and against the released scripts' way.

    python benchmarks/curation_stages.py --clips 500

Clips are Shapes films of ten seconds at 640x480 and 24 frames per second, as people have them: longer and larger than
what is needed of them. The released way is one process that decodes every frame of a clip to float32 and handles one
clip at a time, with the same networks; it runs over the first `--released` clips, and its pace is compared with that of
the stage.

(Not `curation.py`: Ray puts the directory of this script before the package of that name.)
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])

import cv2
import numpy as np
import pyarrow as pa

from curation.decode import PROBE_OPERATOR, ProbeConfig
from curation.latents import ENCODE_LATENTS_OPERATOR, EncodeLatentsConfig
from curation.manifests import IngestConfig
from curation.motion_scores import MOTION_OPERATOR, MotionConfig
from curation.operator import Env, Halves, Operator, RowsFunction
from curation.selection import SelectConfig
from curation.sources import TagConfig
from jobs import cluster
from jobs.context import InputRef
from jobs.runtime import RuntimeConfig
from lumina import zoo
from lumina.frame_times import pick_indices
from lumina.motion import UniMatchFlow
from lumina.randomness import generator
from lumina.shapes import SOURCES, film, sample_scene
from lumina.sizes import resize_crop
from lumina.video import write_h264
from tests.jobs.chain import Chain

ZOO = Path(zoo.__file__).parent
WIDTH, HEIGHT, FRAMES, FPS, DISTINCT = 640, 480, 240, 24, 40
MOTION = MotionConfig(height=64, width=64)
LATENTS = EncodeLatentsConfig(resolution=64, fps=8, num_frames=17)


def _timed(operator: Operator) -> Operator:
    """The operator, with a line in a file for every unit: rows, seconds, CPU seconds of worker and decoder."""
    make = operator.map
    if make is None:
        raise TypeError(f"{operator.name} computes nothing in workers")

    def make_timed(config: Any, env: Env) -> RowsFunction:
        made = make(config, env)
        halves = made if isinstance(made, Halves) else Halves(lambda table: table, made)
        begun, ended, cpu = deque[float](), 0.0, _cpu_seconds()

        def load(table: pa.Table) -> Any:
            begun.append(time.perf_counter())
            return halves.load(table)

        def compute(loaded: Any) -> pa.Table:
            nonlocal ended, cpu
            rows = halves.compute(loaded)
            # A unit that was loaded during the one before it begins where that ends.
            before, ended, cpu_before, cpu = max(ended, begun.popleft()), time.perf_counter(), cpu, _cpu_seconds()
            with open(env.weights["log"], "a") as log:
                log.write(json.dumps([operator.name, len(rows), ended - before, cpu - cpu_before]) + "\n")
            return rows

        return Halves(load, compute)

    return replace(operator, map=make_timed)


def _cpu_seconds() -> float:
    """Of this process and its decoding child."""
    import psutil

    process = psutil.Process()
    return sum(
        one.cpu_times().user + one.cpu_times().system for one in (process, *process.children()) if one.is_running()
    )


TIMED_PROBE, TIMED_MOTION, TIMED_LATENTS = map(_timed, (PROBE_OPERATOR, MOTION_OPERATOR, ENCODE_LATENTS_OPERATOR))


@dataclass(frozen=True)
class Stage:
    """What one stage took."""

    clips: int
    wall_s: float
    kernel_s: float
    """Seconds inside the operator, summed over workers."""
    cpu_s: float

    def line(self, name: str, cores: int) -> str:
        """One line of the table."""
        share = self.kernel_s / (self.wall_s * cores)
        return (
            f"{name:8} {self.clips / self.wall_s:8.1f} clips/s {1e3 * self.cpu_s / self.clips:8.1f} CPU ms/clip "
            f"{self.wall_s:7.1f} s wall, {share:.2f} of wall x cores in the operator"
        )


def render(folder: Path, clips: int) -> None:
    """Write films; beyond the first `DISTINCT` they are copies with a byte of their own behind the end."""
    folder.mkdir()
    for number in range(clips):
        path = folder / f"{number:04}.mp4"
        if number >= DISTINCT:
            path.write_bytes((folder / f"{number % DISTINCT:04}.mp4").read_bytes() + number.to_bytes(4, "big"))
            continue
        rng = generator(5, "curation benchmark", number)
        small = film(sample_scene(rng), SOURCES["synthetic"], rng, num_frames=48, height=96, width=128, fps=FPS)
        # There and back again: scenes last two seconds.
        turns = np.concatenate([small, small[::-1]])[np.arange(FRAMES) % 96]
        write_h264(path, np.stack([cv2.resize(frame, (WIDTH, HEIGHT)) for frame in turns]), FPS)


def stages(root: Path, media: Path) -> tuple[Chain, dict[str, Stage]]:
    """Run all stages up to latents on the local cluster."""
    log = root / "units.jsonl"
    weights = {"vae": str(ZOO / "vae"), "unimatch": str(ZOO / "unimatch"), "log": str(log)}
    chain = Chain(root / "run", media, weights)
    chain.runtime = RuntimeConfig(curation_workers=os.cpu_count())
    chain.refs["manifest"] = InputRef("manifest", media, "")
    run = partial(_run, chain, log)
    run("ingest", "curation.manifests:INGEST_OPERATOR", IngestConfig(), manifest="manifest")
    found = {"probe": run("probe", "curation_stages:TIMED_PROBE", ProbeConfig(), clips="ingest")}
    found["motion"] = run("motion", "curation_stages:TIMED_MOTION", MOTION, clips="probe")
    run("tag", "curation.sources:TAG_OPERATOR", TagConfig(template="From {source}."), clips="probe")
    inputs = {"clips": "probe", "motion": "motion", "tag": "tag"}
    run("select", "curation.selection:SELECT_OPERATOR", SelectConfig(), **inputs)
    found["encode"] = run("latents", "curation_stages:TIMED_LATENTS", LATENTS, select="select", tag="tag")
    return chain, found


def _run(chain: Chain, log: Path, stage: str, operator: str, config: Any, **inputs: str) -> Stage:
    log.unlink(missing_ok=True)
    begun = time.perf_counter()
    result = chain.run(stage, operator, config, **inputs)
    wall = time.perf_counter() - begun
    units = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    clips = result.counts["in"]
    return Stage(clips, wall, sum(unit[2] for unit in units), sum(unit[3] for unit in units))


def released_motion(files: list[Path]) -> float:
    """Clips per second of the released way to score motion."""
    import decord
    import torch
    import torch.nn.functional as F

    decord.logging.set_level(decord.logging.QUIET)
    torch.set_num_threads(1)
    estimator = UniMatchFlow.from_pretrained(ZOO / "unimatch")
    begun = time.perf_counter()
    for file in files:
        reader = decord.VideoReader(str(file), num_threads=1)
        whole = torch.from_numpy(reader.get_batch(range(len(reader))).asnumpy()).permute(0, 3, 1, 2).float()
        indices = pick_indices(MOTION.times_s, reader.get_avg_fps(), len(reader))
        size = (MOTION.height, MOTION.width)
        resized = F.interpolate(whole, size, mode="bilinear", align_corners=True)[indices]
        with torch.no_grad():
            for first, second in pairwise(resized):
                estimator.model(first[None], second[None]).abs().mean().item()
    return len(files) / (time.perf_counter() - begun)


def released_encode(files: list[Path]) -> float:
    """Clips per second of the released way to encode."""
    import decord
    import torch
    from diffusers import AutoencoderKLCogVideoX

    torch.set_num_threads(1)
    vae = AutoencoderKLCogVideoX.from_pretrained(ZOO / "vae", low_cpu_mem_usage=False).eval()
    begun = time.perf_counter()
    for file in files:
        reader = decord.VideoReader(str(file), num_threads=1)
        whole = reader.get_batch(range(len(reader))).asnumpy()
        indices = pick_indices([step / 8 for step in range(17)], reader.get_avg_fps(), len(reader))
        pixels = torch.from_numpy(resize_crop(whole, (64, 64))).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        with torch.no_grad():
            vae.encode(pixels[:, :, indices]).latent_dist.mode()
    return len(files) / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--released", type=int, default=20)
    args = parser.parse_args()
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        render(root / "media", args.clips)
        cluster.ensure(RuntimeConfig())
        _, found = stages(root, root / "media")
        cluster.shutdown()
        files = sorted((root / "media").iterdir())[: args.released]
        released = {"motion": released_motion(files), "encode": released_encode(files)}
    for stage, took in found.items():
        print(took.line(stage, cores))
    kernel, wall = sum(took.kernel_s for took in found.values()), sum(took.wall_s for took in found.values())
    print(f"pipeline efficiency {kernel / (wall * cores):.2f} over {args.clips} clips on {cores} cores (aim 0.85)")
    for stage, aim in (("motion", 3), ("encode", 2)):
        ours = found[stage].clips / found[stage].wall_s
        ratio = f"{ours / released[stage]:.1f}x (aim {aim}x)"
        print(f"{stage}: {ours:.1f} clips/s, the released way {released[stage]:.1f}: {ratio}")


if __name__ == "__main__":
    main()
