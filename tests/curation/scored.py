"""Clips with planted faults, and what the stage `scores` finds of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from curation.decode import PROBE_OPERATOR, ProbeConfig
from curation.operator import Env, Operator, RowsFunction, apply
from curation.schema import INGEST, status_ok, to_table
from curation.scores import SCORES_OPERATOR, ScoresConfig
from lumina.randomness import generator


def texture(seed: int, height: int, width: int, blur: float = 3.0) -> np.ndarray:
    """Smooth noise over all of 0..255, uint8 [H, W]; it has no edge where it is rolled."""
    noise = generator(seed, "test/texture").standard_normal((height, width))
    smooth = cv2.GaussianBlur(np.tile(noise, (3, 3)), (0, 0), blur)[height : 2 * height, width : 2 * width]
    return np.rint(255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


def panned(picture: np.ndarray, count: int, step: int) -> np.ndarray:
    """Frames [T, H, W, 3] of a picture [H, W] that moves `step` pixels a frame to the right."""
    return np.stack([np.roll(picture, step * index, axis=1) for index in range(count)])[..., None].repeat(3, axis=-1)


def probed(root: Path, names: Sequence[str], captions: Mapping[str, str] | None = None) -> pa.Table:
    """The rows of `probe` for files below a folder; each is its own clip id."""
    rows = [
        {"uri": name, "media": "image" if name.endswith("png") else "video", "clip_id": name, "extra": "{}"}
        | {"source": "a", "caption": (captions or {}).get(name, ""), "sha256": name, "num_bytes": 1} | status_ok()
        for name in names
    ]  # fmt: skip
    return apply(PROBE_OPERATOR, _probe(root), to_table(rows, INGEST))


@functools.cache
def _probe(root: Path) -> RowsFunction:
    """One decoding process for all tests of a folder."""
    assert PROBE_OPERATOR.map is not None
    return PROBE_OPERATOR.map(ProbeConfig(), Env(str(root)))


def scored(
    root: Path,
    names: Sequence[str],
    config: ScoresConfig,
    weights: Mapping[str, str] | None = None,
    captions: Mapping[str, str] | None = None,
    operator: Operator = SCORES_OPERATOR,
) -> dict[str, dict[str, Any]]:
    """The rows of `scores`, or of another scoring operator, by clip id."""
    assert operator.map is not None
    compute = operator.map(config, Env(str(root), weights or {}))
    rows = apply(operator, compute, probed(root, names, captions)).to_pylist()
    return {row["clip_id"]: row for row in rows}
