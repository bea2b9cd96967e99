"""Items made in this process: a worker of Ray's takes longer to import what it needs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from jobs.actor_pool import Finished
from jobs.runtime import RuntimeConfig


class PoolHere:
    """What takes the place of `jobs.actor_pool.hand_out`: one worker, which keeps what it has loaded."""

    def __init__(self) -> None:
        self._workers: dict[Any, Any] = {}

    def __call__(
        self,
        worker: type,
        arguments: Sequence[Any],
        todo: deque[Any],
        runtime: RuntimeConfig,
        workers: int | None = None,
    ) -> Iterator[Finished[Any]]:
        for item in todo:
            made = self._workers.setdefault((worker, repr(arguments)), None) or worker(*arguments)
            self._workers[worker, repr(arguments)] = made
            value, error = None, None
            try:
                value = made.make(item)
            except Exception as caught:  # noqa: BLE001  (as Ray hands it on)
                error = caught
            yield Finished(item, value, error)
