"""The maths of dense matching: warping, correlation, matching and upsampling of optical flow.

Maps are [N, C, H, W]; flow has channels (x, y) in pixels of its own map. Formulas are those of UniMatch (Xu et al.
2023, arXiv 2211.05783), from the released model.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_OUTSIDE = -1e9
"""Score of a place outside the image."""


def coordinates(height: int, width: int, device: torch.device) -> Tensor:
    """[2, H, W] float32: the (x, y) of every pixel."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack([x, y]).float()


def sample_at(values: Tensor, points: Tensor) -> Tensor:
    """Values [N, C, H, W] bilinearly at points [N, 2, h, w] in pixels, zero outside: [N, C, h, w]."""
    height, width = values.shape[-2:]
    scale = points.new_tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)])
    grid = points.movedim(1, -1) * scale - 1
    return F.grid_sample(values, grid.to(values.dtype), mode="bilinear", padding_mode="zeros", align_corners=True)


def warp(values: Tensor, flow: Tensor) -> Tensor:
    """Values seen from the first image: values at each pixel plus its flow."""
    return sample_at(values, coordinates(flow.shape[-2], flow.shape[-1], flow.device) + flow)


def match_globally(feature0: Tensor, feature1: Tensor) -> Tensor:
    """Flow [N, 2, H, W]: softmax over all places of f0 . f1 / sqrt(C), expected place minus own place."""
    items, channels, height, width = feature0.shape
    places = coordinates(height, width, feature0.device)
    targets = places.flatten(1).T.to(feature0.dtype).expand(items, 1, -1, -1)
    query, key = (feature.flatten(2).transpose(1, 2)[:, None] for feature in (feature0, feature1))
    expected = F.scaled_dot_product_attention(query, key, targets, scale=1 / math.sqrt(channels))
    return expected[:, 0].transpose(1, 2).unflatten(2, (height, width)) - places


def match_locally(feature0: Tensor, feature1: Tensor, radius: int) -> Tensor:
    """Flow [N, 2, H, W] within a window: softmax over its places inside the image, expected offset."""
    channels, height, width = feature0.shape[1:]
    scores = _window_scores(feature0, feature1, radius) / math.sqrt(channels)
    inside = F.pad(feature0.new_ones(1, 1, height, width), [radius] * 4)
    inside = F.unfold(inside, 2 * radius + 1).view(1, -1, height, width)
    weights = scores.masked_fill(inside == 0, _OUTSIDE).softmax(1)
    return torch.einsum("nkhw,kc->nchw", weights, window_offsets(radius, feature0.device).to(weights.dtype))


def window_offsets(radius: int, device: torch.device) -> Tensor:
    """[(2r + 1)^2, 2] offsets (x, y) of a window, x fastest."""
    steps = torch.arange(-radius, radius + 1, device=device).float()
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def _window_scores(query: Tensor, key: Tensor, radius: int) -> Tensor:
    """Products [N, (2r + 1)^2, H, W] of each query with the keys around its place, zeros outside."""
    height, width = query.shape[-2:]
    padded = F.pad(key, [radius] * 4)
    span = range(2 * radius + 1)
    # One offset at a time: the window is never laid out for all channels.
    return torch.stack([(query * padded[..., y : y + height, x : x + width]).sum(1) for y in span for x in span], dim=1)


def propagate_globally(query: Tensor, key: Tensor, flow: Tensor) -> Tensor:
    """Flow averaged over all places with the weights softmax(q . k / sqrt(C)); q and k [N, C, H, W]."""
    height, width = flow.shape[-2:]
    q, k, v = (x.flatten(2).transpose(1, 2)[:, None] for x in (query, key, flow))
    return F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).unflatten(2, (height, width))


def propagate_locally(query: Tensor, key: Tensor, flow: Tensor, radius: int) -> Tensor:
    """As `propagate_globally` within a window; places outside the image take part with score 0 and flow 0."""
    height, width = flow.shape[-2:]
    weights = (_window_scores(query, key, radius) / math.sqrt(query.shape[1])).softmax(1)
    neighbours = (
        F.unfold(F.pad(flow, [radius] * 4), 2 * radius + 1).unflatten(1, (2, -1)).unflatten(-1, (height, width))
    )
    return (weights[:, None] * neighbours).sum(2)


def local_correlation(feature0: Tensor, feature1: Tensor, flow: Tensor, radius: int) -> Tensor:
    """[N, (2r + 1)^2, H, W]: f0 . f1 / sqrt(C), f1 taken around each pixel's place plus flow, offsets with x fastest.

    Outside the image f1 is zero.
    """
    channels, height, width = feature0.shape[1:]
    centres = coordinates(height, width, flow.device) + flow
    offsets = window_offsets(radius, flow.device).unflatten(0, (2 * radius + 1, -1))
    rows = []
    # A row of the window at a time bounds the memory to 2r + 1 copies of the map.
    for row in offsets:
        points = (centres[:, :, None] + row.T[None, :, :, None, None]).flatten(2, 3)
        found = sample_at(feature1, points).unflatten(2, (len(row), height))
        rows.append((feature0[:, :, None] * found).sum(1))
    return torch.cat(rows, dim=1) / math.sqrt(channels)


def upsample_convexly(flow: Tensor, mask: Tensor, factor: int) -> Tensor:
    """[N, 2, kH, kW]: each fine pixel is a convex mixture of the 3x3 coarse flows around it, times the factor k.

    `mask` [N, 9 k^2, H, W] holds the logits of the mixtures.
    """
    items, _, height, width = flow.shape
    weights = mask.view(items, 1, 9, factor, factor, height, width).softmax(2)
    neighbours = F.unfold(factor * flow, 3, padding=1).view(items, 2, 9, 1, 1, height, width)
    fine = (weights * neighbours).sum(2)
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(items, 2, factor * height, factor * width)


def upsample_flow(flow: Tensor, factor: int) -> Tensor:
    """Flow on a map k times as fine: bilinear with aligned corners, times k."""
    return F.interpolate(flow, scale_factor=factor, mode="bilinear", align_corners=True) * factor
