"""Files that are on the disk, and not only on their way there, before anything names them."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

PARTIAL = ".*.tmp"
"""Files that `replace_file` has not given their name yet, or never will: whoever wrote them was killed."""


def write_synced(path: Path, text: str) -> None:
    """Write a file that is on the disk, and not only on its way there, before it gets its name."""
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes, sync: bool = False, modified: float | None = None) -> None:
    """Put a file in the place of an older one, or of none: who reads it finds either whole. Makes its folder.

    Args:
        path: the file.
        content: all of it.
        sync: have it on the disk before it gets its name.
        modified: time of its last change, in seconds since the epoch; now by default.

    Raises:
        OSError: it cannot be written; what was there is as it was, and nothing is left beside it.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if modified is not None:
            os.utime(temporary, (modified, modified))
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


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
