"""Rotary positions of a grid of tokens: one part of every head for each of frame, row and column.

Angles are computed from integer grid positions when a grid is first seen, so no table limits the size of a video.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.models.device_tables import TableCache, upload

Grid = tuple[int, int, int]
"""Tokens along (frames, rows, columns)."""

CACHE_BYTES = 256 << 20
"""Bytes of rotations that a process keeps at most, on its device: one of 86,400 tokens and heads of 144 takes 50 MB."""


def axis_turns(positions: Tensor, width: int, theta: float) -> Tensor:
    """Cosines and sines of the angles along one axis, [T, w/2, 2] float32.

    Args:
        positions: [T] index of every token along the axis, from 0.
        width: part w of a head that belongs to the axis.
        theta: base of the frequencies theta^(-2i/w), i = 0..w/2-1.
    """
    index = torch.arange(0, width, 2, dtype=torch.float64)
    angle = positions[:, None].double() * theta ** (-index / width)
    return torch.stack([angle.cos(), angle.sin()], dim=-1).float()


def _rotation(grid: Grid, widths: Grid, theta: float, device: torch.device) -> Tensor:
    # The cache outlives the caller: a tensor made in inference mode could not be used in training afterwards.
    with torch.inference_mode(False):
        parts = []
        for axis, (size, width) in enumerate(zip(grid, widths, strict=True)):
            turns = upload(axis_turns(torch.arange(size), width, theta), device)
            spread = turns[tuple(slice(None) if own == axis else None for own in range(3))].expand(*grid, -1, -1)
            parts.append(spread.flatten(0, 2).unsqueeze(1))
        # No view: the compiler would hold on to the sizes of what lies behind it.
        return torch.cat(parts, dim=2)


rotation = TableCache(_rotation, lambda turn: turn.nbytes, CACHE_BYTES)
"""rotation(grid, widths, theta, device): cosines and sines [F*R*C, 1, d/2, 2] (float32) that rotate the tokens of one
grid, column fastest; of every head the frame part comes first, then rows, then columns, each as wide as `widths` says,
which may be 0."""


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate each pair of neighbouring channels (2i, 2i+1), in float32.

    Args:
        x: [..., T, h, d] queries or keys.
        turn: [T, 1, d/2, 2] from `rotation`.

    Returns:
        [..., T, h, d] in x's dtype.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        # The same products and sums in real numbers, which inductor fuses with what comes before and after.
        (even, odd), (cos, sin) = pairs.unbind(-1), turn.unbind(-1)
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    else:
        # Without a compiler one kernel is faster than six, on a CPU up to four times.
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turn))
    return turned.flatten(-2).to(x.dtype)
