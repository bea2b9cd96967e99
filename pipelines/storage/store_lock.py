"""Who may touch a store as a whole: any number of runs, or one that removes from it.

The system frees the locks of processes that died.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import StoreError

_FILE = "STORE.lock"


@contextmanager
def in_use(root: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Keep others from removing anything while the block runs; waits for one that is removing, and tells `note`."""
    with (root / _FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            note("waiting for `lumina gc`, which removes from the store")
            fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Have the store for oneself while the block runs.

    Raises:
        StoreError: a run is at work on it, or somebody else removes from it.
    """
    with (root / _FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"store {root}: a run is at work on it; wait until it has ended") from error
        yield
