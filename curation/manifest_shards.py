"""Manifests in shards: WebDataset archives, tables in parts, an export of our own; which files they are, and tar rows.

A sample of a WebDataset is the members side by side whose names agree up to the first dot behind the last slash: a
video or an image, its caption (`.txt`), what else is known of it (`.json`). A broken one is a row with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from curation.manifest_formats import CAPTION_NAMES, IngestConfig, ManifestRow, clip_rows
from curation.manifest_mistakes import ManifestError
from curation.manifest_tables import Record, is_unicode, json_object, known_as
from curation.media_kinds import IMAGE_SUFFIXES, VIDEO_SUFFIXES, guess_media
from curation.media_uris import member_uri
from curation.tar_members import TarIndex, TarMember, tar_index
from curation.texts import TextError, decode

EXPORT_INDEX = "EXPORT.json"
"""Of a folder that `lumina export-data` wrote."""
EXPORT_WORK = ".export"
"""In it until it is whole."""
_TAR, _TABLES = ".tar", (".parquet", ".csv", ".jsonl")
_PACKED = (".tar.gz", ".tgz", ".tar.xz", ".tar.zst", ".tar.bz2")
_SIDE_BYTES = 1 << 20
_SAMPLE = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_PATTERN = re.compile(r"[*?\[]|\{\d+\.\.\d+\}")
_Kinds = Sequence[Sequence[str]]


def shard_files(path: Path) -> tuple[Path, ...]:
    """The files of a manifest that is in shards; none for a table, or for a folder of clips.

    Shards are a tar archive, a pattern (`train-*.tar`, `train-{000..012}.tar`), an export's folder, and a folder that
    holds tar archives or Parquet files alone, besides texts. ManifestError for one that is not whole.
    """
    if path.name.lower().endswith(_PACKED):
        raise ManifestError(f"manifest {path}: an archive that is packed: unpack it to a .tar, read in place")
    if path.suffix.lower() == _TAR and path.is_file():
        return (path,)
    if not path.exists() and _PATTERN.search(path.name):
        return _matching(path)
    if not path.is_dir():
        return ()
    if (index := path / EXPORT_INDEX).is_file():
        return _exported(index)
    if (path / EXPORT_WORK).is_dir():
        raise ManifestError(
            f"manifest {path}: an export that is not whole yet: give `lumina export-data` the same options once more"
        )
    return _alone(path)


def _matching(path: Path) -> tuple[Path, ...]:
    names = [path.name]
    while match := next(filter(None, map(_BRACES.search, names)), None):
        first, last = match[1], match[2]
        numbers = [f"{number:0{len(first)}d}" for number in range(int(first), min(int(last), int(first) + 10**6) + 1)]
        names = [name.replace(match[0], number) for name in names for number in numbers]
    found = [file for name in names for file in (sorted(path.parent.glob(name)) if _PATTERN.search(name) else
                                                 [path.parent / name])]  # fmt: skip
    missing = next((file for file in found if not file.is_file()), None)
    if missing is not None or not found:
        raise ManifestError(f"manifest {path}: there is no {missing or 'file of that pattern'}")
    kinds = {file.suffix.lower() for file in found}
    if len(kinds) > 1 or not kinds <= {_TAR, *_TABLES}:
        raise ManifestError(f"manifest {path}: expected tar archives or tables, all of a kind, found {sorted(kinds)}")
    return tuple(found)


def _exported(index: Path) -> tuple[Path, ...]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        names = [shard["name"] for shard in content["shards"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{index} is no index of an export ({error}): export the clips again") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (index.parent / name).is_file():
            raise ManifestError(f"{index} names the shard {name!r:.80}, which is not there: export the clips again")
    return tuple(index.parent / name for name in names)


def _alone(folder: Path) -> tuple[Path, ...]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    kinds = {entry.suffix.lower() for entry in entries if entry.is_file()}
    if any(entry.is_dir() for entry in entries) or kinds & (VIDEO_SUFFIXES | IMAGE_SUFFIXES):
        return ()
    for kind in (_TAR, ".parquet"):
        if kind in kinds:
            return tuple(entry for entry in entries if entry.suffix.lower() == kind)
    return ()


def tar_rows(path: Path, config: IngestConfig, kinds: _Kinds) -> Iterator[ManifestRow]:
    """The rows of a WebDataset archive, one a sample; of what is damaged, a row that says so.

    Args:
        path: of the archive, beside which relative URIs start.
        config: how a manifest is read.
        kinds: see `curation.manifest_tables.Kinds`.
    """
    found = path.stat()
    index = tar_index(path, found.st_mtime_ns, found.st_size)
    rows_of, number = clip_rows(config), 0
    sampled = ((match, name) for name in index.members if (match := _SAMPLE.fullmatch(name)))
    with path.open("rb") as file:
        for key, group in groupby(sampled, lambda one: one[0][1]):
            number += 1
            members = {match[2].lower(): name for match, name in group}
            sample = _Sample(path, key, members, index)
            try:
                cells = sample.cells(file, kinds)
                yield from rows_of(Record(number, f"sample {key}", cells))
            except _CaptionError as error:
                yield replace(sample.row(config), fault=str(error))
            except ManifestError as error:
                yield replace(sample.row(config), broken=str(error))
    if index.fault or not number:
        fault = index.fault or "it holds no sample: no member is named KEY.mp4, KEY.txt or the like"
        yield ManifestRow(path.name, "video", config.default_source, "", "{}", broken=f"archive {path.name}: {fault}")


class _CaptionError(ManifestError):
    """A sample whose caption is none."""


class _Sample:
    def __init__(self, path: Path, key: str, members: Mapping[str, str], index: TarIndex) -> None:
        self._path, self._key, self._members, self._index = path, _shown(key), members, index

    def cells(self, file: Any, kinds: _Kinds) -> dict[str, Any]:
        """What is known of it, as a row of a table; ManifestError for what cannot be used."""
        if not all(map(is_unicode, self._members.values())):
            raise ManifestError(f"sample {self._key}: its names in the archive are not UTF-8: rename them")
        told = self._told(file, kinds)
        media = self._media()
        if media is not None:
            # What names another file is where this one is from.
            told["video"] = self._uri(media)
        text = self._members.get("txt") or self._members.get("caption")
        if text is not None:
            try:
                told["caption"] = decode(self._read(file, text))
            except TextError as error:
                raise _CaptionError(f"{text}: line {error.line}, {error}") from error
        elif not any(told.get(name) is not None for name in CAPTION_NAMES):
            raise _CaptionError(f"sample {self._key} has no caption: neither a .txt nor a `caption` in a .json")
        return told

    def row(self, config: IngestConfig) -> ManifestRow:
        """Its row, where nothing of it can be used."""
        names = [name for ending, name in self._members.items() if f".{ending}" in VIDEO_SUFFIXES | IMAGE_SUFFIXES]
        name = (names or [*self._members.values()])[0]
        return ManifestRow(self._uri(name), guess_media(name), config.default_source, "", "{}")

    def _uri(self, name: str) -> str:
        return member_uri(self._path.name, _shown(name), "tar")

    def _media(self) -> str | None:
        for known in (VIDEO_SUFFIXES, IMAGE_SUFFIXES):
            found = [name for ending, name in self._members.items() if f".{ending.rpartition('.')[2]}" in known]
            if len(found) > 1:
                raise ManifestError(f"sample {self._key} has several files to choose from: {', '.join(found)}")
            if found:
                if found[0] in self._index.twice:
                    raise ManifestError(f"sample {self._key}: {found[0]} stands in the archive twice")
                return found[0]
        return None

    def _told(self, file: Any, kinds: _Kinds) -> dict[str, Any]:
        name = self._members.get("json")
        if name is None:
            if self._media() is None:
                raise ManifestError(f"sample {self._key} has neither a video nor an image: {', '.join(self._members)}")
            return {}
        content = self._read(file, name)
        try:
            return json_object(decode(content), lambda names: known_as(names, kinds))
        except (json.JSONDecodeError, RecursionError) as error:
            raise ManifestError(f"sample {self._key}: {name} is no JSON: {error}") from error
        except ValueError as error:
            raise ManifestError(f"sample {self._key}: {name}: {error}") from error

    def _read(self, file: Any, name: str) -> bytes:
        member: TarMember = self._index.members[name]
        if member.size > _SIDE_BYTES:
            raise ManifestError(f"sample {self._key}: {name} is larger than a text may be ({_SIDE_BYTES >> 20} MiB)")
        file.seek(member.offset)
        content: bytes = file.read(member.size)
        if len(content) < member.size:
            raise ManifestError(f"sample {self._key}: the archive ends in the middle of {name}: it is cut off")
        return content


def _shown(name: str) -> str:
    """A member's name as text: bytes in it that are not UTF-8 are written out."""
    return name.encode(errors="backslashreplace").decode()
