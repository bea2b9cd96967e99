"""Clips of an evaluation made in this process: a worker of Ray's takes longer to import what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from jobs.clips import Batch, ClipWorker
from jobs.runtime import RuntimeConfig


def worker_here() -> Callable[[Sequence[Batch], RuntimeConfig], Iterator[Batch]]:
    """What takes the place of `jobs.clips._finished`."""
    worker = ClipWorker()

    def finished(todo: Sequence[Batch], runtime: RuntimeConfig) -> Iterator[Batch]:
        for batch in todo:
            worker.make(batch)
            yield batch

    return finished
