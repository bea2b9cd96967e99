"""The errors a user sees as one line."""

from __future__ import annotations

import errno
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class PipelineError(Exception):
    """Something the user can put right; the message names the thing, what was expected and what to do next."""


class StoreError(PipelineError):
    """The store cannot be used: not writable, too little space, or a damaged record."""


class StageError(PipelineError):
    """A stage broke its contract with the DAG, or failed."""


class LeaseLostError(PipelineError):
    """Another runner took over the stage while this one was busy with it."""


def disk_problem(error: OSError, where: Path) -> str:
    """Which file or directory a system call failed at, why, and what to do; `where` if the error does not tell."""
    at = where if error.filename is None else error.filename
    hint = ""
    if error.errno in _FULL:
        hint = "; free some space, and the same command continues"
    elif error.errno in _FORBIDDEN:
        hint = "; allow this user to write there, and the same command continues"
    return f"{at}: {error.strerror or error}{hint}"
