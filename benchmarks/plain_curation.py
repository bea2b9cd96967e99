"""CPU time of a clip in probe, motion and encode_latents, against the plainest script with the same results.

    python benchmarks/plain_curation.py                        # Shapes films of 640x480
    python benchmarks/plain_curation.py --media ../clips/*.mp4

The script is one loop in one process. PyAV decodes each film once, to its end, since one that breaks off is no clip,
and frames at the times that are asked for are kept; motion is OpenCV's DIS on frames resized to 320x576 with corners
aligned, scored by both definitions; latents are Pillow's resizing and the package's VAE. It takes films for sound, of a
constant rate, upright and of square pixels. The stages find that out, decode in a child process that may hang, crash or
grow, and do so three times, as each may run without the others. CPU time counts the child. Both take turns, clip by
clip, and the script ends where their results differ.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import av
import cv2
import numpy as np
import pyarrow as pa
import torch

from curation.decode import PROBE_OPERATOR, READ_COLUMNS, ProbeConfig
from curation.latents import _PLANNED, ENCODE_LATENTS_OPERATOR, EncodeLatentsConfig, plan_row
from curation.motion_scores import MOTION_OPERATOR, MotionConfig
from curation.operator import Env, Operator, RowsFunction, apply
from curation.schema import INGEST, PROBE, STATUS_COLUMNS, status_ok, to_table
from curation.tensors import unpack
from lumina import zoo
from lumina.models.autoencoder import VideoAutoencoder
from lumina.randomness import generator
from lumina.shapes import SOURCES, film, sample_scene
from lumina.sizes import resize_crop
from lumina.video import write_h264

VAE = Path(zoo.__file__).parent / "vae"
WIDTH, HEIGHT, FRAMES, FPS = 640, 480, 120, 24
MOTION = MotionConfig(estimator="dis")
LATENTS = EncodeLatentsConfig(resolution=64, fps=8, num_frames=17, max_ratio=1, dtype="float32")
MOTION_ROWS = pa.schema([PROBE.field(name) for name in ("clip_id", *READ_COLUMNS, *STATUS_COLUMNS)])
SELECTED = {"stages": None, "stage_failed": None, "system_prompt_id": "", "motion_score": 1.0, "split": "train"}
AIM = 1.1


@dataclass(frozen=True)
class Known:
    """What is known of a clip in the end."""

    size: tuple[int, int]
    frames: int
    scores: tuple[float, ...]
    """Of the motion: mean of |u| and |v|, mean and 90th percentile of the magnitude."""
    latent: torch.Tensor


class Script:
    """The plain script: a file to what is known of it, and CPU seconds of its three parts."""

    def __init__(self) -> None:
        self.flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.vae = VideoAutoencoder.from_pretrained(VAE)

    def __call__(self, path: Path) -> tuple[Known, list[float]]:
        clock = [time.process_time()]
        kept: dict[int, np.ndarray] = {}
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            fps = float(stream.average_rate or 0)
            for_motion = [round(second * fps) for second in MOTION.times_s]
            for_latents = [round(step / LATENTS.fps * fps) for step in range(LATENTS.num_frames)]
            wanted, count = {*for_motion, *for_latents}, 0
            for frame in container.decode(stream):
                if count in wanted:
                    kept[count] = frame.to_ndarray(format="rgb24")
                count += 1
        clock.append(time.process_time())
        scores = self.motion([kept[index] for index in for_motion if index in kept])
        clock.append(time.process_time())
        frames = resize_crop(np.stack([kept[index] for index in for_latents]), LATENTS.sizes[0])
        latent = self.vae.encode(torch.from_numpy(frames))[0]
        clock.append(time.process_time())
        height, width = kept[0].shape[:2]
        return Known((width, height), count, scores, latent), [later - sooner for sooner, later in pairwise(clock)]

    def motion(self, frames: list[np.ndarray]) -> tuple[float, ...]:
        """The scores of frames half a second apart."""
        (rows, columns), (height, width) = frames[0].shape[:2], (MOTION.height, MOTION.width)
        x = np.arange(width, dtype=np.float32) * np.float32((columns - 1) / (width - 1))
        y = np.arange(height, dtype=np.float32) * np.float32((rows - 1) / (height - 1))
        grey = []
        for frame in frames:
            resized = cv2.remap(frame.astype(np.float32), *np.meshgrid(x, y), cv2.INTER_LINEAR)
            grey.append(cv2.cvtColor(np.rint(resized).astype(np.uint8), cv2.COLOR_RGB2GRAY))
        flow = np.stack([self.flow.calc(first, second, None) for first, second in pairwise(grey)])
        magnitude = np.hypot(flow[..., 0], flow[..., 1])
        return float(np.abs(flow).mean()), float(magnitude.mean()), float(np.percentile(magnitude, 90))


class Stages:
    """The stages as a worker runs them: a file to what is known of it, and CPU seconds of each, the child's included.

    The half that decodes runs before the half that computes here, and not beside the one before.
    """

    def __init__(self, root: Path) -> None:
        env = Env(str(root), {"vae": str(VAE)})
        self.probe = _made(PROBE_OPERATOR, ProbeConfig(), env)
        self.motion = _made(MOTION_OPERATOR, MOTION, env)
        self.encode = _made(ENCODE_LATENTS_OPERATOR, LATENTS, env)

    def __call__(self, path: Path) -> tuple[Known, list[float]]:
        clock = [_cpu_s()]
        row = {"uri": str(path), "media": "video", "source": "", "caption": "", "sha256": path.name, "num_bytes": 1}
        row |= {"span_start_s": None, "span_end_s": None, "clip_id": path.name, "extra": "{}"} | status_ok()
        [row] = apply(PROBE_OPERATOR, self.probe, to_table([row], INGEST)).to_pylist()
        clock.append(_cpu_s())
        [score] = apply(MOTION_OPERATOR, self.motion, to_table([row], MOTION_ROWS)).to_pylist()
        clock.append(_cpu_s())
        planned = row | SELECTED
        planned |= plan_row(planned, LATENTS, LATENTS.sizes)
        [made] = apply(ENCODE_LATENTS_OPERATOR, self.encode, to_table([planned], _PLANNED)).to_pylist()
        clock.append(_cpu_s())
        for one in (row, score, made):
            if one["status"] != "ok":
                raise SystemExit(f"{path}: {one['reason']}: {one['detail']}")
        scores = score["flow_abs_mean"], score["flow_mag_mean"], score["flow_mag_p90"]
        latent = unpack(made["vae_latent_bytes"], made["vae_latent_shape"], made["vae_latent_dtype"])
        known = Known((row["width"], row["height"]), row["frames_decodable"], scores, latent)
        return known, [later - sooner for sooner, later in pairwise(clock)]


def _made(operator: Operator, config: Any, env: Env) -> RowsFunction:
    if operator.map is None:
        raise TypeError(f"{operator.name} computes nothing in workers")
    return operator.map(config, env)


def _cpu_s() -> float:
    """Of this process and its children, to the nanosecond."""
    total = time.process_time()
    for child in Path("/proc/thread-self/children").read_text().split():
        for thread in os.listdir(f"/proc/{child}/task"):
            total += int(Path(f"/proc/{child}/task/{thread}/schedstat").read_text().split()[0]) / 1e9
    return total


def check(path: Path, ours: Known, plain: Known) -> None:
    """SystemExit if two do not know the same of a clip."""
    alike = (
        (ours.size, ours.frames) == (plain.size, plain.frames)
        # DIS makes more of a shade that was rounded otherwise.
        and np.allclose(ours.scores, plain.scores, rtol=1e-2, atol=1e-3)
        and torch.equal(ours.latent, plain.latent)
    )
    if not alike:
        pairs = [(one.size, one.frames, one.scores, float(one.latent.float().norm())) for one in (ours, plain)]
        raise SystemExit(f"{path}: the results differ, so there is nothing to compare: {pairs}")


def render(folder: Path, clips: int) -> list[Path]:
    """Write films with some noise of a camera, which take 0.2 ms a frame to decode: less than films of the web."""
    paths = []
    for number in range(clips):
        rng = generator(5, "plain curation", number)
        clean = film(sample_scene(rng), SOURCES["synthetic"], rng, num_frames=FRAMES, height=120, width=160, fps=FPS)
        frames = np.stack([cv2.resize(frame, (WIDTH, HEIGHT)) for frame in clean])
        noise = rng.normal(0, 3, (HEIGHT, WIDTH, 3)).astype(np.float32)
        rolled = (np.roll(noise, (7 * at, 31 * at), (0, 1)) for at in range(FRAMES))
        noisy = [np.clip(frame + one, 0, 255).astype(np.uint8) for frame, one in zip(frames, rolled, strict=True)]
        paths.append(folder / f"{number:02}.mp4")
        write_h264(paths[-1], np.stack(noisy), FPS, crf=28)
    return paths


def spread(values: Sequence[float], form: str) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=6, help="films to make")
    parser.add_argument("--media", type=Path, nargs="+", help="films to take instead")
    parser.add_argument("--rounds", type=int, default=7, help="how often each loop sees all of them")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(f"load {os.getloadavg()[0]:.1f}; CPU ms a clip, median [least, most] of {args.rounds} rounds")
    with tempfile.TemporaryDirectory() as name:
        paths = [path.resolve() for path in args.media] if args.media else render(Path(name), args.clips)
        loops = Stages(Path(name)), Script()
        took = np.zeros((args.rounds, len(loops), 3))
        for number in range(-1, args.rounds):  # the first warms up
            for path in paths:
                found = [loop(path) for loop in loops]
                check(path, found[0][0], found[1][0])
                if number >= 0:
                    took[number] += [[1e3 * second / len(paths) for second in seconds] for _, seconds in found]
    for loop, parts, names in zip(
        ("ours", "plain"),
        took.transpose(1, 2, 0),
        (("probe", "motion", "encode"), ("decode", "motion", "encode")),
        strict=True,
    ):
        each = ", ".join(f"{part} {spread(values, '.0f')}" for part, values in zip(names, parts, strict=True))
        print(f"{loop:6} {spread(parts.sum(0), '.0f')}: {each}")
    print(f"ours over the plain script: {spread(took[:, 0].sum(1) / took[:, 1].sum(1), '.2f')} of its CPU (aim {AIM})")


if __name__ == "__main__":
    main()
