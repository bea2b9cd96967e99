"""Lookup tables on a device: copied without waiting for it, and cached up to so many bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
V = TypeVar("V")


def upload(table: Tensor, device: torch.device) -> Tensor:
    """The table on `device`. A GPU takes it from page-locked memory, in its own time."""
    if device.type != "cuda":
        return table.to(device)
    return table.pin_memory().to(device, non_blocking=True)


class TableCache(Generic[P, V]):
    """A function of hashable arguments that keeps its latest results, `limit` bytes of them at most.

    Args:
        make: computes a result.
        size: bytes of a result.
        limit: bytes of all kept results; the least recently used ones go first, and a larger one is not kept.
    """

    def __init__(self, make: Callable[P, V], size: Callable[[V], int], limit: int) -> None:
        self.make = make
        self.size = size
        self.limit = limit
        self._kept: OrderedDict[Hashable, V] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> V:
        """The result of `make`, kept or new."""
        key = (args, tuple(sorted(kwargs.items())))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = self.make(*args, **kwargs)
        with self._lock:
            if key not in self._kept and self.size(made) <= self.limit:
                self._kept[key] = made
                self._bytes += self.size(made)
                while self._bytes > self.limit:
                    self._bytes -= self.size(self._kept.popitem(last=False)[1])
        return made

    @property
    def kept_bytes(self) -> int:
        """Bytes of what is kept now."""
        return self._bytes
