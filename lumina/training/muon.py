"""Muon: an optimizer that updates each matrix of the blocks by its orthogonalised momentum, and the rest by AdamW.

    M' = mu M + G,    U = G + mu M',    W' = (1 - eta w) W - eta 0.2 sqrt(max(rows, columns)) orthogonal(U)

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the factor, by which an update is as
large as one of AdamW, is of J. Liu et al., "Muon is scalable for LLM training" (arXiv 2502.16982, section 2.2).

Under ZeRO a worker has a piece of the line of all numbers, which may begin and end inside a matrix. Workers add up
those few matrices, of which each number is zero with all but one, and each orthogonalises what its piece touches: the
same bits whatever the number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.adamw import adamw

MOMENTUM = 0.95
"""mu."""
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def is_hidden_matrix(name: str, shape: Sequence[int]) -> bool:
    """Whether a trained tensor is a matrix of a block, neither an embedding nor a head."""
    return len(shape) == 2 and "layers." in name


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows or columns, roughly: singular values end between 0.7 and 1.2.

    Five iterations of Newton and Schulz, X' = a X + (b A + c A^2) X with A = X X^T; in bfloat16 on a GPU, as published.

    Args:
        matrix: [rows, columns] float32.
    """
    a, b, c = _COEFFICIENTS
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)


def orthogonal_flops(rows: int, columns: int) -> int:
    """Operations of `orthogonal`: of m rows, of the shorter side, and n columns five times 4 m^2 n + 2 m^3."""
    m, n = sorted((rows, columns))
    return _ITERATIONS * (4 * m * m * n + 2 * m**3)


def update_flops(parameters: Iterable[tuple[str, Tensor]]) -> int:
    """Operations by which a step orthogonalises the matrices among named parameters."""
    return sum(orthogonal_flops(*one.shape) for name, one in parameters if is_hidden_matrix(name, one.shape))


@dataclass(frozen=True)
class _Matrix:
    shape: tuple[int, ...]
    low: int
    high: int
    """Its first number, and the one behind its last, counted from the first of the piece."""
    shared: slice | None
    """Where it lies in what workers add up; None: one piece has all of it."""


@dataclass(frozen=True)
class _Plan:
    """What is done to the numbers of one piece."""

    matrices: tuple[_Matrix, ...]
    """Those that two pieces share, whether or not one of them is this one, and those in this one."""
    rest: tuple[tuple[int, int], ...]
    """First number, and the one behind the last, of what lies between matrices."""
    shared: int
    """Numbers of all matrices that two pieces or more share."""


class Muon(torch.optim.Optimizer):
    """Muon and AdamW on one worker's piece of a network; the state is AdamW's, whose second moment matrices leave at 0.

    Args:
        parameters: all that are trained, in the order of the line. DeepSpeed puts the piece in their place.
        places: name, shape and first number in the line of each.
        muon_lr_ratio: the learning rate of matrices by that of the rest, which is `lr` of the one group.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: decoupled, of all numbers.
        fused: run AdamW in one kernel.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        places: Sequence[tuple[str, tuple[int, ...], int]],
        *,
        muon_lr_ratio: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        fused: bool,
    ) -> None:
        defaults = {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": weight_decay, "fused": fused}
        super().__init__(list(parameters), defaults)
        self._places, self._ratio = tuple(places), muon_lr_ratio
        self._plan: _Plan | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the piece by its gradient. All workers call it together."""
        [group] = self.param_groups
        [piece] = group["params"]
        own = self.state[piece]
        if not own:
            own["step"] = torch.zeros((), device=piece.device if group["fused"] else "cpu")
            own["exp_avg"], own["exp_avg_sq"] = torch.zeros_like(piece), torch.zeros_like(piece)
        if self._plan is None:
            self._plan = _plan(self._places, dist.get_rank(), len(piece))
        self._update_rest(self._plan, group, piece, own)
        self._update_matrices(self._plan, group, piece, own["exp_avg"])
        own["step"] += 1

    def _update_rest(self, plan: _Plan, group: dict[str, Any], piece: Tensor, own: dict[str, Tensor]) -> None:
        def parts(line: Tensor) -> list[Tensor]:
            return [line[low:high] for low, high in plan.rest]

        adamw(
            parts(piece),
            parts(piece.grad),  # type: ignore[arg-type]
            parts(own["exp_avg"]),
            parts(own["exp_avg_sq"]),
            [],
            [own["step"].clone() for _ in plan.rest],  # each is counted up
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _update_matrices(self, plan: _Plan, group: dict[str, Any], piece: Tensor, momentum: Tensor) -> None:
        rate = group["lr"] * self._ratio
        grad: Tensor = piece.grad  # type: ignore[assignment]
        shared = torch.zeros(plan.shared, device=piece.device)
        inside = [(one, max(one.low, 0), min(one.high, len(piece))) for one in plan.matrices]
        steered: list[Tensor] = []
        for one, low, high in inside:
            if low >= high:
                steered.append(piece[:0])
                continue
            momentum[low:high].mul_(MOMENTUM).add_(grad[low:high])
            steered.append(torch.add(grad[low:high], momentum[low:high], alpha=MOMENTUM))
            if one.shared is not None:
                shared[one.shared][low - one.low : high - one.low] = steered[-1]
        if plan.shared:
            dist.all_reduce(shared)
        for (one, low, high), own in zip(inside, steered, strict=True):
            if low >= high:
                continue
            whole = own if one.shared is None else shared[one.shared]
            update = orthogonal(whole.view(one.shape)).flatten()[low - one.low : high - one.low]
            factor = 0.2 * math.sqrt(max(one.shape))
            piece[low:high].mul_(1 - rate * group["weight_decay"]).add_(update, alpha=-rate * factor)


def _plan(places: Sequence[tuple[str, tuple[int, ...], int]], rank: int, length: int) -> _Plan:
    """What is done to the numbers of worker `rank`, where each has `length` of the line."""
    matrices, rest, shared = list[_Matrix](), list[tuple[int, int]](), 0
    offset, at = rank * length, 0
    for name, shape, start in places:
        stop = start + math.prod(shape)
        if not is_hidden_matrix(name, shape):
            continue
        low, high = start - offset, stop - offset
        together = start // length != (stop - 1) // length
        if together or 0 <= low < length:
            matrices.append(_Matrix(shape, low, high, slice(shared, shared + stop - start) if together else None))
        shared += (stop - start) if together else 0
        if at < min(low, length):
            rest.append((at, min(low, length)))
        at = max(at, min(high, length))
    if at < length:
        rest.append((at, length))
    return _Plan(tuple(matrices), tuple(rest), shared)
