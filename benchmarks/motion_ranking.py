"""Compare the motion scores of two estimators on real clips.

    python benchmarks/motion_ranking.py FOLDER [--unimatch lumina/zoo/unimatch] [--height 320 --width 576]

Prints the score of every clip that PyAV decodes, by OpenCV's DIS and by a UniMatch network, and the rank correlation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import numpy as np
import torch

from lumina.evaluation.subsets import rank_correlation
from lumina.frame_times import pick_frames
from lumina.motion import RELEASED_TIMES_S, DISFlow, UniMatchFlow, motion_score
from lumina.video import read_frames

ZOO = Path(__file__).parent.parent / "lumina" / "zoo" / "unimatch"


def sampled(path: Path) -> np.ndarray | None:
    """The frames [T, H, W, 3] that motion is scored on; None where the clip is too short or does not decode."""
    try:
        with av.open(path) as container:
            rate = float(container.streams.video[0].average_rate or 0)
        frames = read_frames(path)
    except (OSError, IndexError, ValueError) as error:
        print(f"{path.name}: left out ({error})")
        return None
    picked = pick_frames(RELEASED_TIMES_S, rate, len(frames)) if rate > 0 else []
    if len(picked) < 2:
        print(f"{path.name}: left out (no two samples)")
        return None
    return frames[picked]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unimatch", type=Path, default=ZOO)
    parser.add_argument("--height", type=int, default=320)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    estimators = (DISFlow(), UniMatchFlow.from_pretrained(args.unimatch))
    rows = []
    for path in sorted(args.folder.iterdir()):
        if path.suffix.lower() not in (".mp4", ".mkv", ".mov", ".webm", ".avi"):
            continue
        frames = sampled(path)
        if frames is None:
            continue
        size = (args.height, args.width)
        scores = [motion_score(frames, estimator, size, batch_pairs=2).flow_abs_mean for estimator in estimators]
        rows.append(scores)
        print(f"{path.name}: DIS {scores[0]:.2f}, UniMatch {scores[1]:.2f}", flush=True)
    both = np.array(rows, np.float64)
    once = np.ones((1, len(rows)), np.int64)
    rank = rank_correlation(once, both[:, 1:], both[:, :1])[0]
    print(f"{len(rows)} clips at {args.width}x{args.height}: rank correlation {rank:.2f}")


if __name__ == "__main__":
    main()
