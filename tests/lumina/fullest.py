"""Live bytes: how much storage tensors hold at once, of real ones and of fake ones that hold none."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Fullest(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, while any of them lives; those of before are no part."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, int] = {}
        self.now = 0
        self.most = 0

    def _see(self, value: Any, size: int | None) -> None:
        if not isinstance(value, Tensor):
            return
        storage = value.untyped_storage()
        if storage._cdata not in self._alive:
            self._alive[storage._cdata] = storage.nbytes() if size is None else size
            self.now += self._alive[storage._cdata]
            weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, storage: int) -> None:
        self.now -= self._alive.pop(storage)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            self._see(value, 0)
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            self._see(value, None)
        self.most = max(self.most, self.now)
        return out


class _FusedNorm(torch.autograd.Function):
    """CUDA's RMS norm as far as memory goes: it keeps its input and one number a token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x, x.new_empty((*x.shape[:-1], 1), dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return torch.empty_like(gradient)


@contextmanager
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks of any size in bfloat16 inside, with CUDA's RMS norm; tables made before are taken as they are."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with monkeypatch.context() as patched, FakeTensorMode(allow_non_fake_inputs=True):
            patched.setattr(F, "rms_norm", lambda x, *_: _FusedNorm.apply(x))
            yield
    finally:
        torch.set_default_dtype(before)
