"""Measure the judges of VBench against the official functions, on the same clips in the same run, on one core.

    python benchmarks/vbench.py [--official FOLDER]

Rendered clips: 50 of 16 frames of 128x128, and some of 32 frames of 256x256. Networks have drawn weights: DINO
ViT-B/16, CLIP ViT-B/32 and RAFT of full size. FOLDER is where the wheel of vbench 0.1.5 was unpacked; temporal
flickering and dynamic degree are then its own functions. What else it imports (torchvision, decord, CLIP) is not
installed here, so that the consistencies are its loop written out: a frame at a time through the network, features
compared one by one. Prints CPU time of one thread for each clip and dimension, the share spent decoding, peak memory,
and the ratio of the official time to ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import sys
import tempfile
import time
import types
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from lumina.randomness import generator
from lumina.vbench import dynamic_degree, flicker, frame_choice
from lumina.vbench.consistency import consistency
from lumina.vbench.networks import preprocess
from lumina.vbench.networks.clip import Clip
from lumina.vbench.networks.dino import Dino, load_dino
from lumina.vbench.networks.flow import FlowNetwork
from lumina.vbench.networks.raft import Raft
from lumina.vbench.reading import ClipFrames, read_clip
from lumina.video import write_h264


def render(path: Path, number: int, frames: int, side: int) -> None:
    """A coloured block that moves over a still texture."""
    rng = generator(number, "vbench-benchmark")
    image = cv2.resize(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8), (side, side))
    shown = np.repeat(image[None], frames, 0)
    colour, size = rng.integers(0, 255, 3), side // 4
    for step in range(frames):
        at = (step * (1 + number % 6)) % (side - size)
        shown[step, size : 2 * size, at : at + size] = colour
    write_h264(path, shown, 8)


def official_frames(path: Path) -> list[np.ndarray]:
    """As the official code reads them: OpenCV, a list of BGR."""
    video, frames = cv2.VideoCapture(str(path)), []
    while True:
        success, frame = video.read()
        if not success:
            return frames
        frames.append(frame)


def official_module(folder: Path, name: str, root: str) -> Any:
    """A module of the wheel, whose other imports are of the printing and of several processes."""
    sys.path.insert(0, str(folder / root))
    for stub, members in {"vbench": (), "vbench.utils": ("load_dimension_info",), "easydict": ("EasyDict",)}.items():
        module: Any = sys.modules.setdefault(stub, types.ModuleType(stub))
        for member in members:
            setattr(module, member, dict)
    package: Any = sys.modules["vbench"]
    package.__path__ = [str(folder / "vbench")]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{folder} holds no {name}: unpack the wheel of vbench 0.1.5 there")
    return importlib.import_module(name)


def official_consistency(features: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> float:
    """The official loop (subject_consistency.py, background_consistency.py): a frame at a time."""
    total, first, former = 0.0, None, None
    for number in range(len(images)):
        with torch.no_grad():
            feature = F.normalize(features(images[number : number + 1]), dim=-1, p=2)
        if first is None or former is None:
            first = feature
        else:
            before = max(0.0, F.cosine_similarity(former, feature).item())
            start = max(0.0, F.cosine_similarity(first, feature).item())
            total += (before + start) / 2
        former = feature
    return total / (len(images) - 1)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.process_time()
    found = function()
    return time.process_time() - begun, found


def official_clip_score(clip: Clip, path: Path) -> float:
    """Background consistency: all frames prepared at once, as there."""
    frames = np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in official_frames(path)])
    return official_consistency(lambda x: clip.model.get_image_features(pixel_values=x).pooler_output,
                                preprocess.clip_float(frames))  # fmt: skip


def official_dino_score(dino: Dino, path: Path) -> float:
    """Subject consistency, likewise."""
    frames = np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in official_frames(path)])
    return official_consistency(
        lambda x: dino.model(x, interpolate_pos_encoding=True).last_hidden_state[:, 0], preprocess.dino(frames)
    )


def official_flicker(path: Path) -> float:
    """temporal_flickering.py, written out."""
    frames = official_frames(path)
    pairs = pairwise(frames)
    errors = [np.mean(cv2.absdiff(np.array(a, np.float32), np.array(b, np.float32))) for a, b in pairs]
    return float((255.0 - np.mean(errors)) / 255.0)


def official_dynamic(judge: Any, path: Path) -> bool:
    """dynamic_degree.py by the class of the wheel."""
    return bool(judge.infer(str(path)))


def own_dynamic(raft: FlowNetwork, clip: ClipFrames) -> bool:
    kept = clip.pixels[:: frame_choice.eight_a_second(clip.fps)]
    scores = [dynamic_degree.pair_score(flow) for flow in raft.flows(kept)]
    return dynamic_degree.is_dynamic(scores, min(kept.shape[1:3]), len(kept))


def networks(folder: Path) -> tuple[Dino, Clip, FlowNetwork]:
    """Of full size, with drawn weights."""
    torch.manual_seed(0)
    ViTModel(ViTConfig(), add_pooling_layer=False).save_pretrained(folder / "dino")
    clip = CLIPModel(CLIPConfig()).eval().requires_grad_(False)
    raft = Raft().eval().requires_grad_(False)
    torch.save({f"module.{name}": value for name, value in raft.state_dict().items()}, folder / "raft.pth")
    return load_dino(folder / "dino"), Clip(clip, ""), FlowNetwork(raft, "")


def wheel_dynamic(folder: Path, weights: Path) -> Any:
    """The official judge with our weights."""
    module = official_module(folder, "vbench.dynamic_degree", "vbench/third_party/RAFT/core")
    judge = module.DynamicDegree.__new__(module.DynamicDegree)
    judge.args, judge.device = _Settings(small=False, mixed_precision=False, alternate_corr=False), torch.device("cpu")
    judge.args.model = str(weights)
    judge.load_model()
    return judge


def wheel_flicker(folder: Path) -> Callable[[Path], float]:
    """The official function."""
    module = official_module(folder, "vbench.temporal_flickering", ".")
    return lambda path: float(module.cal_score(str(path)))


class _Settings(dict[str, Any]):
    """In place of easydict."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


