"""Cluster bootstrap: once, when a stage needs it or a later one will, on the thread that outlives all stages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.engine.events import Display
from pipelines.engine.signals import StopSignal
from pipelines.errors import PipelineError, StageError


@dataclass
class ClusterStart:
    """The cluster of one run. `prepare` and `need` are for stage threads."""

    start: Callable[[], None] | None
    """Brings it up; None if there is nothing to bring up."""
    wanted: bool
    """Whether any stage of the run needs it."""
    call: Callable[[Callable[[], None]], None]
    """Hands a function to the calling thread of the run, which calls it soon."""
    display: Display
    stop: StopSignal
    """Breaks the start off."""

    def __post_init__(self) -> None:
        self._up = self.start is None
        self._error: Exception | None = None

    def prepare(self) -> None:
        """Have it start while other work goes on: later stages will most likely need it."""
        if self.wanted and not self._up:
            self.call(self._bring_up)

    def need(self, stage: str) -> None:
        """Wait until it is up.

        Raises:
            StageError: it did not start; each stage that needs it says so.
            Stopped: the run is being stopped.
        """
        if self._up:
            return
        self.display.stage(stage, "waiting", "for the cluster")
        tried = threading.Event()

        def bring_up() -> None:
            self._bring_up()
            tried.set()

        self.call(bring_up)
        tried.wait()
        self.stop.check()
        if self._error is not None:
            known = isinstance(self._error, PipelineError)
            said = "" if known else f"the cluster did not start: {type(self._error).__name__}: "
            raise StageError(f"{said}{self._error}") from self._error

    def _bring_up(self) -> None:
        if self.start is None or self._up or self._error is not None:
            return
        try:
            # Else it would wait a minute for processes that the same Ctrl-C has ended.
            with self.stop.interrupting():
                self.start()
            self._up = True
        except KeyboardInterrupt:
            return
        except Exception as error:  # noqa: BLE001  (each stage that asked reports it)
            self._error = error
