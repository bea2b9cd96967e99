"""How much a clip moves: the mean optical flow between frames half a second apart.

The paper calls the score the average flow magnitude; the released script averages the absolute values of the two flow
components instead (between 0.5 and 0.71 of the magnitude). Both are computed here; the model is conditioned on the
released one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from lumina.models.unimatch import UniMatch

RELEASED_SIZE = (320, 576)
"""Height and width at which the released script estimates flow."""
RELEASED_TIMES_S = tuple(step * 0.5 for step in range(9))
"""Seconds at which the released script samples a clip: 0, 0.5, ..., 4."""

Images = NDArray[np.uint8] | NDArray[np.float32]
Prepare = Callable[[NDArray[np.uint8], tuple[int, int]], Images]


class OpticalFlowEstimator(Protocol):
    """Optical flow between pairs of images."""

    @property
    def name(self) -> str:
        """Name with version, recorded with every score, e.g. "opencv-dis-medium/5.0.0"."""

    @property
    def prepare(self) -> Prepare:
        """Frames [T, H, W, 3] and a size to all that it sees of them: `prepare_frames` or `prepare_grey`."""

    def __call__(self, a: Images, b: Images) -> NDArray[np.float32]:
        """Flow [N, 2, H, W] in pixels (x, y) from images `a` to images `b`: both [N, H, W, 3], RGB in 0..255, or what
        `prepare` made."""


class DISFlow:
    """OpenCV's dense inverse search flow on luminance: no weights, milliseconds per pair on one core."""

    def __init__(self) -> None:
        import cv2

        # One thread: workers are the parallelism, and the result must not depend on a machine's cores.
        cv2.setNumThreads(1)
        self._estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.name = f"opencv-dis-medium/{cv2.__version__}"
        self.prepare: Prepare = prepare_grey

    def __call__(self, a: Images, b: Images) -> NDArray[np.float32]:
        """See `OpticalFlowEstimator`. Sides must be at least 16 pixels."""
        import cv2

        if a.shape != b.shape or a.ndim != 4 or a.shape[-1] not in (1, 3) or min(a.shape[1:3]) < 16:
            raise ValueError(f"DIS flow needs two [N, H, W, 3] batches with sides >= 16, got {a.shape} and {b.shape}")
        flows = np.empty((len(a), 2, *a.shape[1:3]), np.float32)
        for first, second, out in zip(a, b, flows, strict=True):
            flow = self._estimator.calc(_grey(first), _grey(second), None)
            for channel in range(2):
                cv2.extractChannel(flow, channel, out[channel])
        return flows


class UniMatchFlow:
    """UniMatch, the paper's estimator.

    Args:
        model: the network, in evaluation mode; it runs where its weights are.
        name: what is recorded with every score.
    """

    def __init__(self, model: UniMatch, name: str) -> None:
        self.model = model
        self.name = name
        self.prepare: Prepare = prepare_frames

    @classmethod
    def from_pretrained(cls, source: Path, device: str = "cpu") -> Self:
        """Load a directory or a released `.pth` file; named after the digest of its numbers.

        Raises FileNotFoundError or ValueError if there is no such network.
        """
        from lumina.models.unimatch import UniMatch
        from lumina.weights_digest import digest

        model = UniMatch.from_pretrained(source)
        name = f"unimatch/{digest({'unimatch': model.state_dict()}).removeprefix('sha256:')[:12]}"
        return cls(model.to(device), name)

    def __call__(self, a: Images, b: Images) -> NDArray[np.float32]:
        """See `OpticalFlowEstimator`. Sides must be multiples of the network's `config.multiple`."""
        import torch

        device = next(self.model.parameters()).device
        first, second = (torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).to(device) for x in (a, b))
        with torch.no_grad():
            return cast(NDArray[np.float32], self.model(first.float(), second.float()).cpu().numpy())


@dataclass(frozen=True)
class MotionScore:
    """Scores of one clip, in pixels of the resized frame per sampling interval."""

    flow_abs_mean: float
    """Mean of |u| and |v| over pairs and pixels: the released definition."""
    flow_mag_mean: float
    """Mean of sqrt(u^2 + v^2): the paper's words."""
    flow_mag_p90: float
    """90th percentile of the magnitude over all pixels of all pairs."""
    pair_scores: tuple[float, ...]
    """`flow_abs_mean` of each consecutive pair."""
    transposed: bool
    """Whether height and width were swapped because the clip is taller than wide."""


def prepare_frames(frames: NDArray[np.uint8], size: tuple[int, int] = RELEASED_SIZE) -> NDArray[np.float32]:
    """Frames [T, H, W, 3] as the flow estimator sees them: float32 0..255 of `size` (height, width).

    Taller than wide: the spatial axes are swapped (a transpose). Resized bilinearly with corners aligned, without
    antialiasing and without keeping the aspect, as released.
    """
    if frames.shape[1] > frames.shape[2]:
        frames = frames.transpose(0, 2, 1, 3)
    rows, columns = _taps(frames.shape[1], size[0]), _taps(frames.shape[2], size[1])
    resized = np.empty((len(frames), *size, 3), np.float32)
    for image, out in zip(frames, resized, strict=True):
        out[:] = _blend(_blend(np.ascontiguousarray(image), columns, 1), rows, 0)
    return resized