def measure(name: str, clips: list[Path], own: Callable[[ClipFrames], Any], official: Callable[[Path], Any]) -> None:
    """Print a line; both take turns, so that a busy machine is fair to both."""
    decoding = judging = theirs = 0.0
    for path in clips:
        seconds, clip = timed(partial(read_clip, path))
        decoding += seconds
        seconds, mine = timed(partial(own, clip))
        judging += seconds
        seconds, found = timed(partial(official, path))
        theirs += seconds
        if abs(float(mine) - float(found)) > 2e-5:
            raise SystemExit(f"{name} of {path.name}: {mine} here, {found} there")
    ours, count = decoding + judging, len(clips)
    print(
        f"{name}: {1000 * ours / count:.1f} ms a clip, {decoding / ours:.0%} of it decoding; official "
        f"{1000 * theirs / count:.1f} ms, {theirs / ours:.2f} times ours; equal scores, {count} clips",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="folder of the unpacked wheel")
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--large", type=int, default=10)
    parser.add_argument("--networks", type=int, default=10, help="clips of each size that ViTs look at")
    parser.add_argument("--flow", type=int, default=5, help="clips of each size whose flow is computed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        dino, clip, raft = networks(folder)
        judge = wheel_dynamic(args.official, folder / "raft.pth") if args.official else None
        theirs = official_flicker if args.official is None else wheel_flicker(args.official)
        for frames, side, count in ((16, 128, args.clips), (32, 256, args.large)):
            made = [folder / f"{side}-{number}.mp4" for number in range(count)]
            for number, path in enumerate(made):
                render(path, number, frames, side)
            print(f"{frames} frames of {side}x{side}")
            # Networks are warm before they are timed.
            warm = read_clip(made[0]).pixels[:4]
            dino.features(warm)
            clip.images(warm)
            measure("temporal flickering", made, lambda c: flicker.flicker(c.pixels), theirs)
            some = made[: args.networks]
            measure("subject consistency", some, lambda c: consistency(dino.features(c.pixels).numpy()).value,
                    lambda path: official_dino_score(dino, path))  # fmt: skip
            measure("background consistency", some, lambda c: consistency(clip.images(c.pixels).numpy()).value,
                    lambda path: official_clip_score(clip, path))  # fmt: skip
            if judge is not None:
                measure("dynamic degree", made[: args.flow], lambda c: own_dynamic(raft, c),
                        lambda path: official_dynamic(judge, path))  # fmt: skip
    print(f"peak memory of this process, networks of both included: {_peak_gib():.2f} GiB")


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
