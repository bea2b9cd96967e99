"""Preprocessing of frames for VBench's networks: resize, crop and normalise, each exactly as the official code does.

All take frames [T, H, W, 3] (RGB, uint8) and give float32 [T, 3, H', W'], and raise ValueError for anything else. The
short side is resized to a number of pixels, the long one to that times long / short, rounded down. Source: VBench
(Huang et al. 2024, arXiv 2311.17982), commit 45e79ec of Vchitect/VBench.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Frames = NDArray[np.uint8]
SIDE = 224

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_ACTION_SHORT_SIDE = 256


def dino(frames: Frames, device: torch.device | str = "cpu") -> Tensor:
    """For DINO: short side 224, bilinear without antialiasing, not cropped; ImageNet's mean and deviation."""
    x = _values(frames, device)
    return _normalised(_interpolated(x, "bilinear") / 255, _IMAGENET)


def clip_float(frames: Frames, device: torch.device | str = "cpu") -> Tensor:
    """For CLIP in background consistency and aesthetics: bicubic without antialiasing, overshoot kept; 224x224."""
    x = _values(frames, device)
    return _normalised(_centre(_interpolated(x, "bicubic")) / 255, _CLIP)


def clip_uint8(frames: Frames, device: torch.device | str = "cpu") -> Tensor:
    """As `clip_float`, but what is resized is clamped and rounded to whole grey levels: for ViCLIP."""
    x = _values(frames, device)
    return _normalised(_centre(_interpolated(x, "bicubic").clamp(0, 255).round()) / 255, _CLIP)


def clip_pil(frames: Frames, device: torch.device | str = "cpu") -> Tensor:
    """For CLIP in appearance style: Pillow's bicubic, which does antialias; 224x224."""
    check(frames)
    height, width = _size(frames.shape[1:3], SIDE)
    resized = [np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)) for frame in frames]
    return _normalised(_centre(_values(np.stack(resized), device)) / 255, _CLIP)


def human_action(frames: Frames, device: torch.device | str = "cpu") -> Tensor:
    """For human action: OpenCV's bilinear to a short side of 256, crop of 224x224; ImageNet's mean and deviation."""
    check(frames)
    height, width = _size(frames.shape[1:3], _ACTION_SHORT_SIDE)
    resized = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR) for frame in frames]
    return _normalised(_centre(_values(np.stack(resized), device)) / 255, _IMAGENET)


def raft(frames: Frames, device: torch.device | str = "cpu") -> Tensor:
    """For RAFT: values 0 to 255, borders repeated until both sides divide by 8; the odd pixel is right or below."""
    x = _values(frames, device)
    more_height, more_width = -x.shape[2] % 8, -x.shape[3] % 8
    left, top = more_width // 2, more_height // 2
    return F.pad(x, (left, more_width - left, top, more_height - top), mode="replicate")


def check(frames: Frames) -> None:
    """ValueError unless frames are uint8 [T, H, W, 3] with T >= 1."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ValueError(f"frames must be uint8 [T, H, W, 3] with T >= 1, got {frames.dtype} {list(frames.shape)}")


def _values(frames: Frames, device: torch.device | str) -> Tensor:
    """[T, 3, H, W], float32 from 0 to 255."""
    check(frames)
    return torch.tensor(frames, device=device).permute(0, 3, 1, 2).float().contiguous()


def _size(sides: Sequence[int], short: int) -> tuple[int, int]:
    """Height and width with a short side of `short`."""
    height, width = sides
    if width <= height:
        return int(short * height / width), short
    return short, int(short * width / height)


def _interpolated(x: Tensor, mode: str) -> Tensor:
    return F.interpolate(x, _size(x.shape[2:], SIDE), mode=mode, align_corners=False)


def _centre(x: Tensor) -> Tensor:
    """The middle 224x224; halves of a pixel round to even."""
    top, left = (round((side - SIDE) / 2) for side in x.shape[2:])
    return x[:, :, top : top + SIDE, left : left + SIDE]


def _normalised(x: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, deviation = (torch.tensor(values, device=x.device)[:, None, None] for values in statistics)
    return (x - mean) / deviation
