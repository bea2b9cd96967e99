"""Confinement of the decoding process: native code that reads files from outside gets as little as it can do with.

It still is this user's process, and may read this user's files: what it must not have is at hand nowhere, for there are
no credentials in its environment, it gains no rights, writes no file, and its memory has an end.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Mapping

_NEEDED = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONUSERBASE")
_THREADS = "_NUM_THREADS"
_MEMORY_STAYS = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
"""Pictures are kept where others were: to get new pages for each takes as long as to decode it."""
_RESERVED = 4 << 30
"""Bytes that the threads of decoders reserve without ever using them."""
_PR_SET_NO_NEW_PRIVS = 38
_OPEN_FILES = 256


def environment(paths: str, given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the decoding process needs of an environment, with `paths` to take code from."""
    kept = {name: value for name, value in given.items() if name in _NEEDED or name.endswith(_THREADS)}
    return {**kept, **_MEMORY_STAYS, "PYTHONPATH": paths}


def confine() -> None:
    """Give up, in this process and for good, what decoding does without: new rights, core dumps, written files."""
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the decoding process cannot give up gaining rights")
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        hard = resource.getrlimit(limit)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))


def bound_memory(pid: int, mapped: int, more: int) -> None:
    """Have the system refuse a process what goes far beyond the bytes that it has `mapped` and so many `more`.

    Whoever looks at its resident memory now and then ends it sooner; this holds between two looks too.
    """
    if sys.platform == "linux":
        most = mapped + more + _RESERVED
        hard = resource.prlimit(pid, resource.RLIMIT_AS)[1]
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.prlimit(pid, resource.RLIMIT_AS, (most, most))
