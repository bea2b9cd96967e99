"""Files: a second place for one, and the identity of a folder of them, whatever their order, times or owner."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from lumina.files import sha256_file


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second place, as a hard link where the file system has them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def files_digest(root: Path) -> str:
    """Return `sha256:<hex>` over the sorted (relative path, content digest) pairs of all files below `root`."""
    paths = (path for path in root.rglob("*") if path.is_file())
    return listing_digest((path.relative_to(root).as_posix(), sha256_file(path)) for path in paths)


def listing_digest(files: Iterable[tuple[str, str]]) -> str:
    """The `files_digest` of files given as (relative path, hex SHA-256), in any order."""
    digest = hashlib.sha256(b"lumina-files/1\n")
    for name, value in sorted(files):
        digest.update(f"{name}\0{value}\n".encode())
    return f"sha256:{digest.hexdigest()}"
