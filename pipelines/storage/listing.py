"""What lies in a directory."""

from __future__ import annotations

import os
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
