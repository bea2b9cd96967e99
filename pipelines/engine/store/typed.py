"""Records of a store as they are read: text of a regular file, JSON, and of the types that were written.

Whoever can write to the store may have written any of it. So nothing is taken for a name or a path before it was
looked at: a `Name` is one part of a path, a `Below` a path that does not leave the directory that it is relative to.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, PlainSerializer, Strict, TypeAdapter, ValidationError

T = TypeVar("T")

MOST_BYTES = 1 << 28
"""A record is kept in memory several times over; that of ten thousand files has some megabytes."""
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SHOWN = 3


def is_name(text: str) -> bool:
    """Whether a text is one part of a path, which leads nowhere else."""
    return text not in ("", ".", "..") and "/" not in text and "\0" not in text


def _name(text: str) -> str:
    if not is_name(text):
        raise ValueError(f"{text!r:.80} is no name of a file")
    return text


def _below(text: str) -> str:
    if "\0" in text or not {"", ".", ".."}.isdisjoint(text.split("/")):
        raise ValueError(f"{text!r:.80} leaves the directory that it should lie in")
    return text


def _bare(text: str) -> str:
    if not re.fullmatch("sha256:[0-9a-f]{64}", text):
        raise ValueError(f"{text!r:.80} is no fingerprint")
    return text.removeprefix("sha256:")


Text = Annotated[str, Strict()]
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Truth = Annotated[bool, Strict()]
Name = Annotated[str, Strict(), AfterValidator(_name)]
Below = Annotated[str, Strict(), AfterValidator(_below)]
Fingerprint = Annotated[str, Strict(), AfterValidator(_bare), PlainSerializer("sha256:{}".format)]
"""64 hex digits, and `sha256:<hex>` in a file."""


def read_text(path: Path) -> str:
    """The text of a regular file in UTF-8. A link is none: it may lead out of the store.

    Raises:
        FileNotFoundError: there is nothing of that name.
        ValueError: it is a link, a folder, a pipe or a device, too large, or no text.
        OSError: it cannot be read.
    """
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise ValueError(f"it is a link, to {os.readlink(path)!r:.200}")
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no file")
    with open(os.open(path, _OPEN), "rb") as file:
        if found.st_size > MOST_BYTES:
            raise ValueError(f"it has {found.st_size:,} bytes, {MOST_BYTES:,} are the most")
        return file.read().decode()


def unlinked(path: str, flags: int) -> int:
    """Opener of `open` that fails at a link: OSError."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def parse(text: str) -> Any:
    """JSON text as plain data.

    Raises:
        ValueError: it is no JSON, or nested so deeply that nobody wrote it.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error


def checked(kind: type[T], data: Any) -> T:
    """Plain data as an instance of `kind`, in whole and in every part.

    Raises:
        ValueError: it has other types, or lacks something; says which.
    """
    try:
        found: T = _adapter(kind).validate_python(data)
    except ValidationError as error:
        raise ValueError(_said(error)) from error
    return found


def plain(record: object) -> Any:
    """A record as plain data, of which `checked` makes it again."""
    return _adapter(type(record)).dump_python(record)


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def _said(error: ValidationError) -> str:
    found = error.errors(include_url=False)
    said = [
        f"{'.'.join(map(str, one['loc'])) or 'the record'}: {one['msg'].removeprefix('Value error, ')}"
        for one in found[:_SHOWN]
    ]
    more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return "; ".join([*said, *more])
