"""Identity of a folder of files, whatever their order, times or owner."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_digest(root: Path) -> str:
    """Return `sha256:<hex>` over the sorted (relative path, content digest) pairs of all files below `root`."""
    digest = hashlib.sha256(b"lumina-files/1\n")
    for path in sorted(
        (path for path in root.rglob("*") if path.is_file()), key=lambda p: p.relative_to(root).as_posix()
    ):
        digest.update(f"{path.relative_to(root).as_posix()}\0{sha256_file(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"
