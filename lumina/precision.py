"""Precision of networks that run without training: bfloat16 on GPUs and float32 on CPUs, unless one is named.

Fused attention on GPUs takes no float32 with shared key heads, and a VAE needs half the memory. Optical flow stays
float32 everywhere: beyond 128 pixels bfloat16 holds no half of one. Without torch, so that a plan can tell which type
a stage has: what `auto` comes to is part of its identity.
"""

from __future__ import annotations

from typing import Literal

DType = Literal["float32", "bfloat16"]
Precision = Literal["auto", "float32", "bfloat16"]
"""A setting: one type, or `auto`, the device's own."""


def precision_on(device: str, precision: Precision = "auto") -> DType:
    """The type that `precision` comes to on a device, by torch's name of it ("cpu", "cuda", "cuda:1")."""
    if precision != "auto":
        return precision
    return "bfloat16" if device.partition(":")[0] == "cuda" else "float32"
