"""Time the stages of curation on the local cluster, and against the released scripts' way.

    python benchmarks/curation_stages.py --clips 500            # stages and the released way
    python benchmarks/curation_stages.py --scaling scaling.png  # metadata stages from 100 to 100,000 rows

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
from collections.abc import Mapping
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
import pyarrow.dataset as ds

from curation.decode import PROBE_OPERATOR, ProbeConfig
from curation.film_frames import Track
from curation.latents import ENCODE_LATENTS_OPERATOR, EncodeLatentsConfig
from curation.manifests import INGEST_OPERATOR, IngestConfig
from curation.motion_scores import MOTION_OPERATOR, MotionConfig
from curation.operator import Env, Halves, Input, Operator, RowsFunction
from curation.selection import SELECT_OPERATOR, SelectConfig
from curation.sources import TAG_OPERATOR, TagConfig
from jobs import cluster
from jobs.context import InputRef
from jobs.parts import write_part
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
    make = operator.make
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

    return replace(operator, make=make_timed)


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


def scaling(path: Path) -> None:
    """Time tag and select, the stages of tables alone, and the plan of encode_latents; plot time and memory."""
    counts, times, peaks = [100, 1000, 10_000, 100_000], [], []
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            seconds, peak = _metadata_stages(Path(name), count)
        times.append(seconds)
        peaks.append(peak)
        print(f"{count:7} rows: {seconds:7.2f} s, {1e6 * seconds / count:6.0f} us/row, peak {peak:6.0f} MiB")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), dpi=120, layout="constrained")
    for axes, values, label in zip(figure.subplots(1, 2), (times, peaks), ("seconds", "peak memory, MiB"), strict=True):
        axes.plot(counts, values, marker="o")
        axes.set(xscale="log", xlabel="manifest rows", ylabel=label)
        axes.set_yscale("log" if label == "seconds" else "linear")
        axes.grid(alpha=0.3)
    figure.savefig(path)


def _metadata_stages(root: Path, count: int) -> tuple[float, float]:
    """Seconds, and the peak memory of a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            (root / "seconds").write_text(str(_plan_all(root, count)))
        finally:
            os._exit(0)
    _, _, usage = os.wait4(pid, 0)
    return float((root / "seconds").read_text()), usage.ru_maxrss / 1024


def _plan_all(root: Path, count: int) -> float:
    rng = generator(0, "scaling")
    lines = [f"{n:06}.mp4,a red circle number {n},{('web', 'film')[n % 2]}" for n in range(count)]
    (root / "clips.csv").write_text("video,caption,source\n" + "\n".join(lines) + "\n")
    env, made = Env(str(root)), dict[str, Input]()

    def done(name: str, operator: Operator, rows: pa.Table, config: Any) -> None:
        directory = root / name / "data"
        directory.mkdir(parents=True)
        write_part(rows.cast(operator.schema), [0], directory, operator.layout(config))
        for record in directory.glob("*.json"):
            record.unlink()
        operator.report(ds.dataset(directory), config, root / name)
        made[name] = Input(root / name)

    def planned(name: str, operator: Operator, config: Any, inputs: Mapping[str, str]) -> pa.Table:
        return operator.plan({key: made[value] for key, value in inputs.items()}, config, env)

    begun = time.perf_counter()
    rows = INGEST_OPERATOR.plan({"manifest": Input(root / "clips.csv")}, IngestConfig(), env)
    hashes = pa.array([f"{n:064x}" for n in range(count)])
    rows = rows.set_column(rows.schema.get_field_index("sha256"), "sha256", hashes)
    finish = INGEST_OPERATOR.finish
    if finish is None:
        raise TypeError("ingest has no finish")
    done("ingest", INGEST_OPERATOR, finish(rows, IngestConfig()), IngestConfig())
    rows = planned("probe", PROBE_OPERATOR, ProbeConfig(), {"clips": "ingest"})
    measured = {
        "width": pa.array([192] * count, pa.int32()),
        "height": pa.array([192] * count, pa.int32()),
        "fps": pa.array([24.0] * count),
        "track": pa.array([str(Track(0, "pts", 1 / 24))] * count),
        "duration_s": pa.array([4.0] * count),
    }
    for name in PROBE_OPERATOR.schema.names:
        if name not in rows.column_names:
            kind = PROBE_OPERATOR.schema.field(name).type
            rows = rows.append_column(name, measured.get(name, pa.nulls(count, kind)))
    done("probe", PROBE_OPERATOR, rows.select(PROBE_OPERATOR.schema.names), ProbeConfig())
    rows = planned("motion", MOTION_OPERATOR, MOTION, {"clips": "probe"})
    scores = pa.table({"clip_id": rows["clip_id"], "flow_abs_mean": pa.array(rng.random(count), pa.float32())})
    status = pa.table(
        {"status": ["ok"] * count, **{n: pa.nulls(count, pa.string()) for n in ("reason", "reason_stage", "detail")}}
    )
    table = pa.Table.from_arrays(
        [
            scores[n]
            if n in scores.column_names
            else status[n]
            if n in status.column_names
            else pa.nulls(count, f.type)
            for n, f in zip(MOTION_OPERATOR.schema.names, MOTION_OPERATOR.schema, strict=True)
        ],
        schema=MOTION_OPERATOR.schema,
    )
    done("motion", MOTION_OPERATOR, table, MOTION)
    tag = TagConfig(template="From {source}.")
    done("tag", TAG_OPERATOR, planned("tag", TAG_OPERATOR, tag, {"clips": "probe"}), tag)
    inputs = {"clips": "probe", "motion": "motion", "tag": "tag"}
    done(
        "select",
        SELECT_OPERATOR,
        planned("select", SELECT_OPERATOR, SelectConfig(min_motion=0.1), inputs),
        SelectConfig(),
    )
    planned("latents", ENCODE_LATENTS_OPERATOR, LATENTS, {"select": "select", "tag": "tag"})
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--released", type=int, default=20)
    parser.add_argument("--scaling", type=Path, help="time the metadata stages instead, and plot here")
    args = parser.parse_args()
    if args.scaling:
        scaling(args.scaling)
        return
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
