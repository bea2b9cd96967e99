"""Every step by which a process changes a directory, found as it happens, so that none can be forgotten.

A step is a system call that changes the disk: Python tells of most of them before they are made (`sys.addaudithook`),
and files are opened here such that each write is one too. For processes that end after it: a hook stays for good.
"""

from __future__ import annotations

import builtins
import errno
import io
import multiprocessing
import os
import sys
import threading
from pathlib import Path
from typing import Any

# Each process is the copy of one that has imported everything and runs no threads.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
"""Of the server that answers as S3 does. A process of `FORKS` has the environment of the first one."""
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([f"tests.pipelines.engine.store.{name}" for name in ("test_crashes", "test_remote")])

DIED = 9
_CHANGES = ("os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate", "os.utime")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Steps:
    """Counts steps below `root` from now on.

    Args:
        root: what is counted lies below; other files are left alone.
        die_at: end the process at once before this step, the first being 1; in the middle of it if it is a write.
        fail_from: let this step fail, and all later ones that need space (`ENOSPC`), or all later ones.
        error: number of the error of steps that fail.
    """

    def __init__(self, root: Path, die_at: int = 0, fail_from: int = 0, error: int = errno.ENOSPC) -> None:
        self.root, self.die_at, self.fail_from, self.error = os.fspath(root), die_at, fail_from, error
        self.count = 0
        self._lock = threading.Lock()
        sys.addaudithook(self._hear)
        self._open, self._fsync = io.open, os.fsync
        builtins.open = io.open = self._open_counted  # type: ignore[assignment]
        os.fsync = self._fsync_counted

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & _WRITES:
                self.step("open", path)
        elif event in _CHANGES:
            self.step(event, arguments[0])

    def step(self, what: str, path: Any, half: Any = None) -> None:
        """One step; `half` does the first half of it."""
        if not isinstance(path, str | os.PathLike):
            return
        # What is relative is so to a directory that rmtree has open.
        name = os.fspath(path)
        if os.path.isabs(name) and not name.startswith(self.root):
            return
        with self._lock:
            self.count += 1
            if self.count == self.die_at:
                if half is not None:
                    half()
                os._exit(DIED)
            frees = self.error == errno.ENOSPC and what in ("os.remove", "os.rmdir", "os.rename", "os.utime")
            if self.fail_from and self.count >= self.fail_from and not frees:
                raise OSError(self.error, os.strerror(self.error), None if what == "write" else name)

    def _fsync_counted(self, descriptor: int) -> None:
        self.step("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        self._fsync(descriptor)

    def _open_counted(
        self, file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
        newline: Any = None, closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        if not set(mode) & set("wax+") or isinstance(file, int):
            return self._open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = _Counted(file, "".join(sorted(set(mode) - set("bt"))), closefd, opener)
        raw.steps = self
        binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return binary if "b" in mode else io.TextIOWrapper(binary, encoding, errors, newline)


class _Counted(io.FileIO):
    """A file of which each write is a step."""

    steps: Steps

    def write(self, data: Any) -> int:
        write = super().write
        self.steps.step("write", self.name, lambda: write(memoryview(data)[: len(data) // 2]))
        return write(data)
