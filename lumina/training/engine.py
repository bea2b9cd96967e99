"""The network under DeepSpeed: ZeRO-1 or -2 with AdamW or Muon, and access to this worker's share of the state.

ZeRO lays all trained float32 numbers behind one another, in the order of `named_parameters`, and gives every worker an
equal piece of the line. Whoever knows the order (`Layout`) can cut the line anew for another number of workers.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lumina.training.muon import Muon
from lumina.training.stage import StageConfig
from lumina.training.zero import ENGINE, ZERO, Clip, leave_uncounted, overlap

STATE = ("weights", "exp_avg", "exp_avg_sq")
"""What the optimizer needs to go on: the float32 weights and their two moments, as 1-D shards."""

REDUCE_BUCKET = 100_000_000
"""Numbers of a gradient that workers add up at once; there are two such buffers where there are several workers."""

_GATHER_BUCKET = 500_000_000


@dataclass(frozen=True)
class Layout:
    """Where every trained tensor lies in the line of all numbers."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of every tensor."""
        return tuple(map(math.prod, self.shapes))

    @property
    def numel(self) -> int:
        """Numbers in the line, without what rounds it up to equal shares."""
        return sum(self.sizes)

    def places(self) -> list[tuple[str, tuple[int, ...], int]]:
        """Name, shape and first number of every tensor."""
        places, offset = [], 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            places.append((name, shape, offset))
            offset += math.prod(shape)
        return places


