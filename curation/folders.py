"""Clips of a folder without a manifest: which files below it are rows, and what becomes of every other one.

What is hidden (a name with a dot, the bins and indices of desktops and disk stations) is no clip of anybody's; a folder
that is linked is not followed, for it may lead anywhere, or back; a picture beside a video of the same name is its
cover. None of these goes without a word: all are counted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from curation.media_kinds import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from lumina.faults import FORBIDDEN, is_of_machine, machine_error

HIDDEN, LINKED, UNREADABLE = "hidden", "linked folder, not followed", "unreadable folder"
COVER, NO_FILE = "cover of a video", "pipe, socket or device"
NO_SUFFIX = "without extension"
SIDECAR_SUFFIX = ".txt"
_CLIP, _TEXT = "clip", "text"
_SYSTEM = frozenset(
    {
        "#recycle", "$RECYCLE.BIN", "@eaDir", "Thumbs.db", "System Volume Information", "__MACOSX", "__pycache__",
        "desktop.ini", "lost+found",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Scan:
    """The files below a folder, by paths relative to it, each once."""

    media: tuple[str, ...]
    """Videos and images, by their extensions, sorted; a link of such a name too, wherever it leads."""
    sidecars: tuple[str, ...]
    """Text files beside media of the same name."""
    left_out: tuple[tuple[str, str], ...]
    """What it is (an extension, or a reason) and its path, sorted."""


def scan(folder: Path) -> Scan:
    """Look at all that lies below a folder; opens no file. The result does not depend on the order of directories.

    MachineError for a folder that the system fails to list; one that it forbids to is left out.
    """
    media: list[str] = []
    sidecars: list[str] = []
    left_out: list[tuple[str, str]] = []

    def below(path: str, name: str = "") -> str:
        """The path relative to the folder."""
        return os.path.relpath(os.path.join(path, name), folder)

    def unreadable(error: OSError) -> None:
        if is_of_machine(error) and error.errno not in FORBIDDEN:
            raise machine_error(error, str(error.filename)) from error
        left_out.append((UNREADABLE, below(str(error.filename))))

    for place, folders, files in os.walk(folder, onerror=unreadable):
        at = "" if (relative := below(place)) == "." else f"{relative}/"
        hidden = set(filter(_is_hidden, (*folders, *files)))
        links = {name for name in folders if os.path.islink(os.path.join(place, name))} - hidden
        left_out += ((LINKED, at + name) for name in links)
        left_out += ((HIDDEN, below(path)) for name in hidden for path in _files(os.path.join(place, name)))
        folders[:] = (name for name in folders if name not in hidden and name not in links)
        clips, texts, others = _sorted_out(place, [name for name in files if name not in hidden])
        media += (at + name for name in clips)
        sidecars += (at + name for name in texts)
        left_out += ((kind, at + name) for kind, name in others)
    return Scan(tuple(sorted(media)), tuple(sorted(sidecars)), tuple(sorted(left_out)))


def said(left_out: Sequence[tuple[str, str]]) -> str:
    """How many are left out of each kind, the most first, with an example: `12 .json (a.json); 1 hidden (.x.mp4)`."""
    kinds: dict[str, list[str]] = {}
    for kind, path in left_out:
        kinds.setdefault(kind, []).append(path)
    ordered = sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
    return "; ".join(f"{len(paths)} {kind} ({shown(paths[0])})" for kind, paths in ordered)


def shown(path: str) -> str:
    """A path as text: bytes that are no UTF-8 by their numbers."""
    return path.encode(errors="backslashreplace").decode()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _SYSTEM


def _files(path: str) -> Iterator[str]:
    """A file, or the files below a folder; a link is one."""
    if os.path.islink(path) or not os.path.isdir(path):
        yield path
        return
    for place, folders, files in os.walk(path):
        yield from (os.path.join(place, name) for name in files)
        yield from (link for name in folders if os.path.islink(link := os.path.join(place, name)))


def _sorted_out(place: str, names: Sequence[str]) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """Media, sidecars and the rest of the files of one folder."""
    parts = {name: PurePosixPath(name) for name in names}
    videos = {name for name, path in parts.items() if path.suffix.lower() in VIDEO_SUFFIXES}
    filmed = {parts[name].stem for name in videos} | videos
    kinds: dict[str, str] = {}
    for name, path in parts.items():
        kind = path.suffix.lower() or NO_SUFFIX
        if kind in IMAGE_SUFFIXES and path.stem in filmed:
            kind = COVER
        elif kind in IMAGE_SUFFIXES or name in videos:
            kind = _CLIP if _may_be_file(os.path.join(place, name)) else NO_FILE
        kinds[name] = kind
    told = {parts[name].stem for name, kind in kinds.items() if kind == _CLIP}
    for name, kind in kinds.items():
        if kind == SIDECAR_SUFFIX and parts[name].stem in told and os.path.isfile(os.path.join(place, name)):
            kinds[name] = _TEXT
    media, texts = ([name for name, kind in kinds.items() if kind == one] for one in (_CLIP, _TEXT))
    return media, texts, [(kind, name) for name, kind in kinds.items() if kind not in (_CLIP, _TEXT)]


def _may_be_file(path: str) -> bool:
    """Whether it is a regular file; of a link that leads nowhere, the stage that opens it says so."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True
