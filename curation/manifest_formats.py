"""Manifest formats, what their rows mean: the plain columns, OpenVid-1M, Panda-70M, VGGSound.

Every format turns one record into the rows of its clips. A column that a format does not know is kept in `extra`.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from zipfile import BadZipFile

from pydantic import Field

from curation.manifest_mistakes import ManifestError
from curation.manifest_tables import Record, as_json, plain
from curation.media import members
from curation.media_kinds import STILL_SUFFIXES, guess_media
from curation.media_uris import has_credentials, member_uri, suffix
from curation.texts import TextError, caption_of
from lumina.config import Config

MEDIA_NAMES = ("video", "path", "file", "file_name", "uri", "video_path", "image", "image_path")
CAPTION_NAMES = ("caption", "text", "prompt")
_SPAN = ("span_start_s", "span_end_s")
_OPENVID_NAMES = frozenset({"video", "caption", "aesthetic score", "motion score"})
_PANDA_NAMES = frozenset({"videoID", "timestamp", "caption"})
_VGGSOUND_NAMES = ("youtube_id", "start_seconds", "label", "split")
_YOUTUBE_ID = re.compile(r"[\w-]{11}", re.ASCII)
_START = re.compile(r"\d{1,6}", re.ASCII)
_PANDA_LISTS = ("matching_score", "desirable_filtering", "shot_boundary_detection")
KINDS = (
    MEDIA_NAMES,
    CAPTION_NAMES,
    *((name,) for name in ("source", *_SPAN, "aesthetic score", "motion score", "videoID", "timestamp", *_PANDA_LISTS)),
)
"""Columns that are known, whatever their capitals: each with the others that mean the same."""
_LIST_CHARS = 1 << 20
_TIME = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")

Kind = Literal["clips", "openvid", "panda", "vggsound"]
Format = Literal["auto", "clips", "openvid", "panda", "vggsound", "folder"]


class IngestConfig(Config):
    """How the manifest is read."""

    format: Format = "auto"
    """`clips` (a file, a caption and a source per row), `openvid` (OpenVid-1M, read from its zip parts), `panda`
    (Panda-70M, a row per span), `vggsound` (VGGSound, whose file has no header), `folder` (every video and image in a
    folder); `auto` tells them apart by their columns."""
    default_source: str = Field(default="clips", min_length=1)
    """Source of files in a bare folder, and of rows that name none."""
    media_dir: Path | None = None
    """Directory of the media files and zip archives, relative to the manifest's; None is the manifest's own."""
    follow_links: bool = False
    """Follow symbolic links that lead out of the directory of the media, or of the folder that is scanned: whoever made
    them has this user's files read. Links of a hub's cache into its `blobs` are followed in any case."""
    stated_ids: bool = False
    """Give a clip that `lumina export-data --clips` cut the id of the span that it was cut from, as the export states
    it: for an export that you trust, since a manifest could state anybody's."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One clip as its owner lists it."""

    uri: str
    """As given: relative to the media root, absolute, or a URL."""
    media: str
    """"video" or "image", by file extension: a guess, until the content is read."""
    source: str
    caption: str
    extra: str
    """JSON object of the columns that nobody asked for."""
    span_start_s: float | None = None
    """Seconds from the file's start at which the clip begins; None, as `span_end_s`, if it is the whole file."""
    span_end_s: float | None = None
    fault: str = ""
    """Why the caption is no text; it is empty then, and ingest sets the row aside."""
    broken: str = ""
    """Why the row itself cannot be used, in a format whose rows are set aside one by one."""


RowsOf = Callable[[Record], Iterator[ManifestRow]]


def headless(cells: Sequence[str]) -> tuple[str, ...] | None:
    """The columns of a CSV without a header, from its first row: those of VGGSound, or None."""
    if len(cells) != len(_VGGSOUND_NAMES):
        return None
    name, start, _, split = (cell.strip() for cell in cells)
    is_row = _YOUTUBE_ID.fullmatch(name) and _START.fullmatch(start) and split in ("train", "test")
    return _VGGSOUND_NAMES if is_row else None


def detect(names: Sequence[str]) -> Kind:
    """The format of a table, from its columns."""
    if tuple(names) == _VGGSOUND_NAMES:
        return "vggsound"
    if set(names) >= _PANDA_NAMES:
        return "panda"
    return "openvid" if set(names) >= _OPENVID_NAMES else "clips"


