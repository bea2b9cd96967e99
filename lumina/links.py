"""Symbolic links in data from outside: one that leads out of the folder that was named is another's file, or a secret.

The cache of a hub keeps the files of `<repository>/snapshots/<revision>` as links into `<repository>/blobs`, which
belongs to what was named.
"""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path, PurePosixPath

_NO_DISK = ("/proc", "/sys", "/dev")


def leads_out(name: str, folder: Path) -> bool:
    """Whether a link on the way to `name`, relative to `folder`, leads to something out of that folder.

    What leaves the folder by its words (an absolute path, `..`) is named by whoever wrote them, and is no link.
    """
    parts = PurePosixPath(name).parts
    if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == "..":
        return False
    ways = (os.path.join(folder, *parts[:end]) for end in range(1, len(parts) + 1))
    if not any(os.path.islink(way) for way in ways):
        return False
    real = Path(os.path.realpath(os.path.join(folder, name)))
    return real.exists() and not any(real.is_relative_to(place) for place in _places(Path(os.path.abspath(folder))))


def first_that_leads_out(folder: Path) -> Path | None:
    """Of all that lies below a folder, the first link that leads out of it."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_symlink())
    return next((path for path in found if leads_out(path.relative_to(folder).as_posix(), folder)), None)


def check_links(folder: Path) -> None:
    """ValueError that names the first link below a folder that leads out of it."""
    if (link := first_that_leads_out(folder)) is not None:
        raise ValueError(f"{link} is a link that leads out of the folder: put a copy in its place")


def is_on_no_disk(found: os.stat_result) -> bool:
    """Whether the system makes up a file as it is read: `/proc/self/environ` looks like a regular one."""
    return stat.S_ISREG(found.st_mode) and found.st_dev in _made_up()


@lru_cache(maxsize=64)
def _places(folder: Path) -> tuple[Path, ...]:
    """Where files of a folder may lie."""
    snapshots = (parent for parent in (folder, *folder.parents) if parent.name == "snapshots")
    # Not through a link of that name: it is part of what is not trusted.
    blobs = (Path(os.path.realpath(snapshot.parent)) / "blobs" for snapshot in snapshots)
    return (Path(os.path.realpath(folder)), *blobs)


@lru_cache(maxsize=1)
def _made_up() -> frozenset[int]:
    """Devices of the file systems that are on no disk."""
    return frozenset(os.stat(place).st_dev for place in _NO_DISK if os.path.isdir(place)) - {os.stat("/").st_dev}
