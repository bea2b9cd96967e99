"""File names of VBench's clips: `<prompt>-<index>.mp4` in one folder, as the official evaluation looks them up."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath

_INDEX = re.compile(r"-(\d+)$")
SUFFIX = ".mp4"
MAX_NAME_BYTES = 230
"""Of a clip that is made: file systems take 255, and its record has more; the longest official name has 217."""


def clip_name(prompt: str, index: int) -> str:
    """Name of one clip; raises ValueError for a prompt that no file can be named after."""
    name = f"{prompt}-{index}{SUFFIX}"
    if "/" in name or "\0" in name or len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"no file can be named after the prompt {prompt[:80]!r}: VBench finds clips by their names")
    return name


def prompt_of(name: str) -> str:
    """The prompt that a file is named after: its stem without `-<digits>` at the end."""
    return _INDEX.sub("", PurePath(name).stem)


def index_of(name: str) -> int | None:
    """The index at the end of a name, None without one."""
    found = _INDEX.search(PurePath(name).stem)
    return int(found.group(1)) if found else None


def arranged(names: Iterable[str]) -> Mapping[str, Mapping[int, str]]:
    """Files by prompt and index; raises ValueError naming two files of one clip."""
    clips: dict[str, dict[int, str]] = {}
    for name in sorted(names):
        prompt, index = prompt_of(name), index_of(name) or 0
        held = clips.setdefault(prompt, {})
        if index in held:
            raise ValueError(f"{held[index]} and {name} are both clip {index} of {prompt!r}: keep one")
        held[index] = name
    return clips
