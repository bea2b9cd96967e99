"""Rotary positions of a grid of tokens: one part of every head for each of frame, row and column.

Angles are computed from integer grid positions when a grid is first seen, so no table limits the size of a video.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

Grid = tuple[int, int, int]
"""Tokens along (frames, rows, columns)."""


def axis_widths(head_dim: int) -> Grid:
    """Split a head over (frames, rows, columns): 36/54/54 of 144."""
    eighth = head_dim // 8
    return 2 * eighth, 3 * eighth, 3 * eighth


def angles(positions: Tensor, head_dim: int, theta: float) -> Tensor:
    """Rotation angles of tokens, float64.

    Args:
        positions: [T, 3], frame, row and column index of every token on the patch grid of its own item, from 0.
        head_dim: width d of a head.
        theta: base of the frequencies; axis of width w uses theta^(-2i/w), i = 0..w/2-1.

    Returns:
        [T, d/2]: the frame part, then rows, then columns.
    """
    parts = []
    for axis, width in enumerate(axis_widths(head_dim)):
        index = torch.arange(0, width, 2, dtype=torch.float64, device=positions.device)
        parts.append(positions[:, axis, None].double() * theta ** (-index / width))
    return torch.cat(parts, dim=-1)


@lru_cache(maxsize=64)
def rotation(grid: Grid, head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Unit complex numbers [F*R*C, 1, d/2] (complex64) that rotate the tokens of one grid, column fastest."""
    # The cache outlives the caller: a tensor made in inference mode could not be used in training afterwards.
    with torch.inference_mode(False):
        axes = [torch.arange(size) for size in grid]
        positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
        angle = angles(positions, head_dim, theta)
        return torch.polar(torch.ones_like(angle), angle).to(torch.complex64).unsqueeze(1).to(device)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate each pair of neighbouring channels (2i, 2i+1), in float32.

    Args:
        x: [..., T, h, d] queries or keys.
        turn: [T, 1, d/2] from `rotation`.

    Returns:
        [..., T, h, d] in x's dtype.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)
