"""Ingest: a CSV or a folder of media to one row per clip, identified by content.

Rows in: manifest rows. Rows out: the same, with `clip_id`, `sha256` and `num_bytes`; a file that is missing or cannot
be read is quarantined, and all but the first of files with equal content are filtered.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pydantic import Field

from curation.operator import Env, Input, Layout, Operator, map_rows
from curation.schema import INGEST, Reason, RowError, Status, status_not_ok, status_ok, to_table
from lumina.config import Config

COLUMNS = ("video", "caption", "source")
VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".gif"})
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
FOLDER_MANIFEST = "clips.csv"


class ManifestError(ValueError):
    """The manifest cannot be used; nothing has been done yet."""


class IngestConfig(Config):
    """How the manifest is read."""

    default_source: str = Field(default="clips", min_length=1)
    """Source of files in a bare folder, and of CSV rows whose source cell is empty."""


@dataclass(frozen=True)
class ManifestRow:
    """One clip as its owner lists it."""

    uri: str
    """As given: relative to the media root, absolute, or a URL."""
    media: str
    """"video" or "image", by file extension."""
    source: str
    caption: str
    extra: str
    """JSON object of the columns beyond `COLUMNS`."""


@dataclass(frozen=True)
class Manifest:
    """All rows, and the directory to which their relative URIs refer."""

    root: Path
    rows: tuple[ManifestRow, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that occur, sorted."""
        return tuple(sorted({row.source for row in self.rows}))

    @property
    def captions(self) -> tuple[str, ...]:
        """Captions in the order of the rows, without empty ones."""
        return tuple(row.caption for row in self.rows if row.caption)


def read_manifest(path: str | Path, config: IngestConfig | None = None) -> Manifest:
    """Read a CSV with the columns video, caption, source, or a folder.

    A folder that holds `clips.csv` is that CSV. In a bare folder every video below it is a row, in sorted order; its
    caption is the text file of the same name, else the file name's words. Opens no media file. Raises ManifestError
    for a path that does not exist, missing columns, malformed lines, and when there is no row at all.
    """
    config = config or IngestConfig()
    path = Path(path)
    if path.is_dir():
        return _read_csv(path / FOLDER_MANIFEST, config) if (path / FOLDER_MANIFEST).is_file() else _scan(path, config)
    if not path.is_file():
        raise ManifestError(f"manifest {path} does not exist; give a CSV file or a folder with videos")
    return _read_csv(path, config)


def media_root(path: Path) -> Path:
    """Directory to which the relative URIs of a manifest refer, without reading it."""
    return path if path.is_dir() else path.parent


def check_manifest(path: str | Path, config: IngestConfig | None = None) -> tuple[str, ...]:
    """Raise ManifestError for a manifest that ingest would refuse; return the sources that occur in it."""
    return read_manifest(path, config).sources


def external_digest(path: str | Path, config: IngestConfig | None = None, media_root: str | None = None) -> str:
    """What a plan can know of a manifest and its files without reading them: rows, and size and time of each file.

    Two equal digests mean the same data; a touched file changes it, and then ingest finds equal content and an equal
    dataset digest.
    """
    manifest = read_manifest(path, config)
    sha = hashlib.sha256()
    for row in manifest.rows:
        sha.update(json.dumps([row.uri, row.media, row.source, row.caption, row.extra]).encode())
        try:
            stat = local_path(row.uri, media_root or str(manifest.root)).stat()
            sha.update(f"{stat.st_size}:{stat.st_mtime_ns}".encode())
        except (OSError, RowError) as error:
            sha.update(type(error).__name__.encode())
    return f"sha256:{sha.hexdigest()}"


def local_path(uri: str, media_root: str) -> Path:
    """The local file of a URI: a path relative to the media root, an absolute one, or a file:// URL.

    RowError `unsupported_uri` for any other scheme.
    """
    if "://" in uri:
        parts = urlsplit(uri)
        if parts.scheme != "file":
            raise RowError(Reason.UNSUPPORTED_URI, f"cannot open {uri!r}: only local files and file:// URLs so far")
        return Path(unquote(parts.path))
    return Path(media_root) / uri


