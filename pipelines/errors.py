"""The errors a user sees as one line."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from lumina.faults import FORBIDDEN, FULL, MachineError, cure, is_of_machine

_IN_TEXT = re.compile(r"^\w+Error: \[Errno (\d+)\][^\n]*?(?:: '([^'\n]+)')?$", re.MULTILINE)


class PipelineError(Exception):
    """Something the user can put right; the message names the thing, what was expected and what to do next."""


class StoreError(PipelineError):
    """The store cannot be used: not writable, too little space, or a damaged record."""


class GoneError(StoreError):
    """The store has lost a file that its records name."""


class StageError(PipelineError):
    """A stage broke its contract with the DAG, or failed."""


class LeaseLostError(PipelineError):
    """Another runner took over the stage while this one was busy with it."""


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "", cutoff: float = 0.6) -> str:
    """`did you mean 'steps'?` where a known word is near, from 0, any, to 1, the same; else other advice."""
    near = difflib.get_close_matches(word, sorted(known), 1, cutoff)
    return f"did you mean {near[0]!r}?" if near else otherwise


def disk_problem(error: OSError, where: Path) -> str:
    """Which file or directory a system call failed at, why, and what to do; `where` if the error does not tell."""
    at = where if error.filename is None else error.filename
    hint = ""
    if error.errno in FULL:
        hint = "; free some space, and the same command continues"
    elif error.errno in FORBIDDEN:
        hint = "; allow this user to write there, and the same command continues"
    elif is_of_machine(error):
        hint = f"; {cure(error)}"
    return f"{at}: {error.strerror or error}{hint}"


def failure(error: BaseException, where: Path) -> str:
    """What the user is told of a stage that failed; `where` if an error of the disk does not name a file."""
    if isinstance(error, (PipelineError, MachineError)):
        return str(error).strip()
    if (disk := disk_error_of(error)) is not None:
        return disk_problem(disk, where)
    return f"{type(error).__name__}: {error}".strip()


def disk_error_of(error: BaseException) -> OSError | None:
    """The full disk, the lost permission or mount behind an error, if that is what it is about.

    Ray hands on what happened in a worker as text.
    """
    if isinstance(error, OSError) and is_of_machine(error):
        return error
    for match in _IN_TEXT.finditer(str(error)):
        found = OSError(int(match[1]), os.strerror(int(match[1])), match[2])
        if is_of_machine(found):
            return found
    return None
