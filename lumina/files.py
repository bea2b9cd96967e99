"""Files as such, whatever they hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_JSON_BYTES = 1 << 26


def ffmpeg_path(path: str | Path) -> str:
    """The path such that FFmpeg takes it for one: `12:30.mp4` alone would name a protocol `12`."""
    return str(Path(path).absolute())


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises FileNotFoundError if there is none, ValueError naming the file, and the line of a mistake, for what is no
    JSON, over 64 MiB, or nested without end.
    """
    size = path.stat().st_size
    if size > _JSON_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; a JSON file of at most {_JSON_BYTES:,} is read")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be read") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: no JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8") from error


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
