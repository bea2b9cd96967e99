"""LAION's aesthetic predictor: a linear score, about 0 to 10, of an image by its CLIP ViT-L/14 embedding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina.vbench.networks import weights

_NETWORK = "LAION's linear aesthetic head for CLIP ViT-L/14"
_INSTEAD = "sa_0_4_vit_l_14_linear.pth"
WIDTH = 768


@dataclass(frozen=True)
class AestheticHead:
    """Weight [1, 768] and bias [1], float32 on the CPU, and their digest."""

    weight: Tensor
    bias: Tensor
    digest: str

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        """w . f / |f| + b, float32 [T], of embeddings [T, 768] of any length and dtype."""
        if features.shape[-1] != self.weight.shape[1]:
            raise ValueError(
                f"the aesthetic head scores embeddings of {self.weight.shape[1]} numbers, got {features.shape[-1]}: "
                "take those of CLIP ViT-L/14"
            )
        return F.linear(F.normalize(features.float().cpu(), dim=-1), self.weight, self.bias).squeeze(-1)


def load_aesthetic_head(source: str | Path) -> AestheticHead:
    """Load sa_0_4_vit_l_14_linear.pth.

    Raises FileNotFoundError if there is none, ValueError if it is damaged or the weights are another network's.
    """
    shapes = {"weight": [1, WIDTH], "bias": [1]}
    tensors = weights.read_file(source, _NETWORK, _INSTEAD)
    # Any network has names that end like these two.
    if len(tensors) != len(shapes):
        names = ", ".join(sorted(tensors)[:3])
        raise ValueError(
            f"{source} does not fit {_NETWORK}: it holds {len(tensors)} tensors ({names}, ...), and the head is "
            f"weight [1, {WIDTH}] and bias [1]: give {_INSTEAD}"
        )
    found = weights.fit(tensors, shapes, source, _NETWORK)
    return AestheticHead(found["weight"].float(), found["bias"].float(), weights.digest(found))
