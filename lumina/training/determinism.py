"""Deterministic algorithms of torch on GPUs, whose fast ones add up in the order in which threads happen to come."""

from __future__ import annotations

import os

import torch

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
"""What cuBLAS reads when a process first uses it."""


def give_the_same_bits() -> None:
    """Have this process compute the same bits every time, on one kind of GPU and with one version of torch.

    The backward passes of attention and of gathering rows are slower for it. Whatever torch has no deterministic
    algorithm for raises RuntimeError with its name. Call it before the process first uses a GPU.
    """
    os.environ.setdefault(CUBLAS, ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Memory that is about to be written need not be filled first.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
