"""Rate limit for a server that many workers ask: slots, a common clock of requests, a budget, over files in one folder.

Slots are locks, which the system frees whatever is killed; the ledger is a small file that changes under a lock. All
workers of a stage see the folder, so the limits are of all of them together.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curation.caption_config import EndpointConfig
from lumina.faults import MachineError
from lumina.files import replace_file

_POLL_S = 0.02


class Gate:
    """Lets requests through as the limits allow.

    Args:
        directory: of slots and ledger; is made.
        limits: of all who share the directory.
        stop: ends every wait once it is set.
    """

    def __init__(self, directory: Path, limits: EndpointConfig, stop: threading.Event) -> None:
        self._directory, self._limits, self._stop = directory, limits, stop
        directory.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """One of `in_flight`, waited for. MachineError once it is stopped."""
        while True:
            self._check_stop()
            for number in range(self._limits.in_flight):
                with self._locked(f"slot-{number}", fcntl.LOCK_NB) as is_mine:
                    if is_mine:
                        yield
                        return
            self.wait(_POLL_S)

    def request(self) -> None:
        """Wait for the time of the next request, and count it. MachineError if the budget is spent, or once it is
        stopped."""
        while True:
            self._check_stop()
            with self._ledger() as ledger:
                self._check_budget(ledger)
                now = time.time()
                # A clock that was set back must not stop the stage for as long.
                ledger["next"] = min(ledger["next"], now + max(self._limits.patience_s, self._interval_s))
                wait_s = ledger["next"] - now
                if wait_s <= 0:
                    ledger["next"] = now + self._interval_s
                    ledger["requests"] += 1
                    return
            self.wait(min(wait_s, 1.0))

    def pause(self, seconds: float) -> None:
        """Let nobody make a request for so long."""
        with self._ledger() as ledger:
            ledger["next"] = max(ledger["next"], time.time() + seconds)

    def spend(self, tokens: int) -> None:
        """Count the tokens of an answer."""
        with self._ledger() as ledger:
            ledger["tokens"] += tokens

    def wait(self, seconds: float) -> None:
        """Wait; MachineError once it is stopped."""
        self._stop.wait(seconds)
        self._check_stop()

    def drain(self, seconds: float) -> None:
        """Wait until what others have under way is answered, for so long at most."""
        until = time.monotonic() + seconds
        for number in range(self._limits.in_flight):
            while time.monotonic() < until:
                with self._locked(f"slot-{number}", fcntl.LOCK_NB) as is_mine:
                    if is_mine:
                        break
                time.sleep(_POLL_S)

    @property
    def _interval_s(self) -> float:
        return 60 / self._limits.requests_per_minute if self._limits.requests_per_minute else 0.0

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise MachineError("the captioning stage stops")

    def _check_budget(self, ledger: dict[str, float]) -> None:
        for counted, setting, most in (
            ("requests", "max_requests", self._limits.max_requests),
            ("tokens", "max_total_tokens", self._limits.max_total_tokens),
        ):
            if most is not None and ledger[counted] >= most:
                raise MachineError(
                    f"caption.endpoint.{setting}: the budget of {most} {counted} is spent; all answers are kept: raise "
                    "it, and the same command continues"
                )

    @contextmanager
    def _ledger(self) -> Iterator[dict[str, float]]:
        path = self._directory / "ledger.json"
        with self._locked("ledger", 0):
            ledger = {"next": 0.0, "requests": 0, "tokens": 0}
            if path.exists():
                ledger |= json.loads(path.read_text(encoding="utf-8"))
            yield ledger
            replace_file(path, json.dumps(ledger).encode())

    @contextmanager
    def _locked(self, name: str, how: int) -> Iterator[bool]:
        """Hold a lock; with LOCK_NB, whether it could be had."""
        file = os.open(self._directory / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | how)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(file)
