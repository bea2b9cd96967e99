"""Motion conditioning end to end: clips asked for at several motion scores, and how much they were measured to move.

    python benchmarks/motion_control.py --work /tmp/motion

Renders circles whose captions name colour and direction and not the speed, which is anything up to 0.3 shorter sides a
second: what tells it is the motion score alone. A run of the project scores them, encodes them and
trains a small network from nothing, with the score withheld from a share of the clips (paper section 3.2). Then the
same prompts are sampled from the same noises at asked scores (quantiles of those of the clips, and -1, which leaves it
to the model), with the paper's split of guidance: the negative side asks for 0 until t = 0.05, and for the same after.

Prints for each asked score the measured one, by the code that scored the clips, and the speed of the shape, with 95 %
intervals over prompts; and the rank correlation of asked and measured scores over all clips. The reference is -1.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import numpy as np
import pyarrow.dataset as dataset
import torch

from lumina import zoo
from lumina.evaluation.generation import ClipGenerator
from lumina.evaluation.noise import evaluation_noise
from lumina.evaluation.subsets import FloatArray, interval, rank_correlation, resample, weighted_mean
from lumina.flow_matching.schedules import SamplerConfig
from lumina.motion import DISFlow, motion_scores
from lumina.randomness import generator
from lumina.shapes import measure, render, sample_scene
from lumina.system_prompts import read_system_prompts
from lumina.video import write_h264
from pipelines.engine.store.store import Store

SIDE, FPS, FRAMES, FASTEST, RADIUS = 64, 8, 17, 0.3, 0.2
SAMPLES, INTERVAL = 4, FPS // 2
"""A score looks at every half second of a clip, as in the paper; four times, which the generated clips have too."""
COLORS, DIRECTIONS = ("red", "blue"), ("left", "right")
"""Few words, so that a small network has learnt them soon and goes on to the score."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BATCH = 16


def words(color: str, direction: str) -> str:
    """What a caption says: all but how fast."""
    return f"A {color} circle moves to the {direction}."


