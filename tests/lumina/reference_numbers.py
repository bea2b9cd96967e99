"""Numbers of small networks, stored when this code agreed with the released one: the check where ../shared is missing.

    python -m tests.lumina.reference_numbers    # writes them anew; only when the golden tests pass

Weights and inputs are drawn by name with numpy, so they are the same with any version of torch.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lumina.flow_matching.path import losses
from lumina.flow_matching.sampler import sample
from lumina.flow_matching.schedules import SamplerConfig
from lumina.models.config import UniMatchConfig
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.models.unimatch import UniMatch
from lumina.randomness import generator
from tests.lumina.tiny import TINY

FILE = Path(__file__).parent / "fixtures" / "reference_numbers.safetensors"
SAMPLER = SamplerConfig(
    steps=5,
    time_shift=4.0,
    patches=((0.0, (2, 4, 4)), (0.1, (2, 2, 2)), (0.4, (1, 2, 2))),
    guidance=((0.0, 3.0), (0.4, 0.0)),
    norm_cap=1.5,
)
FLOW = UniMatchConfig(feature_channels=16, backbone_channels=(8, 12, 16), num_transformer_layers=2, num_reg_refine=2)


def draw(name: str, *shape: int) -> Tensor:
    """Standard normal numbers that belong to a name."""
    return torch.from_numpy(generator(7, "reference", name).standard_normal(shape, dtype=np.float32))


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Set every weight by its name; none is zero."""
    for name, parameter in module.named_parameters():
        noise = draw(name, *parameter.shape)
        if parameter.ndim > 1:
            parameter.copy_(noise / math.sqrt(math.prod(parameter.shape[1:])))
        else:
            parameter.copy_(1 + 0.2 * noise if name.endswith(".weight") else 0.5 * noise)


def compute() -> dict[str, Tensor]:
    """All numbers: evaluations and gradients at every scale, a guided sample, losses, optical flow."""
    numbers: dict[str, Tensor] = {}
    model = MultiScaleNextDiT(TINY)
    fill(model)
    x = [draw("x.0", 4, 4, 8, 4), draw("x.1", 4, 2, 4, 8), draw("x.2", 4, 1, 4, 4)]
    text = [draw(f"text.{item}", 3 + 2 * item, TINY.cap_feat_dim) for item in range(3)]
    t, motion = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([-1.0, 0.0, 4.0])
    for patch in TINY.patch_sizes:
        out = model(x, t, text, motion, patch)
        key = "x".join(map(str, patch))
        numbers.update({f"dit.{key}.{item}": value.detach().clone() for item, value in enumerate(out)})
        model.zero_grad()
        torch.stack([value.square().mean() for value in out]).sum().backward()
        for name in ("layers.0.attention.wk.weight", "layers.1.adaLN_modulation.1.bias", "cap_embedder.1.weight"):
            gradient = model.get_parameter(name).grad
            if gradient is None:
                raise AssertionError(f"{name} has no gradient")
            numbers[f"grad.{key}.{name}"] = gradient.clone()
    model.eval()
    noise = torch.stack([draw("noise.0", 4, 4, 8, 8), draw("noise.1", 4, 4, 8, 8)])
    numbers["sample"] = sample(model, noise, text[:2], [text[2]] * 2, SAMPLER)
    found = losses(draw("prediction", 2, 4, 2, 4, 4), draw("target", 2, 4, 2, 4, 4), 1.0)
    numbers |= {"loss.total": found.total, "loss.task": found.task, "loss.direction": found.direction}
    flow = UniMatch(FLOW).eval()
    fill(flow)
    with torch.no_grad():
        images = (draw("images", 2, 1, 3, 64, 96) * 40 + 128).clamp(0, 255)
        numbers["flow"] = flow(images[0], images[1])
    return numbers


if __name__ == "__main__":
    save_file({name: value.contiguous().clone() for name, value in compute().items()}, FILE)
