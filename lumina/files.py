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
