"""Tensors as plain Arrow columns: raw bytes, shape, dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

DType = Literal["bfloat16", "float32"]


@dataclass(frozen=True)
class PackedTensor:
    """A tensor outside torch."""

    data: bytes
    """C order, little-endian."""
    shape: list[int]
    dtype: DType


def pack(tensor: Tensor, dtype: DType) -> PackedTensor:
    """Pack a tensor, cast to `dtype`. Arrow and numpy have no bfloat16: its bits travel as 16-bit integers."""
    import torch

    cast = tensor.detach().to("cpu", torch.bfloat16 if dtype == "bfloat16" else torch.float32).contiguous()
    bits = cast.view(torch.int16).numpy().astype("<i2") if dtype == "bfloat16" else cast.numpy().astype("<f4")
    return PackedTensor(bits.tobytes(), list(cast.shape), dtype)


def unpack(data: bytes, shape: list[int], dtype: str) -> Tensor:
    """The tensor that `pack` packed; a copy. ValueError for another dtype."""
    import torch

    kinds = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if dtype not in kinds:
        raise ValueError(f"dtype must be one of {sorted(kinds)}, got {dtype!r}")
    return torch.frombuffer(bytearray(data), dtype=kinds[dtype]).view(shape)
