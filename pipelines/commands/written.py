"""Files that a command is asked to write: what cannot be written is said before the work, not after it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from pipelines.errors import PipelineError

PAGE = "<!doctype html>"
"""How the pages begin that commands write."""


def check_file(option: str, path: Path, *, begins: str = "", makes_folder: bool = False) -> None:
    """Check that a file can be written; an older one is replaced.

    Args:
        option: what named it, for messages.
        path: the file.
        begins: how an older one of the kind begins, in any case; one that begins otherwise is somebody's own.
        makes_folder: whether folders that are not there are made.

    Raises:
        PipelineError: it cannot be written, or is not of the kind.
    """
    try:
        problem = _problem(path, makes_folder)
        own = path.is_file() and begins and not _begins(path, begins)
    except OSError as error:  # of a name that is too long
        problem, own = error.strerror or str(error), False
    if problem:
        raise PipelineError(f"{option} {path} cannot be written: {problem}")
    if own:
        raise PipelineError(f"{option} {path} is there and was not written by this command: name another file")


def write_page(option: str, path: Path, page: str) -> None:
    """Write a page; an older one is replaced. PipelineError if it cannot be written; `option` is what named it."""
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise PipelineError(f"{option} {path} cannot be written: {error.strerror or error}") from error


def check_new_folder(option: str, path: Path) -> None:
    """Check that a folder can be made, with those above it.

    Raises:
        PipelineError: it cannot, or something is there.
    """
    if path.exists() or path.is_symlink():
        raise PipelineError(f"{option} {path} exists: choose another directory or remove it")
    check_place(option, path)


def check_place(option: str, path: Path) -> None:
    """PipelineError if a folder can neither be made, with those above it, nor be written, where it is there already."""
    at = path if path.is_dir() else path.parent
    if problem := _place_problem(at, makes_folder=True):
        raise PipelineError(f"{option} {path} cannot be written: {problem}")


def _problem(path: Path, makes_folder: bool) -> str:
    if path.is_dir():
        return f"{os.strerror(errno.EISDIR)}; name a file in it"
    if path.exists():
        return "" if os.access(path, os.W_OK) else os.strerror(errno.EACCES)
    return _place_problem(path.parent, makes_folder)


def _place_problem(folder: Path, makes_folder: bool) -> str:
    at = folder
    while makes_folder and not at.exists() and at != at.parent:
        at = at.parent
    if not at.exists():
        return f"{os.strerror(errno.ENOENT)}; make the folder {folder} first"
    if not at.is_dir():
        return f"{at} is no folder"
    return "" if os.access(at, os.W_OK | os.X_OK) else f"{at}: {os.strerror(errno.EACCES)}"


def _begins(path: Path, text: str) -> bool:
    with path.open("rb") as file:
        start = file.read(1024).lstrip().lower()  # templates leave empty lines
    return start == b"" or start.startswith(text.lower().encode())