def check_columns(format: str, names: Sequence[str], where: str) -> None:
    """ManifestError if a format's columns are not among `names`."""
    if format == "clips":
        kinds: list[tuple[str, ...]] = [MEDIA_NAMES, CAPTION_NAMES]
    else:
        of_format = {"panda": sorted(_PANDA_NAMES), "vggsound": _VGGSOUND_NAMES, "openvid": ("caption", "video")}
        kinds = [(name,) for name in of_format[format]]
    lacking = [kind for kind in kinds if set(kind).isdisjoint(names)]
    if lacking:
        listed = [f"{kind[0]} (or {', '.join(kind[1:])})" if kind[1:] else kind[0] for kind in lacking]
        hints = "".join(f"; {hint}" for kind in lacking for hint in _nearest(kind, names))
        raise ManifestError(
            f"{where} lacks the columns {' and '.join(listed)}; it has {', '.join(names) or 'none'}{hints}"
        )


def _nearest(kind: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """What the column that is spelt most like one of a kind should be called."""
    wanted = {plain(name): name for name in kind}
    known = {name for kind in KINDS for name in kind}
    for name in names:
        for near in difflib.get_close_matches(plain(name), wanted if name not in known else (), 1, 0.75):
            yield f"did you mean {wanted[near]!r} by {name!r}?"
            return


def clip_rows(config: IngestConfig) -> RowsOf:
    """Rows of the plain columns: a file, a caption; optional: a source, a span in seconds."""
    return lambda record: iter((_clip(record, config),))


def openvid_rows(config: IngestConfig, archives: ArchiveIndex) -> RowsOf:
    """Rows of OpenVid-1M: the column `video` names a member of one of the archives, else a file."""

    def rows(record: Record) -> Iterator[ManifestRow]:
        video = _text(record, "video")
        uri = archives.find(video) if video else None
        yield _clip(replace(record, cells={**record.cells, "video": uri or video}), config)

    return rows


def panda_rows(config: IngestConfig) -> RowsOf:
    """Rows of Panda-70M: one per span of `<videoID>.mp4`."""

    def rows(record: Record) -> Iterator[ManifestRow]:
        cells = dict(record.cells)
        name = _text(record, "videoID")
        if not name:
            raise ManifestError(f"{record.where}: the column videoID is empty")
        spans = [_panda_span(record, span) for span in _list(record, "timestamp")]
        lists = {"caption": _list(record, "caption")}
        lists |= {column: _list(record, column) for column in _PANDA_LISTS if cells.get(column)}
        for column, values in lists.items():
            if len(values) != len(spans):
                raise ManifestError(f"{record.where}: {len(spans)} timestamps, but {len(values)} of {column}")
        shared = {key: value for key, value in cells.items() if key not in ("videoID", "timestamp")}
        for index, span in enumerate(spans):
            own = {column: values[index] for column, values in lists.items()}
            own |= {"video": f"{name}.mp4", **dict(zip(_SPAN, span, strict=True))}
            yield _clip(Record(record.number, f"{record.where}, span {index + 1}", shared | own), config)

    return rows


def vggsound_rows(config: IngestConfig) -> RowsOf:
    """Rows of VGGSound: the ten seconds of a video in the file `<id>_<start, six digits>.mp4`, and its label."""

    def rows(record: Record) -> Iterator[ManifestRow]:
        name, start = _text(record, "youtube_id"), _text(record, "start_seconds")
        if not _YOUTUBE_ID.fullmatch(name):
            raise ManifestError(f"{record.where}: youtube_id is {name!r:.60}, expected its 11 characters")
        if not _START.fullmatch(start):
            raise ManifestError(f"{record.where}: start_seconds is {start!r:.60}, expected whole seconds, such as 30")
        cells = {key: value for key, value in record.cells.items() if key != "label"}
        cells |= {"video": f"{name}_{int(start):06d}.mp4", "caption": _text(record, "label")}
        yield _clip(replace(record, cells=cells), config)

    return rows


class ArchiveIndex:
    """The members of all zip archives in a directory, and which of them were asked for.

    ManifestError for an archive that cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._members: dict[str, list[tuple[str, str]]] = {}
        self._found: set[tuple[str, str]] = set()
        for archive in sorted(directory.glob("*.zip"), key=lambda path: _natural(path.name)):
            try:
                names = members(archive)
            except (OSError, BadZipFile, ValueError, NotImplementedError) as error:
                raise ManifestError(
                    f"archive {archive} cannot be read ({error}): fetch it again, or move it elsewhere"
                ) from error
            for name in names:
                self._members.setdefault(PurePosixPath(name).name, []).append((archive.name, name))

    def find(self, video: str) -> str | None:
        """The URI of a member by its path, or by its file name alone; None if there is none."""
        known = self._members.get(PurePosixPath(video).name, ())
        found = next((place for place in known if place[1] == video), known[0] if known else None)
        if found is None:
            return None
        self._found.add(found)
        return member_uri(*found)

    def unreferenced(self) -> list[str]:
        """URIs of the members that were never asked for, in the order of archives and names."""
        rest = (place for places in self._members.values() for place in places if place not in self._found)
        return [member_uri(*place) for place in sorted(rest, key=lambda place: (_natural(place[0]), place[1]))]


def _clip(record: Record, config: IngestConfig) -> ManifestRow:
    cells = record.cells
    uri_name, uri = _first(record, MEDIA_NAMES)
    caption_name, caption = _first(record, CAPTION_NAMES)
    if not uri:
        raise ManifestError(f"{record.where}: the column {uri_name or MEDIA_NAMES[0]} is empty")
    if has_credentials(uri):
        raise ManifestError(f"{record.where}: the URI holds a user or password; credentials belong in the environment")
    start, end = _span(record, uri)
    caption, fault = checked_caption(caption)
    known = {uri_name, caption_name, "source", *_SPAN}
    return ManifestRow(
        uri=uri,
        media=guess_media(uri),
        source=_text(record, "source") or config.default_source,
        caption=caption,
        extra=as_json({name: value for name, value in cells.items() if name not in known}, record.where),
        span_start_s=start,
        span_end_s=end,
        fault=fault,
    )


def checked_caption(text: str) -> tuple[str, str]:
    """A caption as it is kept, and why it is none."""
    try:
        return caption_of(text), ""
    except TextError as error:
        return "", str(error)


def _first(record: Record, names: Sequence[str]) -> tuple[str | None, str]:
    """The first of `names` that is not empty in this record, else the first that it has."""
    there = [name for name in names if name in record.cells]
    texts = ((name, _text(record, name)) for name in there)
    return next(((name, text) for name, text in texts if text), (there[0] if there else None, ""))


def _text(record: Record, name: str) -> str:
    value = record.cells.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ManifestError(f"{record.where}: the column {name} holds {type(value).__name__}, expected text")
    return value.strip()


def _span(record: Record, uri: str) -> tuple[float, float] | tuple[None, None]:
    start, end = (_seconds(record, name) for name in _SPAN)
    if start is None and end is None:
        return None, None
    if start is None or end is None or not 0 <= start < end:
        raise ManifestError(
            f"{record.where}: the span is {start} to {end} seconds; expected 0 <= span_start_s < span_end_s"
        )
    if suffix(uri) in STILL_SUFFIXES:
        raise ManifestError(f"{record.where}: an image has no span; leave span_start_s and span_end_s empty")
    return start, end


def _seconds(record: Record, name: str) -> float | None:
    value = record.cells.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        seconds = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ManifestError(f"{record.where}: {name} is {value!r}, expected seconds, such as 1.5")
    return seconds


def _list(record: Record, name: str) -> list[Any]:
    """A list, or the text of one as Python writes it."""
    value = record.cells.get(name)
    if isinstance(value, str):
        if len(value) > _LIST_CHARS:
            raise ManifestError(f"{record.where}: {name} is no list that is read: over {_LIST_CHARS:,} characters")
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
            raise ManifestError(f"{record.where}: {name} is no list: {type(error).__name__}: {error}") from error
    if not isinstance(value, list | tuple) or not value:
        raise ManifestError(f"{record.where}: {name} is {value!r:.60}, expected a list with an item per clip")
    return list(value)


def _panda_span(record: Record, span: Any) -> tuple[float, float]:
    if not isinstance(span, list | tuple) or len(span) != 2:
        raise ManifestError(f"{record.where}: timestamp {span!r:.60}, expected [start, end]")
    start, end = (_clock(record, text) for text in span)
    return start, end


def _clock(record: Record, text: Any) -> float:
    match = _TIME.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ManifestError(f"{record.where}: timestamp {text!r:.60}, expected text like '0:00:21.520'")
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])


def _natural(name: str) -> tuple[tuple[str, int], ...]:
    """Sorts part2 before part10."""
    return tuple((text, int(digits or -1)) for text, digits in re.findall(r"(\D*)(\d*)", name))
