"""Clips of an index, made when they are asked for, and a task with those that it trains on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import numpy as np

from lumina.training.data.batches import BatchPlan, Slot

One = TypeVar("One")


class Clips(Sequence[One]):
    """Clips of an index, in order of (clip_id, bucket), each made when it is asked for."""

    def __init__(self, make: Callable[[int], One], rows: np.ndarray) -> None:
        """The clips of these row numbers, which `make` makes."""
        self._make = make
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> One: ...

    @overload
    def __getitem__(self, at: slice) -> Clips[One]: ...

    def __getitem__(self, at: int | slice) -> One | Clips[One]:
        if isinstance(at, slice):
            return Clips(self._make, self.rows[at])
        return self._make(int(self.rows[at]))


@dataclass(frozen=True)
class TaskData(Generic[One]):
    """One task with the clips it trains on."""

    task: Any
    """See `lumina.training.data.batches.Task`."""
    clips: Sequence[One]
    """In the order of the plan."""
    plan: BatchPlan

    def items(self, slots: Sequence[Slot]) -> list[tuple[int, One]]:
        """Return (place in the global batch, clip) of each slot."""
        return [(slot.position, self.clips[slot.index]) for slot in slots]
