"""Latents to tokens and back, at any patch size.

Tokens run frame block, row block, column block (fastest); inside a token: frame, row, column, channel (fastest).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lumina.models.attention import Segments, segments
from lumina.models.config import PatchSize, TokenShape
from lumina.models.rope import Grid, rotation


@dataclass(frozen=True, eq=False)
class Tokens:
    """N items as tokens: [N, L, ...] when all have as many, else [1, T, ...] behind one another."""

    values: Tensor
    """[n, l, pt*ph*pw*C]."""
    rotation: Tensor
    """[l, 1, d/2, 2] or [n, l, 1, d/2, 2] cosines and sines of the rotary positions."""
    segments: Segments
    shapes: tuple[tuple[int, ...], ...]
    """The items' latent shapes [C, F, H, W]."""
    grids: tuple[Grid, ...]
    """The items' token grids."""
    patch: PatchSize

    def expand(self, per_item: Tensor) -> Tensor:
        """Spread [N, K] over the tokens: [N, 1, K] where broadcasting does it, else [1, T, K].

        What is [n, f, K] has a row for every frame block, f of an item or of all behind one another: [n, l, K]. All
        frame blocks have as many tokens then.
        """
        if per_item.ndim == 3:
            return per_item.repeat_interleave(self.segments.total // per_item.shape[:2].numel(), 1)
        if self.segments.equal:
            return per_item.unsqueeze(1)
        return per_item.index_select(0, self.segments.item_of_token).unsqueeze(0)


def patchify(x: Tensor | Sequence[Tensor], patch: PatchSize, config: TokenShape) -> Tokens:
    """Cut latents [C, F, H, W] into tokens. A single frame is repeated to fill the patch.

    Raises ValueError for a latent with other channels or a size that the patch does not divide.
    """
    shapes = (tuple(x.shape[1:]),) * len(x) if isinstance(x, Tensor) else tuple(tuple(item.shape) for item in x)
    grids = tuple(_grid(shape, patch, config.in_channels) for shape in dict.fromkeys(shapes))
    if len(grids) == 1:
        values = _cut(x if isinstance(x, Tensor) else torch.stack(list(x)), patch)
        turn = rotation(grids[0], config.rope_widths, config.rope_theta, values.device)
        places = segments((values.shape[1],) * len(shapes), values.device)
        return Tokens(values, turn, places, shapes, grids * len(shapes), patch)
    grids = tuple(_grid(shape, patch, config.in_channels) for shape in shapes)
    parts = [_cut(item[None], patch)[0] for item in x]
    values = torch.cat(parts)
    turn = torch.cat([rotation(grid, config.rope_widths, config.rope_theta, values.device) for grid in grids])
    places = segments(tuple(len(part) for part in parts), values.device)
    items = len(parts) if places.equal else 1
    return Tokens(values.unflatten(0, (items, -1)), turn.unflatten(0, (items, -1)), places, shapes, grids, patch)


def unpatchify(values: Tensor, tokens: Tokens, batched: bool) -> Tensor | list[Tensor]:
    """Put tokens [n, l, pt*ph*pw*C] back into latents: one tensor [N, C, F, H, W], or a list of [C, F, H, W]."""
    if len(set(tokens.shapes)) == 1:
        latents = _paste(values, tokens.grids[0], tokens.patch, tokens.shapes[0])
        return latents if batched else list(latents.unbind(0))
    parts = values.flatten(0, 1).split(tokens.segments.lengths)
    return [
        _paste(part[None], grid, tokens.patch, shape)[0]
        for part, grid, shape in zip(parts, tokens.grids, tokens.shapes, strict=True)
    ]


def _grid(shape: tuple[int, ...], patch: PatchSize, channels: int) -> Grid:
    if len(shape) != 4 or shape[0] != channels:
        raise ValueError(f"a latent must have shape [{channels}, F, H, W], got {list(shape)}")
    frames, rows, columns = shape[1:]
    if (frames % patch[0] and frames != 1) or rows % patch[1] or columns % patch[2]:
        raise ValueError(f"latent size {list(shape[1:])} (F, H, W) is not a multiple of the patch size {list(patch)}")
    return max(frames // patch[0], 1), rows // patch[1], columns // patch[2]


def _cut(x: Tensor, patch: PatchSize) -> Tensor:
    """[N, C, F, H, W] to [N, L, pt*ph*pw*C]."""
    if x.shape[2] == 1 and patch[0] > 1:
        x = x.expand(-1, -1, patch[0], -1, -1)
    blocks = x.unflatten(4, (-1, patch[2])).unflatten(3, (-1, patch[1])).unflatten(2, (-1, patch[0]))
    return blocks.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4).flatten(1, 3)


def _paste(values: Tensor, grid: Grid, patch: PatchSize, shape: tuple[int, ...]) -> Tensor:
    """[N, L, pt*ph*pw*C] to [N, C, F, H, W]; of a repeated single frame the first is kept."""
    blocks = values.unflatten(2, (*patch, -1)).unflatten(1, grid)
    latents = blocks.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
    return latents[:, :, : shape[1]]
