"""Why ZeRO-3 is refused. The day that the second test fails, DeepSpeed has mended it, and the refusal can go."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist


class Scales(torch.nn.Module):
    """A layer of its own per scale, as patch embedders and final layers are."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4, bias=False) for _ in range(2)])
        for number, layer in enumerate(self.layers):
            layer.weight.data = torch.eye(4) * (0.5 + number)

    def forward(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        result: torch.Tensor = (self.layers[scale](x) - x.flip(1)).square().mean()
        return result


def _batches() -> list[list[torch.Tensor]]:
    rng = torch.Generator().manual_seed(0)
    return [[torch.randn(8, 4, generator=rng) for _ in range(2)] for _ in range(5)]


def _error(stage: int) -> float:
    """Largest difference of weights after five steps of two scales from plain AdamW."""
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    plain, model = Scales(), Scales()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0.0)
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=list(model.parameters()),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "steps_per_print": 10**9,
            # It would clip at 1 unasked.
            "gradient_clipping": 1e9,
            "zero_optimization": {"stage": stage},
            "optimizer": {"type": "AdamW", "params": {"lr": 0.01, "weight_decay": 0.0, "torch_adam": True}},
        },
    )
    for batch in _batches():
        optimizer.zero_grad()
        for scale, x in enumerate(batch):
            plain(x, scale).backward()
            engine.set_gradient_accumulation_boundary(scale == 1)
            engine.backward(engine(x, scale))
            engine.step()
        optimizer.step()
    from deepspeed.utils import safe_get_full_fp32_param

    pairs = zip(engine.module.parameters(), plain.parameters(), strict=True)
    return max(float((safe_get_full_fp32_param(ours) - theirs).detach().abs().max()) for ours, theirs in pairs)


@pytest.mark.parametrize("stage", [1, 2])
def test_the_allowed_stages_step_as_adamw(stage: int) -> None:
    assert _error(stage) < 1e-6


def test_stage_3_adds_the_last_gradients_of_a_layer_that_a_later_pass_uses_first() -> None:
    assert _error(3) > 1e-3
