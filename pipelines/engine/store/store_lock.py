"""Who may touch a store as a whole: any number of runs, or one that removes from it.

The system frees the locks of processes that died. Files are opened to read and write, since NFS grants a common lock
to readers only, and a lock of one's own to writers only.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipelines.errors import StoreError, disk_problem

_FILE = "STORE.lock"


@contextmanager
def in_use(root: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Keep others from removing anything while the block runs; waits for one that is removing, and tells `note`.

    Raises:
        StoreError: the store cannot be written.
    """
    with _opened(root) as file:
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
    with _opened(root) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"store {root}: a run is at work on it; wait until it has ended") from error
        yield


def _opened(root: Path) -> IO[str]:
    try:
        return (root / _FILE).open("a+")
    except OSError as error:
        raise StoreError(f"store {root}: {disk_problem(error, root / _FILE)}") from error
