"""Members of tar archives: where each lies, so that one is read without those before it."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast

_BLOCK = 512
_PACKED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


@dataclass(frozen=True)
class TarMember:
    """A plain file in an archive."""

    offset: int
    size: int


@dataclass(frozen=True)
class TarIndex:
    """What an archive holds."""

    members: Mapping[str, TarMember] = field(default_factory=dict)
    """By name, in the order of the archive; of one name the first."""
    twice: frozenset[str] = frozenset()
    """Names that stand there again."""
    fault: str = ""
    """Why there may be more in it than can be read."""


def open_member(archive: Path, state: tuple[int, int], name: str) -> BinaryIO:
    """Open a member for reading from its start to its end; what it raises then is EOFError for one that is cut off.

    Args:
        archive: its file.
        state: time in nanoseconds and size of the file.
        name: of the member; FileNotFoundError if there is none.
    """
    member = tar_index(archive, *state).members.get(name)
    if member is None:
        raise FileNotFoundError(name)
    if member.offset + member.size > state[1]:
        raise EOFError(f"the archive ends in the middle of this member, after byte {state[1]:,}: it is cut off")
    file = archive.open("rb")
    file.seek(member.offset)
    return cast(BinaryIO, _Part(file, member.size))


class _Part:
    """So many bytes of a file, from where it stands."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        content = self._file.read(min(size, self._left))
        if not content and self._left:
            raise EOFError("the archive ends in the middle of this member: it is cut off")
        self._left -= len(content)
        return content

    def __enter__(self) -> _Part:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()


def tar_index(path: Path, mtime_ns: int, size: int) -> TarIndex:
    """Look through an archive; its state tells whether it is what was looked through last.

    Links, devices and files with holes are no members. OSError if it cannot be read.
    """
    return _index(path, mtime_ns, size)


@lru_cache(maxsize=16)
def _index(path: Path, _mtime_ns: int, size: int) -> TarIndex:
    found: dict[str, TarMember] = {}
    twice: set[str] = set()
    with path.open("rb") as file:
        if kind := _PACKED.get(file.read(2)):
            return TarIndex(fault=f"it is packed with {kind}: unpack that, so that members can be read in place")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:", errorlevel=1) as archive:
                before = 0
                while (member := archive.next()) is not None:
                    if archive.offset <= before:
                        raise ValueError("a size below zero, which leads back to what was read")
                    before = archive.offset
                    archive.members.clear()  # type: ignore[attr-defined]  # a million would stay
                    if not member.isreg() or member.issparse():
                        continue
                    if member.name in found:
                        twice.add(member.name)
                    else:
                        found[member.name] = TarMember(member.offset_data, member.size)
                end = archive.offset
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            last = max((one.offset + one.size for one in found.values()), default=0)
            fault = f"it is cut off or damaged after byte {min(last, size):,}: {error}"
            return TarIndex(found, frozenset(twice), fault)
        file.seek(end)
        mark = file.read(_BLOCK)
    # tarfile takes a header that is none for the end, too.
    if len(mark) < _BLOCK or any(mark):
        fault = f"it ends after byte {end:,} without the mark of its end: it is cut off or damaged"
        return TarIndex(found, frozenset(twice), fault)
    return TarIndex(found, frozenset(twice))