def _read_csv(path: Path, config: IngestConfig) -> Manifest:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            names = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = names
            missing = [name for name in COLUMNS if name not in names]
            if missing:
                raise ManifestError(
                    f"manifest {path} lacks the columns {', '.join(missing)}; it has {', '.join(names) or 'none'}; "
                    f"needed are {', '.join(COLUMNS)}"
                )
            rows = [_csv_row(path, reader.line_num, cells, config) for cells in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ManifestError(f"manifest {path} is not a UTF-8 CSV file: {error}") from error
    if not rows:
        raise ManifestError(f"manifest {path} has a header but no rows")
    return Manifest(path.parent, tuple(rows))


def _csv_row(path: Path, line: int, cells: dict[Any, Any], config: IngestConfig) -> ManifestRow:
    if None in cells or None in cells.values():
        raise ManifestError(f"manifest {path}, line {line}: the number of cells differs from the header's")
    uri = cells["video"].strip()
    if not uri:
        raise ManifestError(f"manifest {path}, line {line}: the column video is empty")
    extra = {name: value for name, value in cells.items() if name not in COLUMNS}
    source = cells["source"].strip() or config.default_source
    return ManifestRow(uri, _media(uri), source, cells["caption"].strip(), _json(extra))


def _scan(folder: Path, config: IngestConfig) -> Manifest:
    # Not followed into symlinked directories, which may form loops.
    files = sorted(
        (path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()),
        key=lambda path: path.relative_to(folder).as_posix(),
    )
    if not files:
        raise ManifestError(f"folder {folder} holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}) and no clips.csv")
    rows = [
        ManifestRow(file.relative_to(folder).as_posix(), "video", config.default_source, _caption(file), _json({}))
        for file in files
    ]
    return Manifest(folder, tuple(rows))


def _caption(video: Path) -> str:
    sidecar = video.with_suffix(".txt")
    if sidecar.is_file():
        return sidecar.read_text(encoding="utf-8", errors="replace").strip()
    return " ".join(video.stem.replace("_", " ").replace("-", " ").split())


def _media(uri: str) -> str:
    return "image" if Path(urlsplit(uri).path if "://" in uri else uri).suffix.lower() in IMAGE_SUFFIXES else "video"


def _json(value: Mapping[str, str]) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


_HASHED = pa.schema([*INGEST, pa.field("row", pa.int64())])


def _plan(inputs: Mapping[str, Input], config: IngestConfig, _env: Env) -> pa.Table:
    manifest = read_manifest(inputs["manifest"].path, config)
    rows = ({"row": index, **vars(row), **status_ok()} for index, row in enumerate(manifest.rows))
    return to_table(rows, _HASHED)


def _make(_config: IngestConfig, env: Env) -> Callable[[pa.Table], pa.Table]:
    def hash_file(row: dict[str, Any]) -> dict[str, Any]:
        path = local_path(row["uri"], env.media_root)
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
                return {"sha256": digest.hexdigest(), "num_bytes": file.tell()}
        except FileNotFoundError:
            raise RowError(Reason.MISSING_FILE, f"{row['uri']}: no such file below the media root") from None
        except OSError as error:
            raise RowError(Reason.UNREADABLE_FILE, f"{row['uri']}: {error.strerror}") from error

    return lambda table: map_rows(table, _HASHED, INGEST_OPERATOR.name, hash_file)


def clip_id(sha256: str, span_start_s: float | None, span_end_s: float | None, occurrence: int = 0) -> str:
    """Identity of a span of a file's content, wherever the file lies; later occurrences of it get ids of their own."""
    span = "|".join("" if value is None else repr(float(value)) for value in (span_start_s, span_end_s))
    return _hash(f"content|{sha256}|{span}" + (f"|{occurrence}" if occurrence else ""))


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _finish(table: pa.Table, _config: IngestConfig) -> pa.Table:
    """Give every row its id, and set aside repeated content; the first in the manifest is kept."""
    kept: dict[str, str] = {}
    seen: dict[str, int] = {}
    return to_table(_identified(table.sort_by("row").to_pylist(), kept, seen), INGEST)


def _identified(rows: Iterable[dict[str, Any]], kept: dict[str, str], seen: dict[str, int]) -> Iterable[dict[str, Any]]:
    for row in rows:
        has_content = row["sha256"] is not None
        span = (row["span_start_s"], row["span_end_s"])
        first = clip_id(row["sha256"], *span) if has_content else _hash(f"uri|{row['uri']}")
        occurrence = seen[first] = seen.get(first, -1) + 1
        row["clip_id"] = first
        if occurrence:
            row["clip_id"] = (
                clip_id(row["sha256"], *span, occurrence) if has_content else _hash(f"{first}|{occurrence}")
            )
        if has_content and occurrence:
            detail = f"same content as {kept[first]}, which is kept (clip_id {first})"
            row |= status_not_ok(INGEST_OPERATOR.name, Status.FILTERED, Reason.DUPLICATE_CONTENT, detail)
        kept.setdefault(first, row["uri"])
        yield row


INGEST_OPERATOR = Operator(
    name="ingest",
    config=IngestConfig,
    schema=INGEST,
    computed=_HASHED,
    inputs=("manifest",),
    plan=_plan,
    make=_make,
    finish=_finish,
    layout=lambda _config: Layout(rows_per_file=4096),
)
"""Reads the input `manifest`: a CSV file or a folder."""
