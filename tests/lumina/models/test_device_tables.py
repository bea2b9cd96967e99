"""Tables on devices: what is kept is bounded, and nothing waits for a copy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lumina.models import attention, rope
from lumina.models.device_tables import TableCache


def test_the_least_recently_used_go_when_the_bytes_are_full() -> None:
    made: list[int] = []

    def make(size: int) -> bytes:
        made.append(size)
        return bytes(size)

    cache = TableCache(make, len, 10)
    assert [len(cache(size)) for size in (4, 5, 4)] == [4, 5, 4]
    assert cache.kept_bytes == 9
    cache(3)  # 5 is the oldest now
    assert cache.kept_bytes == 7
    cache(11)  # larger than all that may be kept
    assert cache.kept_bytes == 7
    for size in (4, 3, 5, 11):
        cache(size)
    assert made == [4, 5, 3, 11, 5, 11]


def test_the_tables_of_the_network_are_bounded() -> None:
    assert rope.rotation.limit == rope.CACHE_BYTES <= 256 << 20
    assert attention.segments.limit == attention.TABLE_BYTES <= 64 << 20
    turn = rope._rotation((2, 3, 4), (8, 12, 12), 256.0, torch.device("cpu"))
    assert rope.rotation.size(turn) == 24 * 16 * 2 * 4
    places = attention._segments((3, 1), torch.device("cpu"))
    assert attention.segments.size(places) == 3 * 4 + 4 * 8 + 6 * 8 + 6


def test_gpus_take_tables_from_pinned_memory_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: set[int] = set()
    copies: list[tuple[bool, bool]] = []
    to = Tensor.to

    def pin(table: Tensor) -> Tensor:
        own = table.clone()
        pinned.add(own.data_ptr())
        return own

    def copy(table: Tensor, target: Any, **options: Any) -> Tensor:
        if not isinstance(target, torch.device) or target.type != "cuda":
            return to(table, target, **options)
        copies.append((table.data_ptr() in pinned, options.get("non_blocking", False)))
        return table

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "to", copy)
    gpu = torch.device("cuda")
    places = attention._segments((3, 1), gpu)
    rope._rotation((2, 3, 4), (8, 12, 12), 256.0, gpu)
    assert copies == [(True, True)] * 7
    assert places.offsets.tolist() == [0, 3, 4]
    assert places.item_of_token.tolist() == [0, 0, 0, 1]
