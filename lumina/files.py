"""Files as such, whatever they hold."""

from __future__ import annotations

import hashlib
from pathlib import Path


def ffmpeg_path(path: str | Path) -> str:
    """The path such that FFmpeg takes it for one: `12:30.mp4` alone would name a protocol `12`."""
    return str(Path(path).absolute())


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place_of(path: str | Path) -> Path:
    """The path of a file or directory from the root, through all links but one to a file at its end.

    That link's name and folder count, not those of the file that it leads to: the cache of a hub keeps files without
    their extensions, apart from their neighbours.
    """
    path = Path(path).expanduser()
    return path.parent.resolve() / path.name if path.is_symlink() and not path.is_dir() else path.resolve()
