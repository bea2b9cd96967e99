"""Ctrl-C and SIGTERM as a flag: work stops where it is safe, and leaves a point to continue from."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SAME_SIGNAL_S = 0.5
_AGAIN_S = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_to(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `handler` inside this context, as in a parent that passes them on; main thread only."""
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, other in before.items():
            signal.signal(number, other)


class Stopped(Exception):
    """The run is being stopped; the thread of a stage ends without an outcome."""


class StopSignal:
    """Becomes `requested` with the first signal; the second one ends the process at once."""

    def __init__(self) -> None:
        self.requested = False
        self._at = 0.0
        self._raises = False

    def check(self) -> None:
        """Raises Stopped once it is requested."""
        if self.requested:
            raise Stopped

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals inside this context; only the main thread can, elsewhere nothing happens."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            # Once asked to stop, the process is about to end: a repeated signal must not become an exception.
            if not self.requested:
                for number, handler in before.items():
                    signal.signal(number, handler)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """The first signal raises KeyboardInterrupt inside this context: for a call that would not end by itself.

        Not while it imports: CPython 3.11 may keep its import lock then, and all later imports would wait for ever. And
        the call cannot take the signals for itself: `ray.init` puts handlers in place that end the process silently.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        set_handler = signal.signal

        def set_other_handler(signalnum: int, handler: Any) -> Any:
            return signal.getsignal(signalnum) if signalnum in _SIGNALS else set_handler(signalnum, handler)

        self._raises = not self.requested
        over = threading.Event()
        here = threading.get_ident()
        threading.Thread(target=self._insist, args=(over, here), name="stop", daemon=True).start()
        signal.signal = set_other_handler
        try:
            yield
        finally:
            signal.signal = set_handler
            self._raises = False
            over.set()
            # Ray's native code has put its own in front: it aborts a process that has not ended three seconds later.
            for number in _SIGNALS:
                signal.signal(number, signal.getsignal(number))

    def _insist(self, over: threading.Event, thread: int) -> None:
        """Wake the main thread again, once the first signal has found it at an import."""
        while not over.wait(_AGAIN_S):
            if self.requested and self._raises:
                self._at = time.monotonic()
                # After the first signal the handlers stay, so that this one always finds them.
                signal.pthread_kill(thread, signal.SIGTERM)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Nothing here may take a lock: the next signal can arrive within this very function, on the same thread.
        now = time.monotonic()
        if not self.requested:
            self._at, self.requested = now, True
        # One Ctrl-C may arrive twice, from the terminal and from a parent that passes it on; or `_insist` has sent it.
        elif now - self._at > _SAME_SIGNAL_S:
            os._exit(128 + number)
        if self._raises and not _imports(frame):
            self._raises = False
            raise KeyboardInterrupt


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported where the thread is."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
