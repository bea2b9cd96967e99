"""Optical flow of clips by RAFT: published weights, each frame encoded once, some pairs at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumina.vbench.networks import preprocess, weights
from lumina.vbench.networks.raft import Raft

_NETWORK = "RAFT"
_INSTEAD = "raft-things.pth, or torchvision's raft_large_C_T_V1_SKHT-5f8a5bae.pth"
_CORRELATIONS = 2**26
"""Numbers of the finest level that may be held at a time, 256 MiB: four pairs of 512x512 pixels."""
_MOST_PAIRS = 8
_TORCHVISION = (
    (r"^feature_encoder\.", "fnet."),
    (r"^context_encoder\.", "cnet."),
    (r"^mask_predictor\.convrelu\.0\.", "update_block.mask.0."),
    (r"^mask_predictor\.conv\.", "update_block.mask.2."),
    (r"^update_block\.motion_encoder\.conv\.0\.", "update_block.encoder.conv."),
    (r"^update_block\.motion_encoder\.convcorr(\d)\.0\.", r"update_block.encoder.convc\1."),
    (r"^update_block\.motion_encoder\.convflow(\d)\.0\.", r"update_block.encoder.convf\1."),
    (r"^update_block\.recurrent_block\.convgru(\d)\.conv([zrq])\.", r"update_block.gru.conv\2\1."),
    (r"^([fc]net\.)convnormrelu\.0\.", r"\1conv1."),
    (r"^([fc]net\.)convnormrelu\.1\.", r"\1norm1."),
    (r"^([fc]net\.)conv\.", r"\1conv2."),
    (r"\.convnormrelu(\d)\.0\.", r".conv\1."),
    (r"\.convnormrelu(\d)\.1\.", r".norm\1."),
)
"""Names by torchvision, as regular expressions, and what raft-things.pth says instead."""


@dataclass(frozen=True)
class FlowNetwork:
    """The network, and the digest of its weights."""

    model: Raft
    digest: str

    def flows(
        self, frames: preprocess.Frames, pairs: Sequence[tuple[int, int]] | None = None, batch: int | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Flow [2, H', W'] of pairs of frames, in pixels right and down, at the padded size.

        Args:
            frames: uint8 [T, H, W, 3].
            pairs: numbers of frames, from and to; neighbours in order by default.
            batch: pairs that are computed at a time; as many as their correlations allow by default.

        Raises ValueError for padded sides below 128 pixels, and for one frame without pairs.
        """
        preprocess.check(frames)
        wanted = list(pairwise(range(len(frames)))) if pairs is None else list(pairs)
        if not wanted:
            raise ValueError(f"optical flow is between frames, and the clip has {len(frames)}")
        height, width = (-(-side // 8) for side in frames.shape[1:3])
        fits = _CORRELATIONS // (height * width) ** 2
        for some in self._batches(frames, wanted, batch or min(_MOST_PAIRS, max(1, fits))):
            yield from some.numpy()

    @torch.no_grad()
    def _batches(self, frames: preprocess.Frames, wanted: list[tuple[int, int]], batch: int) -> Iterator[Tensor]:
        """Flow [N, 2, H', W'] on the CPU of some pairs after the other."""
        parameter = next(self.model.parameters())
        kept: dict[int, tuple[Tensor, Tensor]] = {}
        for start in range(0, len(wanted), batch):
            some = wanted[start : start + batch]
            kept = self._encoded(frames, sorted({number for pair in some for number in pair}), kept, parameter)
            first = torch.stack([kept[one][0] for one, _ in some])
            features = [torch.stack([kept[pair[end]][1] for pair in some]) for end in (0, 1)]
            yield self.model(first, (features[0], features[1])).cpu()

    def _encoded(
        self, frames: preprocess.Frames, numbers: Sequence[int], kept: dict[int, tuple[Tensor, Tensor]], like: Tensor
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """Padded pixels and features of frames by number; those of the batch before are not computed again."""
        new = [number for number in numbers if number not in kept]
        found = {number: kept[number] for number in numbers if number in kept}
        if new:
            images = preprocess.raft(frames[new], like.device).to(like.dtype)
            found |= dict(zip(new, zip(images, self.model.features(images), strict=True), strict=True))
        return found


def load_raft(
    source: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> FlowNetwork:
    """Load raft-things.pth by its published names, or torchvision's raft_large by its own.

    Raises FileNotFoundError if there is none, ValueError if it is damaged or the weights are another network's.
    """
    model = Raft().eval().requires_grad_(False)
    wanted = {name: list(value.shape) for name, value in model.state_dict().items()}
    found = weights.plain(weights.read_file(source, _NETWORK, _INSTEAD), wanted)
    if any(name.startswith("feature_encoder.") for name in found):
        found = _from_torchvision(found)
    found = weights.fit(found, wanted, source, _NETWORK)
    model.load_state_dict(found)
    return FlowNetwork(model.to(device, dtype), weights.digest(found))


def _from_torchvision(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the names of raft-things.pth, where one norm has two names."""
    found = {}
    for name, value in tensors.items():
        for pattern, replacement in _TORCHVISION:
            name = re.sub(pattern, replacement, name)
        found[name] = value
    return found | {
        name.replace("downsample.1", "norm3"): value for name, value in found.items() if ".downsample.1." in name
    }
