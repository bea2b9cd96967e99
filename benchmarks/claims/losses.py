"""The paper's Figure 3 for a checkpoint: mean squared error of held-out clips by scale and t, with the same noises.

Training logs the loss over t of whatever clips and noises it drew; here every scale sees the same held-out clips from
the same noises at the same times, so that the scales are paired. Captions and motion scores are given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.train_plots import WORSE
from lumina.checkpoints import load_model
from lumina.evaluation.metrics import Estimate
from lumina.evaluation.subsets import FloatArray, resample
from lumina.models.config import PatchSize
from lumina.randomness import generator
from lumina.training.data.latents import LatentDataset
from lumina.training.metrics import T_BINS
from lumina.training.objective import DROPPED, MicroBatch, Objective
from lumina.training.stage import TrainStageConfig

TIMES = tuple((index + 0.5) / T_BINS for index in range(T_BINS))
RESAMPLES = 2000
_BATCH = 16


def held_out_losses(config: TrainStageConfig, checkpoint: Path, data: LatentDataset) -> tuple[list[str], FloatArray]:
    """Clip ids [N], and the mean squared error of the velocity [scale, clip, t], scales in the order of the model's.

    Raises:
        ValueError: no video was held out.
    """
    clips = [clip for clip in data.heldout if clip.media == "video"]
    if not clips:
        raise ValueError("no video was held out: raise select.heldout_fraction")
    model, objective = load_model(checkpoint, "cpu", torch.float32), Objective(config, data)
    found = np.empty((len(config.model.patch_sizes), len(clips), len(TIMES)))
    with torch.no_grad():
        for index, t in enumerate(TIMES):
            for at in range(0, len(clips), _BATCH):
                some = clips[at : at + _BATCH]
                for scale, patch in enumerate(config.model.patch_sizes):
                    batch = _batch(data, some, index, t, patch)
                    errors = objective.losses(model, batch, torch.float32, torch.device("cpu")).task
                    found[scale, at : at + len(some), index] = errors.double().numpy()
    return [clip.clip_id for clip in clips], found


def _batch(data: LatentDataset, clips: list[Any], index: int, t: float, patch: PatchSize) -> MicroBatch:
    x_1 = [data.latent(clip).float() for clip in clips]
    noises = [
        generator(0, "claims", clip.clip_id, index).standard_normal(clip.shape, dtype=np.float32) for clip in clips
    ]
    return MicroBatch(
        clip_ids=tuple(clip.clip_id for clip in clips),
        patch=patch,
        x_1=tuple(x_1),
        x_0=tuple(torch.from_numpy(noise) for noise in noises),
        t=torch.full((len(clips),), t),
        text=tuple(data.text(clip.text_id) for clip in clips),
        motion=torch.tensor([DROPPED if clip.motion_score is None else clip.motion_score for clip in clips]),
    )


def excess(clip_ids: list[str], losses: FloatArray) -> list[tuple[Estimate, Estimate]]:
    """How each coarser scale parts from the finest, which is the first of `losses` [scale, clip, t].

    Returns:
        For each coarser scale how much the logarithm of its loss over the finest's grows from the first half of t to
        the second, and the t from which it loses by more than a tenth (`jobs.train_plots.crossing`), 1 for never.
    """
    counts = resample(clip_ids, 0, RESAMPLES)
    once = np.ones((1, len(clip_ids)), dtype=np.int64)
    found = []
    for coarse in losses[1:]:

        def growth(weights: np.ndarray, coarse: FloatArray = coarse) -> FloatArray:
            ratio = np.log((weights @ coarse) / (weights @ losses[0]))
            return np.asarray(ratio[:, T_BINS // 2 :].mean(1) - ratio[:, : T_BINS // 2].mean(1))

        def parting(weights: np.ndarray, coarse: FloatArray = coarse) -> FloatArray:
            return partings(weights @ losses[0], weights @ coarse)

        found.append(
            (
                Estimate(float(growth(once)[0]), growth(counts), len(clip_ids)),
                Estimate(float(parting(once)[0]), parting(counts), len(clip_ids)),
            )
        )
    return found


def partings(finest: FloatArray, coarse: FloatArray) -> FloatArray:
    """`jobs.train_plots.crossing` of many curves [B, t] at once; 1 where the coarse one never loses."""
    lost = coarse > WORSE * finest
    before = np.pad(np.cumsum(lost, axis=1), ((0, 0), (1, 0)))
    after = np.pad(np.cumsum(~lost[:, ::-1], axis=1), ((0, 0), (1, 0)))[:, ::-1]
    return np.asarray((before + after).argmin(axis=1) / T_BINS)
