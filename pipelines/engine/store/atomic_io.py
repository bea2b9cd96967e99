"""Files that are on the disk, and not only on their way there, before anything names them."""

from __future__ import annotations

import os
from pathlib import Path


def write_synced(path: Path, text: str) -> None:
    """Write a file that is on the disk, and not only on its way there, before it gets its name."""
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def link_new(temporary: Path, path: Path) -> bool:
    """Give a file its name; False if the name is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        # NFS may answer so to a call that it repeats, since its first answer was lost.
        return temporary.stat().st_nlink > 1
    return True


def sync_tree(out: Path) -> None:
    """Push files and directories to the disk, so that no manifest outlives the data it names."""
    for path in (out, *out.rglob("*")):
        if path.is_dir():
            sync_directory(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Push the names in a directory to the disk: what was made there, and what was removed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
