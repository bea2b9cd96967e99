"""Clips made in this process: a worker of Ray's takes longer to import what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from jobs.clips import Batch, ClipWorker
from jobs.runtime import RuntimeConfig


def worker_here() -> Callable[
    [Sequence[Batch], RuntimeConfig, int | None], Iterator[tuple[Batch, BaseException | None]]
]:
    """What takes the place of `jobs.clips._finished`."""
    worker = ClipWorker()

    def finished(
        todo: Sequence[Batch], runtime: RuntimeConfig, workers: int | None
    ) -> Iterator[tuple[Batch, BaseException | None]]:
        for batch in todo:
            error: BaseException | None = None
            try:
                worker.make(batch)
            except Exception as caught:  # noqa: BLE001  (as Ray hands it on)
                error = caught
            yield batch, error

    return finished
