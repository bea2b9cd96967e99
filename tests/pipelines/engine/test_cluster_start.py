"""The start of the cluster, as stage threads ask for it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

from pipelines.engine.cluster_start import ClusterStart
from pipelines.engine.events import NoDisplay
from pipelines.engine.signals import Stopped, StopSignal
from pipelines.errors import PipelineError, StageError


class Calling:
    """The thread that starts the cluster, and those that need it."""

    def __init__(self, start: Callable[[], None], stages: int) -> None:
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.stop, self.said = StopSignal(), queue.SimpleQueue[str]()
        self.cluster = ClusterStart(start, True, self.calls.put, NoDisplay(), self.stop)
        self.threads = [threading.Thread(target=self._need) for _ in range(stages)]

    def _need(self) -> None:
        try:
            self.cluster.need("a")
        except (StageError, Stopped) as error:
            self.said.put(f"{type(error).__name__} {error}".strip())
        else:
            self.said.put("up")

    def answer(self) -> list[str]:
        for thread in self.threads:
            thread.start()
        while any(thread.is_alive() for thread in self.threads):
            with contextlib.suppress(queue.Empty):
                self.calls.get(timeout=0.05)()
        return [self.said.get_nowait() for _ in self.threads]


def test_it_starts_once_for_all_that_need_it_and_no_more_when_it_is_up() -> None:
    started: list[bool] = []
    found = Calling(lambda: started.append(True), 3)
    found.cluster.prepare()
    assert found.answer() == ["up"] * 3
    found.cluster.prepare()
    found.cluster.need("b")
    assert found.calls.empty()
    assert len(started) == 1


def test_each_that_needs_it_is_told_why_it_did_not_start() -> None:
    def refuse() -> None:
        raise PipelineError("no room")

    assert Calling(refuse, 2).answer() == ["StageError no room"] * 2


def test_who_waits_for_a_start_that_is_broken_off_is_stopped() -> None:
    def interrupted() -> None:
        found.stop.requested = True
        raise KeyboardInterrupt

    found = Calling(interrupted, 2)
    assert found.answer() == ["Stopped"] * 2
