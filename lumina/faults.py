"""Faults: whether an error is a file's, which its row says for ever, or the machine's, which passes.

The file's: a decoder refuses it, an archive or a member is damaged, its folder is there and lists no such name, it is a
directory or a pipe. The machine's is everything else that a system call, a network or a store answers: a full disk, a
mount that is away, too many open files, no memory, an expired credential, a decoder that does not start. What the
machine refuses is tried again for some seconds, then ends the stage: written into a row it would stay when the machine
is well again.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

_Result = TypeVar("_Result")

WAITS_S = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try of what the machine refused."""
PATIENCE_S = 10.0
"""Seconds after the first refusal beyond which there is no further try: stores try for a while by themselves."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_OF_THE_FILE = frozenset(
    {
        errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG, errno.EILSEQ,
        errno.ENXIO, errno.EOVERFLOW, errno.ERANGE, errno.EDOM,
    }
)  # fmt: skip
_IN_TEXT = re.compile(r"^(?:lumina\.faults\.)?MachineError: (.+)$", re.MULTILINE)


class MachineError(RuntimeError):
    """The machine, a mount or a store is at fault, or suspected: the stage fails, and no row says so.

    The message is one line that names the file or place, the cause and what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def is_of_machine(error: BaseException) -> bool:
    """Whether an error says nothing of the file that was at hand."""
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _OF_THE_FILE
    return isinstance(error, (MachineError, MemoryError))


def said(error: BaseException) -> str:
    """What an error says, in one line."""
    if isinstance(error, MemoryError):
        return "memory is short"
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error).partition("\n")[0].rstrip(".") or type(error).__name__


def brief(error: Exception) -> str:
    """First line of an error, without paths of this machine."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    text = re.sub(r"(?:file:)?(?:/[^\s:/']+)+/", "", lines[0])
    return f"{type(error).__name__}: {re.sub(r'-?[0-9]{6,}', 'N', text)}"


def cure(error: BaseException) -> str:
    """What to do about a fault of the machine."""
    number = error.errno if isinstance(error, OSError) else errno.ENOMEM if isinstance(error, MemoryError) else None
    if number in FULL:
        return "free some space, and the same command continues"
    if number in FORBIDDEN:
        return "allow it to this user, and the same command continues"
    if number in (errno.EMFILE, errno.ENFILE):
        return "raise the limit of open files (ulimit -n), and the same command continues"
    if number in (errno.ENOMEM, errno.EAGAIN):
        return "free memory, or lower runtime.curation_workers, and the same command continues"
    return "see that the disk or the mount behind it is well, and the same command continues"


def machine_error(error: BaseException, what: str = "") -> MachineError:
    """The error of `what` in one line; itself if it is one already."""
    if isinstance(error, MachineError):
        return error
    return MachineError((f"{what}: " if what else "") + f"{said(error)}; {cure(error)}")


@contextmanager
def machine_errors(what: str) -> Iterator[None]:
    """Everything that the system refuses inside is the machine's fault."""
    try:
        yield
    except (OSError, MemoryError) as error:
        raise machine_error(error, what) from error


def patiently(function: Callable[[], _Result], what: str) -> _Result:
    """The result of `function`, which is called again as long as the machine refuses, for about `PATIENCE_S`.

    MachineError if it still does. Other errors pass.
    """
    first: float | None = None
    tries = 0
    while True:
        try:
            return function()
        except Exception as error:
            if not is_of_machine(error):
                raise
            now = time.monotonic()
            first, tries = now if first is None else first, tries + 1
            if tries > len(WAITS_S) or now - first > PATIENCE_S:
                raise MachineError(f"{machine_error(error, what)} (tried {tries} times)") from error
            time.sleep(WAITS_S[tries - 1])


def told_by(error: BaseException) -> MachineError | None:
    """The fault behind an error, if there is one. Ray hands on what happened in a worker as text."""
    if isinstance(error, MachineError):
        return error
    found = _IN_TEXT.findall(str(error))
    return MachineError(found[-1]) if found else None