class Engine:
    """One worker of a group that trains one network. All workers make the same calls in the same order."""

    def __init__(self, config: StageConfig, model: nn.Module, fused: bool = False) -> None:
        """Take over `model`, whose float32 parameters that require gradients are trained.

        `fused` runs AdamW in one kernel; that of Muon too. torch.distributed must be initialised.
        """
        named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
        self.layout = Layout(tuple(name for name, _ in named), tuple(tuple(value.shape) for _, value in named))
        # DeepSpeed puts bfloat16 copies in their place, and would take the float32 weights from those.
        first = [value.detach() for _, value in named] if config.precision == "bf16" else []
        trained = [value for _, value in named]
        self._engine = _deepspeed(config, model, trained, _optimizer(config, trained, self.layout, fused))
        self._zero = self._engine.optimizer
        [self.weights] = self._zero.single_partition_of_fp32_groups
        self._clip = Clip(self.weights, self.layout.sizes, self.offset, config.grad_clip)
        self._optimizer.register_step_pre_hook(self._clip)
        leave_uncounted(self._zero)
        if self._zero.overlap_comm:
            overlap(self._zero, self._clip.order)
        self._check_layout(trained)
        if first:
            self._set_weights(_piece(first, self.offset, len(self.weights)))

    @property
    def module(self) -> Any:
        """The network, in the precision that it computes in."""
        return self._engine.module

    @property
    def offset(self) -> int:
        """Where this worker's share starts in the line."""
        return dist.get_rank() * len(self.weights)

    def __call__(self, *args: Any) -> Any:
        """Run the network."""
        return self._engine(*args)

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of `loss`, averaged over workers; after the `last` of a step, clip it and update."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss)
        self._engine.step()

    def set_learning_rate(self, rate: float) -> None:
        """Set the rate of the next update."""
        for group in self._zero.param_groups:
            group["lr"] = rate

    def grad_norm(self) -> Tensor:
        """Norm of the last step's gradient over all weights, before it was clipped, on the device.

        It is not finite if the gradient is not, and -1 if the workers' gradients were not of the same layers; the
        weights are useless then.
        """
        return self._clip.norm

    def state(self) -> dict[str, Tensor]:
        """This worker's share of `STATE`: live tensors, [n] each."""
        own = self._optimizer.state[self.weights]
        if "exp_avg" not in own:
            zeros = torch.zeros_like(self.weights, requires_grad=False)
            return {"weights": self.weights.detach(), "exp_avg": zeros, "exp_avg_sq": zeros}
        return {"weights": self.weights.detach(), "exp_avg": own["exp_avg"], "exp_avg_sq": own["exp_avg_sq"]}

    def restore(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Continue from this worker's share of a state that has `steps` updates behind it."""
        self._set_weights(state["weights"])
        self._optimizer.state[self.weights] = {
            # Where the optimizer keeps it: on the device only in the fused kernel.
            "step": torch.tensor(float(steps), device=self.weights.device if self._fused else "cpu"),
            "exp_avg": state["exp_avg"].to(self.weights.device, copy=True),
            "exp_avg_sq": state["exp_avg_sq"].to(self.weights.device, copy=True),
        }

    @contextmanager
    def holding(self, weights: Tensor) -> Iterator[Any]:
        """Give the network with other weights, of which `weights` [n] is this worker's share, in evaluation mode.

        Afterwards it has its own again, bit for bit, and its mode. All workers enter and leave together. It takes
        another copy of the share, and none of the network.
        """
        own, training = self.weights.detach().clone(), self.module.training
        self._set_weights(weights)
        self.module.eval()
        try:
            yield self.module
        finally:
            self.module.train(training)
            self._set_weights(own)

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = self._zero.optimizer
        return optimizer

    @property
    def _fused(self) -> bool:
        return bool(self._optimizer.defaults["fused"])

    @torch.no_grad()
    def _set_weights(self, weights: Tensor) -> None:
        self.weights.copy_(weights)
        # The network computes with copies, of which every worker needs all.
        self._zero.update_lp_params()

    def _check_layout(self, parameters: Sequence[nn.Parameter]) -> None:
        """The line must be what `Layout` says; another DeepSpeed might put it otherwise."""
        [flat] = self._zero.bit16_groups_flat
        start, size = flat.data_ptr(), flat.element_size()
        places = [(value.data_ptr() - start) // size for value in parameters]
        if places != [offset for _, _, offset in self.layout.places()] or len(flat) != dist.get_world_size() * len(
            self.weights
        ):
            raise RuntimeError("this DeepSpeed lays parameters out in another way: pin the version in constraints.txt")


def _piece(tensors: Sequence[Tensor], start: int, length: int) -> Tensor:
    """Numbers start..start + length of the line of `tensors`, with zeros behind its end."""
    piece, offset = torch.zeros(length), 0
    for tensor in tensors:
        low, high = max(start, offset), min(start + length, offset + tensor.numel())
        if low < high:
            piece[low - start : high - start] = tensor.flatten()[low - offset : high - offset]
        offset += tensor.numel()
    return piece


def _optimizer(config: StageConfig, trained: list[nn.Parameter], layout: Layout, fused: bool) -> torch.optim.Optimizer:
    # The rate is set before every update.
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            trained, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=fused
        )
    return Muon(
        trained,
        layout.places(),
        muon_lr_ratio=(config.muon_lr or config.lr) / config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=fused,
    )


@contextmanager
def _absent(package: str) -> Iterator[None]:
    """Have imports of a package fail, unless it has been imported."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def _deepspeed(
    config: StageConfig, model: nn.Module, trained: list[nn.Parameter], optimizer: torch.optim.Optimizer
) -> Any:
    """Wrap the model in a DeepSpeed engine; no compiler is needed."""
    # Read when deepspeed is imported: which device of the node is this worker's.
    os.environ.setdefault("LOCAL_RANK", "0")
    with _absent("mlflow"):
        # Its autotuner, which nobody calls here, would import it: longer than all of the rest takes.
        import deepspeed
        import deepspeed.ops

    if not torch.cuda.is_available():
        # On the CPU it would be compiled at the first start, and gloo does without it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # Said by torch about a call of DeepSpeed's, at every step.
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor.*deprecated", category=FutureWarning)
    half = config.precision == "bf16"
    count = sum(parameter.numel() for parameter in trained)
    gathered = min(count, _GATHER_BUCKET)
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=trained,
        optimizer=optimizer,
        config={
            # One accumulation step, whose end the loop marks itself: else the engine would divide the losses.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "communication_data_type": config.communication_data_type,
            "steps_per_print": 10**9,
            # Who looks for what is not finite is the loop, and a step later.
            "bf16": {"enabled": half, "check_grad_overflow": False},
            **ENGINE,
            # Stage 1 takes no other than bfloat16 sums here, which over 32 passes were off by 0.7 % instead of 0.3 %.
            **({"data_types": {"grad_accum_dtype": "fp32"}} if half and config.zero_stage == 2 else {}),
            "zero_optimization": {
                **ZERO,
                "stage": config.zero_stage,
                # Beside the backward pass; alone, there is nobody to wait for.
                "overlap_comm": dist.get_world_size() > 1,
                "reduce_bucket_size": min(count, REDUCE_BUCKET),
                "allgather_bucket_size": gathered + gathered % 2,
            },
            "zero_allow_untested_optimizer": True,
        },
    )
    return engine
