"""The three sources of the Shapes world: the same scenes, filmed with different quality.

Real sources differ more than `SOURCES` do, whose flaws a small model hardly notices: `STRONG` has a camera that drifts
and loses its focus, and clips that were shrunk and uploaded again, half of them under another clip's caption.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lumina.shapes.rendering import Scenery, render


@dataclass(frozen=True)
class Source:
    """How one source films a scene and writes its files."""

    name: str
    degrade: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    """Changes uint8 frames [T, H, W, 3]."""
    crf: int
    """H.264 constant rate factor of its files: higher is worse."""
    wrong_captions: float
    """Share of its clips that carry another scene's caption."""
    supersampling: int = 1
    """Frames averaged into one: the exposure's motion blur."""


_DRIFT = (0.2, 0.45)
"""Of a drifting camera from the first frame to the last, in shorter sides."""
_BLUR = (0.16, 0.24)
"""Standard deviation of a lens out of focus, in shorter sides; it breathes between a fifth of it and all."""
_SHRUNK = (0.045, 0.065)
"""Side of what was uploaded again, in shorter sides."""
_HELD = (2, 5)
"""Frames for which one is shown."""


def film(
    scene: Scenery, source: Source, rng: np.random.Generator, *, num_frames: int, height: int, width: int, fps: float
) -> np.ndarray:
    """Return uint8 frames [T, H, W, 3] of the scene as the source records it, before compression."""
    k = source.supersampling
    frames = render(scene, num_frames=num_frames * k, height=height, width=width, fps=fps * k)
    if k > 1:
        frames = np.rint(frames.reshape(num_frames, k, height, width, 3).mean(axis=1)).astype(np.uint8)
    return source.degrade(frames, rng)


def _clean(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return frames


def _handheld(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Camera shake, autoexposure that hunts, sensor noise."""
    import cv2

    num_frames, height, width = frames.shape[:3]
    t = np.linspace(0, 2 * np.pi, num_frames)
    shake = np.zeros((num_frames, 2))
    for cycles in (2, 3, 5):
        shake += rng.uniform(0.002, 0.007, 2) * np.sin(cycles * t[:, None] + rng.uniform(0, 2 * np.pi, 2))
    shake *= min(height, width)
    gain = 1 + rng.uniform(0.04, 0.14) * np.sin(rng.uniform(0.5, 2) * t + rng.uniform(0, 2 * np.pi))
    noise = rng.normal(0, rng.uniform(3, 7), frames.shape).astype(np.float32)
    shaken = [
        cv2.warpAffine(frame, np.array([[1, 0, dx], [0, 1, dy]]), (width, height), borderMode=cv2.BORDER_REFLECT_101)
        for frame, (dx, dy) in zip(frames, shake, strict=True)
    ]
    bright = np.stack(shaken).astype(np.float32) * gain[:, None, None, None].astype(np.float32)
    return np.clip(np.rint(bright + noise), 0, 255).astype(np.uint8)


def _shaky(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A camera that drifts and loses its focus, and all that `_handheld` does."""
    import cv2

    num_frames, height, width = frames.shape[:3]
    side = min(height, width)
    from_middle = np.linspace(-0.5, 0.5, num_frames) if num_frames > 1 else np.zeros(1)
    angle, reach = rng.uniform(0, 2 * np.pi), side * rng.uniform(*_DRIFT)
    breath = 0.6 + 0.4 * np.sin(2 * np.pi * from_middle + rng.uniform(0, 2 * np.pi))
    sigmas = side * rng.uniform(*_BLUR) * breath
    filmed = []
    for frame, at, sigma in zip(frames, reach * from_middle, sigmas, strict=True):
        move = np.array([[1, 0, at * np.cos(angle)], [0, 1, at * np.sin(angle)]])
        moved = cv2.warpAffine(frame, move, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        filmed.append(cv2.GaussianBlur(moved, (0, 0), float(sigma), borderType=cv2.BORDER_REFLECT_101))
    return _handheld(np.stack(filmed), rng)


def _web(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A grey translucent banner with a logo along one edge, as on re-uploaded clips."""
    height, width = frames.shape[1:3]
    bar = max(2, round(height * rng.uniform(0.08, 0.13)))
    top = 0 if rng.random() < 0.3 else height - bar
    out = frames.astype(np.float32)
    out[:, top : top + bar] = 0.45 * out[:, top : top + bar] + 0.55 * rng.uniform(20, 60)
    left, logo = round(width * rng.uniform(0.05, 0.7)), max(1, round(width * 0.2))
    out[:, top + bar // 4 : top + bar - bar // 4, left : left + logo] = rng.uniform(190, 235)
    return np.rint(out).astype(np.uint8)


def _uploaded_again(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shrunk and enlarged, each frame shown for longer, and `_web`'s banner on top."""
    import cv2

    height, width = frames.shape[1:3]
    small = max(2, round(min(height, width) * rng.uniform(*_SHRUNK)))
    held = int(rng.integers(*_HELD))
    shrunk = [cv2.resize(frame, (small, small), interpolation=cv2.INTER_AREA) for frame in frames[::held]]
    grown = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR) for frame in shrunk]
    return _web(np.stack([grown[index // held] for index in range(len(frames))]), rng)


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source("synthetic", _clean, crf=18, wrong_captions=0.0),
        Source("handheld", _handheld, crf=23, wrong_captions=0.0, supersampling=3),
        Source("web", _web, crf=36, wrong_captions=0.25),
    )
}
"""Mild flaws: what the networks of `lumina/zoo` were trained on."""

STRONG: dict[str, Source] = {
    source.name: source
    for source in (
        SOURCES["synthetic"],
        Source("handheld", _shaky, crf=26, wrong_captions=0.1, supersampling=3),
        Source("web", _uploaded_again, crf=42, wrong_captions=0.5),
    )
}
"""Flaws as those of real sources: what a clip shows can often not be told, or is not what its caption says."""