def prepare_grey(frames: NDArray[np.uint8], size: tuple[int, int] = RELEASED_SIZE) -> NDArray[np.uint8]:
    """Luminance [T, h, w, 1] of `prepare_frames`, rounded."""
    return np.stack([_grey(image)[..., None] for image in prepare_frames(frames, size)])


def motion_scores(
    clips: Sequence[NDArray[np.uint8]],
    estimator: OpticalFlowEstimator,
    size: tuple[int, int] = RELEASED_SIZE,
    batch_pairs: int = 8,
) -> list[MotionScore]:
    """Score clips by their sampled frames [T, H, W, 3], T >= 2 (see `lumina.frame_times.pick_frames`).

    Pairs of all clips go to the estimator together, `batch_pairs` at a time; that changes no score beyond what the
    estimator's own batching does. Raises ValueError for a clip of fewer than 2 frames.
    """
    turned = [frames.shape[1] > frames.shape[2] for frames in clips]
    return prepared_scores([estimator.prepare(frames, size) for frames in clips], turned, estimator, batch_pairs)


def prepared_scores(
    images: Sequence[Images],
    transposed: Sequence[bool],
    estimator: OpticalFlowEstimator,
    batch_pairs: int = 8,
) -> list[MotionScore]:
    """`motion_scores` of what the estimator's `prepare` made of each clip, and whether it swapped the axes."""
    for prepared in images:
        if len(prepared) < 2:
            raise ValueError(f"a motion score needs at least 2 frames, got {len(prepared)}")
    pairs = [(clip, at) for clip, prepared in enumerate(images) for at in range(len(prepared) - 1)]
    flows: list[NDArray[np.float32]] = []
    for start in range(0, len(pairs), batch_pairs):
        batch = pairs[start : start + batch_pairs]
        firsts, seconds = (np.stack([images[clip][at + offset] for clip, at in batch]) for offset in (0, 1))
        flows.extend(estimator(firsts, seconds))
    scores, start = [], 0
    for prepared, turned in zip(images, transposed, strict=True):
        stop = start + len(prepared) - 1
        scores.append(_score(flows[start:stop], turned))
        start = stop
    return scores


def motion_score(
    frames: NDArray[np.uint8],
    estimator: OpticalFlowEstimator,
    size: tuple[int, int] = RELEASED_SIZE,
    batch_pairs: int = 8,
) -> MotionScore:
    """`motion_scores` of one clip."""
    return motion_scores([frames], estimator, size, batch_pairs)[0]


def _score(flows: Sequence[NDArray[np.float32]], transposed: bool) -> MotionScore:
    pairs = [float(np.abs(flow).mean(dtype=np.float64)) for flow in flows]
    magnitude = np.empty((len(flows), *flows[0].shape[1:]), np.float32)
    for flow, out in zip(flows, magnitude, strict=True):
        np.hypot(flow[0], flow[1], out=out)
    return MotionScore(
        flow_abs_mean=float(np.mean(pairs)),
        flow_mag_mean=float(magnitude.mean(dtype=np.float64)),
        flow_mag_p90=float(np.percentile(magnitude, 90, overwrite_input=True)),
        pair_scores=tuple(pairs),
        transposed=transposed,
    )


@dataclass(frozen=True)
class _Taps:
    low: NDArray[np.intp]
    high: NDArray[np.intp]
    low_weight: NDArray[np.float32]
    high_weight: NDArray[np.float32]


def _taps(source: int, target: int) -> _Taps:
    """The two source pixels of each target pixel, and their weights, with the corner pixels' centres aligned."""
    position = np.arange(target, dtype=np.float32) * np.float32((source - 1) / max(target - 1, 1))
    low = np.minimum(position.astype(np.intp), source - 1)
    weight = position - low.astype(np.float32)
    return _Taps(low, np.minimum(low + 1, source - 1), 1 - weight, weight)


def _blend(image: Images, taps: _Taps, axis: int) -> NDArray[np.float32]:
    """Weighted sums of two rows (`axis` 0) or columns (1) of an image [H, W, 3].

    Numbers lie behind one another and are changed in place: with pixels of three numbers numpy is some times slower.
    """
    height, width, channels = image.shape
    shape = (len(taps.low), width, channels) if axis == 0 else (height, len(taps.low), channels)
    flat = image.reshape(height, width * channels)
    numbers = np.arange(channels)

    def part(index: NDArray[np.intp], weight: NDArray[np.float32]) -> NDArray[np.float32]:
        if axis == 0:
            taken, weights = flat[index], weight[:, None]
        else:
            taken, weights = flat.take((index[:, None] * channels + numbers).ravel(), 1), np.repeat(weight, channels)
        found: NDArray[np.float32] = taken.astype(np.float32, copy=False)
        found *= weights
        return found

    total = part(taps.low, taps.low_weight)
    total += part(taps.high, taps.high_weight)
    return total.reshape(shape)


def _grey(image: Images) -> NDArray[np.uint8]:
    """Luminance [H, W] of RGB [H, W, 3] in 0..255, rounded; of what has one channel that one."""
    import cv2

    if image.shape[-1] == 1:
        return cast(NDArray[np.uint8], image[..., 0])
    # Rounds and converts; it is the absolute value of what is positive.
    return np.asarray(cv2.cvtColor(cv2.convertScaleAbs(image), cv2.COLOR_RGB2GRAY), np.uint8)
