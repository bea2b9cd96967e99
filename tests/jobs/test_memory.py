"""What there is of memory, as somebody is told whose cluster did not start."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest

from jobs import memory
from jobs.memory import available_bytes, memory_told

GIB = 1 << 30


@pytest.mark.parametrize(
    ("limit", "usage"),
    [("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")],
)
def test_a_container_has_what_its_limit_leaves(tmp_path: Path, limit: str, usage: str) -> None:
    for name, size in ((limit, 3000), (usage, 1000)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{size}\n")
    assert available_bytes(tmp_path) == 2000
    (tmp_path / usage).write_text("4000\n")
    assert available_bytes(tmp_path) == 0


def test_without_a_limit_it_is_the_machine_that_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    assert 0 < available_bytes(tmp_path) <= psutil.virtual_memory().total


def test_it_says_whether_memory_is_short_and_who_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: GIB // 2)
    said = memory_told(2 * GIB, GIB)
    assert said.startswith("memory is short: 0.5 GiB are available, and Ray needs about 2.0 GiB; /dev/shm has ")
    assert re.search(r"objects need 1\.0 GiB; most is used by .+ \(process \d+, \d+\.\d GiB\), .+\. Free some$", said)
    assert memory_told(0, 0).startswith("memory is not short: ")
    with monkeypatch.context() as limited:
        limited.setattr(memory.resource, "getrlimit", lambda _: (12 * GIB, 12 * GIB))
        said = memory_told(0, 0)
    assert said.startswith("memory is short: ")
    assert "; `ulimit -v` allows a process 12.0 GiB of addresses, of which Ray takes many times its memory; " in said
    assert memory_told(0, 1 << 60).startswith("memory is short: ")  # all that /dev/shm has
