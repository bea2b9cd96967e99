"""Human action classifier of VBench: UMT ViT-L/16 (Li et al. 2023, arXiv 2303.16058), Kinetics-400 scores of a clip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina.pretrained import Place
from lumina.vbench.networks import preprocess, weights

FRAMES = 16

_NETWORK = "UMT ViT-L/16 of Kinetics-400"
_INSTEAD = "l16_ptk710_ftk710_ftk400_f16_res224.pth"
_PATCH, _GRID = 16, 14
_EPS = 1e-6
_ENDS = {
    "patch_embed.proj": "videomae.embeddings.patch_embeddings.projection",
    "fc_norm": "fc_norm",
    "head": "classifier",
}


@dataclass(frozen=True)
class ActionConfig:
    """Size of the network; the published one by default."""

    width: int = 1024
    depth: int = 24
    heads: int = 16
    classes: int = 400


@dataclass(frozen=True)
class HumanAction:
    """The network, and the digest of its weights."""

    model: Any
    digest: str

    @torch.no_grad()
    def logits(self, frames: preprocess.Frames) -> Tensor:
        """Scores of the classes before the sigmoid, float32 [classes] on the CPU, of frames uint8 [16, H, W, 3].

        Raises ValueError for another number of frames.
        """
        if len(frames) != FRAMES:
            raise ValueError(f"human action looks at {FRAMES} frames of a clip, got {len(frames)}: pick as many")
        parameter = next(self.model.parameters())
        x = preprocess.human_action(frames, parameter.device).to(parameter.dtype)
        found: Tensor = self.model(x[None]).logits[0]
        return found.float().cpu()


def load_human_action(
    source: str | Path,
    config: ActionConfig | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> HumanAction:
    """Load l16_ptk710_ftk710_ftk400_f16_res224.pth by its published names.

    Raises FileNotFoundError if there is none, ValueError if it is damaged or the weights are another network's.
    """
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    size = config or ActionConfig()
    published = weights.fit(weights.read_file(source, _NETWORK, _INSTEAD), _shapes(size), source, _NETWORK)
    digest = weights.digest(published)
    positions = published.pop("pos_embed")
    settings = VideoMAEConfig(
        hidden_size=size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        num_labels=size.classes,
        num_frames=FRAMES,
        tubelet_size=1,
        layer_norm_eps=_EPS,
        use_mean_pooling=True,
    )
    tensors = weights.vit_to_hub(published, _ENDS, "videomae.")
    model = weights.build(VideoMAEForVideoClassification, settings, tensors, Place(Path(source), _NETWORK))
    # They are trained here; those of `transformers` are a sinusoid, which no file holds.
    model.videomae.embeddings.position_embeddings = positions.float()
    # It takes the default of torch.
    model.fc_norm.eps = _EPS
    return HumanAction(model.to(device, dtype), digest)


def _shapes(config: ActionConfig) -> dict[str, list[int]]:
    width, classes = config.width, config.classes
    shapes = weights.vit_shapes(width, config.depth, (1, _PATCH, _PATCH), FRAMES * _GRID**2)
    for number in range(config.depth):
        shapes |= {f"blocks.{number}.attn.{bias}": [width] for bias in ("q_bias", "v_bias")}
    shapes |= {"fc_norm.weight": [width], "fc_norm.bias": [width]}
    return shapes | {"head.weight": [classes, width], "head.bias": [classes]}
