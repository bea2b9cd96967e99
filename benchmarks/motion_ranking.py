"""Compare the motion scores of two estimators on real clips.

    python benchmarks/motion_ranking.py FOLDER [--unimatch lumina/zoo/unimatch] [--height 320 --width 576]

Prints the score of every clip that PyAV decodes, by OpenCV's DIS and by a UniMatch network, and the rank correlation.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from curation.decode import clip_times
from curation.film_frames import Track
from curation.schema import RowError
from curation.video_files import probe_video, read_video
from lumina.evaluation.subsets import rank_correlation
from lumina.motion import RELEASED_TIMES_S, DISFlow, UniMatchFlow, motion_score

ZOO = Path(__file__).parent.parent / "lumina" / "zoo" / "unimatch"


def sampled(path: Path) -> np.ndarray | None:
    """The frames [T, H, W, 3] that motion is scored on; None where the clip is too short or does not decode."""
    try:
        row = asdict(probe_video(path)) | {"media": "video"}
        times = clip_times(row, RELEASED_TIMES_S)
        if len(times) >= 2:
            return read_video(path, Track.parse(row["track"]), times).pixels
        print(f"{path.name}: left out (no two samples)")
    except RowError as error:
        print(f"{path.name}: left out ({error})")
    return None


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
