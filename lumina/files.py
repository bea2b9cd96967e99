"""Files as such, whatever they hold."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARTIAL = ".*.tmp"
"""Files that `replacing` has not given their name yet, or never will: whoever wrote them was killed."""
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


def read_jsonl(path: Path) -> list[Any]:
    """What the lines of a JSON Lines file hold; a last one that is still being written, or was cut short, is left out.

    Raises FileNotFoundError if there is none, ValueError naming the file and the line that is no JSON.
    """
    found = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                try:
                    found.append(json.loads(line))
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: no JSON: {error}") from error
    return found


@contextlib.contextmanager
def replacing(path: Path, sync: bool = False) -> Iterator[Path]:
    """Give a new file the place of an older one, or of none: who reads it finds either whole. Makes its folder.

    Args:
        path: the file.
        sync: have the new one on the disk, and not only on its way there, before it gets its name.

    Yields the path to write it to; OSError if it cannot be written, with what was there as it was and nothing beside.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if sync:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def replace_file(path: Path, content: bytes, sync: bool = False) -> None:
    """Write a file by `replacing`."""
    with replacing(path, sync) as partial:
        partial.write_bytes(content)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    # A buffer between would cost a small file more than its hash.
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place_of(path: str | Path) -> Path:
    """The path of a file or directory from the root, through all links but one to a file at its end.

    That link's name and folder count, not those of the file that it leads to: the cache of a hub keeps files without
    their extensions, apart from their neighbours.
    """
    path = Path(path).expanduser()
    return path.parent.resolve() / path.name if path.is_symlink() and not path.is_dir() else path.resolve()