def write_clips(folder: Path, count: int) -> Path:
    """Clips at all speeds, and their manifest."""
    folder.mkdir(parents=True)
    rows = []
    for index in range(count):
        rng = generator(0, "motion-control", str(index))
        color, direction = COLORS[index % 2], DIRECTIONS[index // 2 % 2]
        scene = sample_scene(rng, num_shapes=1, color=color, kind="circle", direction=direction)
        shape = dataclasses.replace(scene.shapes[0], velocity=FASTEST * rng.random(), radius=RADIUS)
        frames = render(
            dataclasses.replace(scene, shapes=(shape,)), num_frames=FRAMES, height=SIDE, width=SIDE, fps=FPS
        )
        write_h264(folder / f"{index:04d}.mp4", frames, FPS)
        rows.append({"video": f"{index:04d}.mp4", "caption": words(color, direction), "source": "clips"})
    with (folder / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder / "clips.csv"


def train(manifest: Path, store: Path, steps: int, drop: float) -> None:
    """Score, encode and train, by a run of the project as far as its training."""
    task = "{name: video-1x2, media: video, patch: [1, 2, 2], time_shift: 4, batch_size: 16}"
    schedule = f"lr: 4.0e-3, warmup_steps: {min(30, steps)}, lr_decay: cosine, ema_decay: 0.95, ema_every: 5"
    stage = f"latents: [videos], steps: {steps}, initialisation: conditioned, motion_drop: {drop}, {schedule}"
    settings = {
        "data.manifest": str(manifest),
        "motion": f"{{estimator: dis, height: {SIDE}, width: {SIDE}, samples: {SAMPLES}}}",
        "latents.videos": f"{{media: [video], resolution: {SIDE}, max_ratio: 1, fps: {FPS}, num_frames: {FRAMES}, "
        f"min_frames: {FRAMES}, dtype: float32}}",
        "model": "{dim: 128, n_layers: 4, n_heads: 4, n_kv_heads: 2, multiple_of: 64, cap_feat_dim: 128, "
        "rope_theta: 0.5}",
        "train": f'{{"1": {{{stage}, tasks: [{task}]}}}}',
        "evaluate.sampler": "{patches: [[0.0, [1, 2, 2]]]}",
        "export.sampler": "{patches: [[0.0, [1, 2, 2]]]}",
        "runtime.log_every": "50",
        "runtime.checkpoint_every": str(steps),
    }
    overrides = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    lumina = str(Path(sys.executable).with_name("lumina"))
    subprocess.run([lumina, "run", "folder", "--until", "train@1", "--store", str(store), *overrides], check=True)


def newest(store: Store, stage: str) -> Path:
    """Output of a stage that was computed last."""
    return store.output(max(store.manifests(stage), key=lambda manifest: manifest.started))


def sampled(clips: ClipGenerator, system: str, prompts: Sequence[str], score: float) -> tuple[FloatArray, FloatArray]:
    """Measured motion score and speed of one clip of each prompt, the noise being the prompt's."""
    split = ((0.0, 0.0), (0.05, score)) if score >= 0 else ((0.0, score),)
    settings = SamplerConfig(
        steps=25, time_shift=4.0, guidance=((0.0, 3.0),), motion=((0.0, score),), negative_motion=split
    )
    frames = []
    for at in range(0, len(prompts), BATCH):
        some = prompts[at : at + BATCH]
        noises = [evaluation_noise(0, f"motion-{at + index}", 0) for index in range(len(some))]
        frames += list(clips.generate(system, some, noises, settings, num_frames=FRAMES - 1, height=SIDE, width=SIDE))
    looked_at = [clip[::INTERVAL][:SAMPLES] for clip in frames]
    scores = [one.flow_abs_mean for one in motion_scores(looked_at, DISFlow(), (SIDE, SIDE))]
    shapes = [measure(clip, FPS).shapes for clip in frames]
    return np.array(scores)[:, None], np.array([found[0].speed_value if found else np.nan for found in shapes])[:, None]


def told(values: FloatArray, counts: np.ndarray) -> str:
    """A mean with its interval."""
    one = np.ones((1, len(values)), np.int64)
    found = interval(float(weighted_mean(one, values)[0]), weighted_mean(counts, values), len(values), 0.95)
    return f"{found.value:6.3f} [{found.low:.3f}, {found.high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for clips and the run; what is there is kept")
    parser.add_argument("--clips", type=int, default=480)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--motion-drop", type=float, default=0.4, help="share of clips whose score is withheld [paper]")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    began = time.monotonic()
    manifest = args.work / "clips" / "clips.csv"
    if not manifest.exists():
        write_clips(manifest.parent, args.clips)
    train(manifest, args.work / "runs", args.steps, args.motion_drop)
    store = Store(args.work / "runs")
    given = dataset.dataset(newest(store, "motion") / "data").to_table(columns=["flow_abs_mean"])["flow_abs_mean"]
    print(f"trained after {time.monotonic() - began:.0f} s on {len(given)} clips", flush=True)

    networks = Path(zoo.__file__).parent
    checkpoint = newest(store, "train@1") / "transformer_ema"
    clips = ClipGenerator.load(checkpoint, str(networks / "vae"), str(networks / "text_encoder"), "cpu", torch.float32)
    system = read_system_prompts(newest(store, "tag") / "system_prompts.json")["clips"].text
    prompts = [words(COLORS[index % 2], DIRECTIONS[index // 2 % 2]) for index in range(args.prompts)]
    counts = resample([f"clip {index}" for index in range(len(prompts))], 0, 10_000)
    asked = [float(value) for value in np.quantile(given.to_numpy(), QUANTILES)]
    measured: dict[float, FloatArray] = {}
    print(f"{len(prompts)} clips, each from the same noise at every score; measured by the code that scored the clips")
    print("   asked   motion score            shorter sides a second   ratio to unspecified")
    for score in (-1.0, *asked):
        measured[score], speeds = sampled(clips, system, prompts, score)
        ratio = measured[score].mean() / measured[-1.0].mean()
        print(f"{score:8.3f}  {told(measured[score], counts)}  {told(speeds, counts)}  {ratio:6.2f}", flush=True)
    rows = np.concatenate([measured[score] for score in asked], axis=1)
    wanted = np.broadcast_to(np.array(asked), rows.shape).copy()
    once = np.ones((1, len(rows)), np.int64)
    rho = interval(
        float(rank_correlation(once, rows, wanted)[0]), rank_correlation(counts, rows, wanted), len(rows), 0.95
    )
    rising = float(np.mean(np.diff(rows, axis=1) > 0))
    print(f"rank correlation of asked and measured {rho.value:.3f} [{rho.low:.3f}, {rho.high:.3f}]")
    print(f"of a prompt's next higher scores, {rising:.0%} are measured higher")
    print(f"took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
