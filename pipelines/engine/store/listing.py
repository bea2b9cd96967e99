"""Directory listing."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path


def sizes(root: Path) -> dict[str, int]:
    """Size of every file below a directory by its relative path; nothing for a directory that is not there."""
    found: dict[str, int] = {}
    below = [""]
    while below:
        prefix = below.pop()
        try:
            entries = os.scandir(root / prefix)
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(f"{prefix}{entry.name}/")
                elif entry.is_file():
                    found[f"{prefix}{entry.name}"] = entry.stat().st_size
    return found


def sizes_below(root: Path) -> Callable[[str], int | None]:
    """Tells the bytes of a file below a directory by its relative path; None for what is not there.

    A link is no file, nor is what lies behind one: it may lead anywhere.
    """
    folders: dict[str, bool] = {}

    def is_folder(path: str) -> bool:
        if path not in folders:
            above = not path or is_folder(os.path.dirname(path))
            folders[path] = above and stat.S_ISDIR(os.lstat(os.path.join(root, path) if path else root).st_mode)
        return folders[path]

    def look(path: str) -> int | None:
        try:
            found = os.lstat(os.path.join(root, path)) if is_folder(os.path.dirname(path)) else None
        except OSError:
            return None
        return found.st_size if found is not None and stat.S_ISREG(found.st_mode) else None

    return look
