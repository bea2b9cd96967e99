"""Sizes: which crops, latent sizes and frame counts fit the VAE and every patch size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]
"""(width, height) in pixels."""

SPATIAL_COMPRESSION = 8
"""Pixels per latent, along width and height."""
TEMPORAL_COMPRESSION = 4
"""Frames per latent after the first."""
CELL = 32
"""Pixels per side that the VAE and the largest released patch divide: 8 * 4."""


def num_cells(resolution: int, cell: int = CELL) -> int:
    """Cells of a square picture of this resolution: round((resolution / cell)^2)."""
    return round((resolution / cell) ** 2)


def crop_sizes(cells: int, cell: int = CELL, max_ratio: float = 4.0) -> list[Size]:
    """All sizes of at most `cells` cells that cannot grow, from the widest to the tallest.

    Args:
        cells: most cells in a picture, at least 1.
        cell: pixels per side of a cell.
        max_ratio: longest side over shortest side, at least 1.
    """
    if cells < 1 or cell < 1 or max_ratio < 1:
        raise ValueError(f"cells, cell and max_ratio must be at least 1, got {cells}, {cell}, {max_ratio}")
    sizes = []
    columns, rows = cells, 1
    while columns > 0:
        if max(columns, rows) / min(columns, rows) <= max_ratio:
            sizes.append((columns * cell, rows * cell))
        if (rows + 1) * columns <= cells:
            rows += 1
        else:
            columns -= 1
    return sizes


def rank_crop_sizes(size: Size, sizes: Sequence[Size]) -> list[tuple[float, Size]]:
    """Kept part of a picture (0..1) under each crop size, best first; ties go to the wider, then taller size."""
    scores = []
    for crop in sizes:
        ratios = crop[0] / size[0], crop[1] / size[1]
        scores.append((min(ratios) / max(ratios), crop))
    return sorted(scores, reverse=True)


def best_crop_size(size: Size, sizes: Sequence[Size]) -> Size:
    """The crop size that keeps most of a picture of this (width, height)."""
    return rank_crop_sizes(size, sizes)[0][1]


def check_size(width: int, height: int, multiple: int = CELL) -> None:
    """Raise ValueError, naming the nearest sizes that fit, unless both sides are multiples of `multiple`."""
    if width > 0 and height > 0 and width % multiple == 0 and height % multiple == 0:
        return
    choices = [
        sorted({max(side // multiple, 1) * multiple, -(-side // multiple) * multiple}) for side in (width, height)
    ]
    near = ", ".join(f"{w}x{h}" for w in choices[0] for h in choices[1] if w > 0 and h > 0)
    raise ValueError(
        f"width and height must be positive multiples of {multiple}, got {width}x{height}; near it: {near}"
    )


def latent_frames(num_frames: int) -> int:
    """Latents of a clip, the first included: n + 1 for 4n + 1 frames; ValueError for other counts."""
    if num_frames < 1 or num_frames % TEMPORAL_COMPRESSION != 1:
        raise ValueError(f"a clip has 4n + 1 frames (1, 5, 9, ...), got {num_frames}")
    return num_frames // TEMPORAL_COMPRESSION + 1


def largest_clip(num_frames: int) -> int:
    """The largest 4n + 1 that is at most `num_frames` (at least 1)."""
    if num_frames < 1:
        raise ValueError(f"a clip needs at least one frame, got {num_frames}")
    return (num_frames - 1) // TEMPORAL_COMPRESSION * TEMPORAL_COMPRESSION + 1


def generated_latents(num_frames: int) -> int:
    """Latents that decode to this many frames: 1 for an image, F for 4F frames; ValueError for other counts."""
    if num_frames == 1:
        return 1
    if num_frames < 2 * TEMPORAL_COMPRESSION or num_frames % TEMPORAL_COMPRESSION:
        raise ValueError(f"a generated clip has 1 frame, or a multiple of 4 from 8 on, got {num_frames}")
    return num_frames // TEMPORAL_COMPRESSION


def resize_crop(frames: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Shrink or enlarge until the crop is covered, then cut out its centre, exactly as the released code.

    While both sides are at least twice the crop they are halved with a box filter; then one bicubic resize.

    Args:
        frames: [T, H, W, 3].
        size: (width, height) of the crop.

    Returns:
        [T, height, width, 3].
    """
    # Pillow's filters define the released numbers; OpenCV's bicubic does not average when it shrinks.
    from PIL import Image

    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {frames.shape}")
    out = np.empty((len(frames), size[1], size[0], 3), np.uint8)
    for row, frame in enumerate(frames):
        image = Image.fromarray(frame)
        while image.width >= 2 * size[0] and image.height >= 2 * size[1]:
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
        scale = max(size[0] / image.width, size[1] / image.height)
        resized = (round(image.width * scale), round(image.height * scale))
        if resized != image.size:
            image = image.resize(resized, Image.Resampling.BICUBIC)
        left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
        out[row] = np.asarray(image.crop((left, top, left + size[0], top + size[1])))
    return out
