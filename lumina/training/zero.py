"""ZeRO-1 and -2 of DeepSpeed, with the host never waiting for the device, and right where scales have own layers.

What DeepSpeed does by itself waits: to look at the norm before the update, to time every pass, and where gradients are
reduced beside the backward pass, for the whole device after it. `ENGINE` and `ZERO` turn the first two off; `Clip` and
`overlap` do on the device what they did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

ENGINE = {"gradient_clipping": 0.0, "timers": {"throughput": {"enabled": False}}}
"""Settings of the engine: `Clip` clips, and nothing is timed."""

ZERO = {"compute_grad_norm": False}
"""Settings of its `zero_optimization`."""


def leave_uncounted(zero: Any) -> None:
    """Keep a DeepSpeed optimizer from counting, in every backward pass, the parameters that take part.

    It goes through all of them, for a torch that has no callback at the end of a pass.
    """
    zero.should_refresh_expected_hook_count = lambda: False


class Clip:
    """Scales the gradient to a largest global norm, as a hook before an optimizer's step."""

    def __init__(self, weights: Tensor, sizes: Sequence[int], offset: int, largest: float) -> None:
        """Clip the gradient of `weights`.

        Args:
            weights: [n] this worker's share of the line of all numbers.
            sizes: numbers of every tensor in the line, in order.
            offset: where the share starts in the line.
            largest: norm over all workers that a gradient may have.
        """
        self._weights = weights
        self._largest = largest
        self._parts, start = [], 0
        for size in sizes:
            low, high = max(start, offset), min(start + size, offset + len(weights))
            if low < high:
                self._parts.append((low - offset, high - offset))
            start += size
        self.order = Order()
        self.norm = torch.zeros((), device=weights.device)
        """Of the last gradient before the clip; not finite if the gradient is not, -1 if the workers added up those of
        different layers."""

    @torch.no_grad()
    def __call__(self, *_: Any) -> None:
        """Take the norm over all workers, tensor by tensor in float64, and clip."""
        grad = self._weights.grad
        if grad is None:
            raise RuntimeError("an update without a gradient: pin DeepSpeed to the version in constraints.txt")
        norms = [torch.linalg.vector_norm(grad[low:high].double()) for low, high in self._parts]
        square = torch.stack(norms).square().sum().float() if norms else torch.zeros_like(self.norm)
        order = torch.full_like(square, self.order.take())
        told = torch.stack([square, order, order * order])
        dist.all_reduce(told)
        square, sum_of_orders, sum_of_squares = told
        alike = dist.get_world_size() * sum_of_squares.double() == sum_of_orders.double().square()
        norm = square.sqrt()
        grad.mul_(1 / ((norm + 1e-6) / self._largest).clamp(min=1))
        self.norm = torch.where(alike, norm, -1.0)


class Order:
    """In which order a worker gave its gradients to be added up, as one small number.

    Where they are added up beside the backward pass, it is the order in which that came by the layers; a sum is one of
    the same layers only if it is the same on all workers.
    """

    def __init__(self) -> None:
        self._seen = 0

    def note(self, number: int) -> None:
        """Count the parameter of this number in."""
        # Squares of what is left are whole float32 numbers, added up over as many workers as there may be.
        self._seen = (self._seen * 7 + number + 1) % 31

    def take(self) -> int:
        """Return the order since the last call."""
        seen, self._seen = self._seen, 0
        return seen


def overlap(zero: Any, order: Order) -> None:
    """Make a DeepSpeed optimizer whose `overlap_comm` is on give the sums of all passes, without a wait of the host.

    In stage 1 it reduces what the last pass of a step has gradients of, and leaves to every worker its own of the
    layers that only earlier passes used: those of the other scales. `order` hears of every gradient.
    """
    from deepspeed.accelerator import get_accelerator

    finish, reduce = zero.independent_gradient_partition_epilogue, zero.reduce_independent_p_g_buckets_and_remove_grads

    def noting(parameter: Tensor, group: int) -> None:
        order.note(zero.get_param_id(parameter))
        reduce(parameter, group)

    def epilogue() -> None:
        if not zero.partition_gradients:
            _reduce_earlier(zero)
        zero.reduce_ipg_grads()
        if not get_accelerator().resolves_data_dependency():
            get_accelerator().current_stream().wait_stream(zero.reduction_stream)
        # All is reduced, in line before what comes next on the device: the rest goes as without overlap.
        zero.overlap_comm = False
        try:
            finish()
        finally:
            zero.overlap_comm = True

    zero.independent_gradient_partition_epilogue = epilogue
    zero.reduce_independent_p_g_buckets_and_remove_grads = noting


def _reduce_earlier(zero: Any) -> None:
    """Hand over the gradients that no hook of the last pass has: all workers have them of the same layers."""
    waiting = {number for bucket in zero.ipg_buckets.values() for _, _, number in bucket.params}
    for group, parameters in enumerate(zero.bit16_groups):
        for parameter in parameters:
            number = zero.get_param_id(parameter)
            done = zero.params_already_reduced[number] or number in waiting
            if not done and zero.get_gradient_for_reduction(parameter) is not None:
                zero.reduce_ready_partitions_and_remove_grads(parameter, group)
