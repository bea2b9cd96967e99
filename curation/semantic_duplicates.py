"""Semantic duplicates: clips whose embeddings have a cosine above a limit, found in cells of k-means.

Up to `MOST_COMPARED` clips each is compared with each. Of more, those are compared that share one of their four nearest
cells, of which there are twice the square root of the clips; of a cell with more than `MOST_COMPARED`, those that lie
so near each other in the order of their cosine with its centre. Embeddings are whole numbers so small that float32
holds every sum of their products: what is found depends neither on the machine nor on the number of its threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from curation.near_duplicates import clusters

SCALE = 4000
"""Length of an embedding: the square of its length is below 2^24."""
MOST_COMPARED = 8192
"""Clips that one clip is compared with in a cell, at most."""
_NEAREST, _SAMPLED, _ROUNDS = 4, 32, 4
"""Cells of a clip; clips for each cell that k-means sees, and how often it does."""
_ROWS, _PAIRS = 256, 1 << 21
Embeddings = NDArray[np.int16]
_Longs = NDArray[np.int64]
_Floats = NDArray[np.float32]


def whole_numbers(embedding: NDArray[np.floating]) -> Embeddings:
    """An embedding of any length as one of length `SCALE`. ValueError if it has none, or is not finite."""
    length = float(np.linalg.norm(embedding.astype(np.float64)))
    if not (math.isfinite(length) and length > 0):
        raise ValueError("the embedding has no direction")
    return np.rint(embedding.astype(np.float64) * (SCALE / length)).astype(np.int16)


def semantic_pairs(embeddings: Embeddings, similarity: float) -> tuple[_Longs, _Longs]:
    """Pairs that connect all clips whose embeddings have a cosine of `similarity` at least: fewer than there are such.

    Args:
        embeddings: [clips, width], as `whole_numbers` makes them; may lie in a file.
        similarity: above 0 and below 1.
    """
    first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for members in _cells(embeddings):
        one, other = _connected(embeddings, members, similarity)
        first.append(members[one])
        second.append(members[other])
    return np.concatenate(first), np.concatenate(second)


def _connected(embeddings: Embeddings, members: _Longs, similarity: float) -> tuple[_Longs, _Longs]:
    """Pairs of one cell that connect what is near: each clip that has others with the least of them."""
    count = len(members)
    first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for one, other in _alike(embeddings, members, similarity):
        first.append(one)
        second.append(other)
        if sum(map(len, first)) > _PAIRS:
            one, other = _star(count, np.concatenate(first), np.concatenate(second))
            first, second = [one], [other]
    return _star(count, np.concatenate(first), np.concatenate(second))


def _alike(embeddings: Embeddings, members: _Longs, similarity: float) -> Iterator[tuple[_Longs, _Longs]]:
    """Places in a cell of what is near each other, of a few rows at a time."""
    held = max(1, MOST_COMPARED // _ROWS) * _ROWS
    for start in range(0, len(members), held):
        # A cell may have nearly all clips: in memory is what these are compared with.
        vectors = embeddings[members[start : start + held + MOST_COMPARED]].astype(np.float32)
        length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        for at in range(0, min(held, len(vectors)), _ROWS):
            end = min(at + _ROWS, len(vectors))
            others = slice(at, min(end + MOST_COMPARED, len(vectors)))
            products = vectors[at:end] @ vectors[others].T
            # Of a clip with itself and with those before it there is no need.
            one, other = np.nonzero(np.triu(products >= similarity * length[at:end, None] * length[None, others], 1))
            yield one + (start + at), other + (start + at)


def _star(count: int, first: _Longs, second: _Longs) -> tuple[_Longs, _Longs]:
    least = clusters(count, first, second)
    others = np.flatnonzero(least != np.arange(count))
    return least[others], others


def _cells(embeddings: Embeddings) -> Iterator[_Longs]:
    """Numbers of the clips of each cell, those that are nearest to its centre first."""
    count = len(embeddings)
    if count <= MOST_COMPARED:
        yield np.arange(count)
        return
    centres = _centres(embeddings, 2 * math.isqrt(count))
    cells, products = (np.empty((count, _NEAREST), kind) for kind in (np.int32, np.float32))
    for at in range(0, count, _ROWS):
        cells[at : at + _ROWS], products[at : at + _ROWS] = _nearest(embeddings[at : at + _ROWS], centres, _NEAREST)
    # Of two clips as near as each other the one with the lower number is first.
    order = np.lexsort((-products.reshape(-1), cells.reshape(-1)))
    ends = np.searchsorted(cells.reshape(-1)[order], np.arange(len(centres) + 1))
    for low, high in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        if high - low > 1:
            yield order[low:high] // _NEAREST


def _nearest(some: Embeddings, centres: _Floats, most: int) -> tuple[NDArray[np.int32], _Floats]:
    """Numbers of the `most` nearest centres of each embedding, and the products with them; of equal ones the first."""
    products = some.astype(np.float32) @ centres.T
    rows, found, values = np.arange(len(some)), [], []
    for _ in range(most):
        best = products.argmax(axis=1)
        found.append(best.astype(np.int32))
        values.append(products[rows, best].copy())
        products[rows, best] = -np.inf
    return np.stack(found, axis=1), np.stack(values, axis=1)


def _centres(embeddings: Embeddings, count: int) -> _Floats:
    """Centres of k-means on clips that are spread evenly over all, whole numbers as embeddings are."""
    sample = np.asarray(embeddings[_spread(len(embeddings), _SAMPLED * count)])
    centres = sample[_spread(len(sample), count)].astype(np.float32)
    for _ in range(_ROUNDS):
        cells = np.concatenate([_nearest(sample[at : at + _ROWS], centres, 1)[0][:, 0]
                                for at in range(0, len(sample), _ROWS)])  # fmt: skip
        order = np.argsort(cells, kind="stable")
        ends = np.searchsorted(cells[order], np.arange(count + 1))
        for cell in range(count):
            total = sample[order[ends[cell] : ends[cell + 1]]].sum(axis=0, dtype=np.int64)
            if length := math.sqrt(int(total @ total)):
                centres[cell] = np.rint(total * (SCALE / length))
    return centres


def _spread(count: int, most: int) -> _Longs:
    """Up to `most` of so many numbers, spread evenly."""
    most = min(count, most)
    return np.arange(most) * count // most
