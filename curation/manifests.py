"""Ingest: a manifest or a folder of media to one row per clip, identified by content.

Rows in: manifest rows. Rows out: the same, with `clip_id`, `sha256`, `num_bytes` and what kind of media the content is;
a file that is missing, empty or cannot be read is quarantined, and all but the first of clips with equal content and
span are filtered.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.clip_ids import beside, clip_id, digest_of, stated_id
from curation.folders import SIDECAR_SUFFIX, said, scan
from curation.manifest_formats import (
    KINDS,
    ArchiveIndex,
    IngestConfig,
    ManifestRow,
    RowsOf,
    check_columns,
    checked_caption,
    clip_rows,
    detect,
    headless,
    openvid_rows,
    panda_rows,
    vggsound_rows,
)
from curation.manifest_mistakes import ManifestError, Mistakes
from curation.manifest_rows import ManifestRows
from curation.manifest_shards import shard_files, tar_rows
from curation.manifest_tables import Record, is_unicode, opened
from curation.media import check_not_away, chunks, stamps, with_folders
from curation.media_kinds import HEAD_BYTES, guess_media, media_of
from curation.media_uris import local_name, neighbours
from curation.object_stores import ObjectStores
from curation.operator import Env, Input, Operator, map_rows
from curation.schema import (
    INGEST,
    STATUS_COLUMNS,
    Reason,
    RowError,
    Status,
    conform,
    iterate,
    short_detail,
    status_not_ok,
    to_table,
)
from curation.texts import TextError, decode
from lumina.faults import is_of_machine, machine_error
from lumina.links import is_on_no_disk, leads_out

FOLDER_MANIFESTS = ("clips.csv", "clips.jsonl", "clips.parquet")
_SIDECAR_BYTES = 1 << 20
_ALLOWED_BY = "put a copy in its place, or set ingest.follow_links=true if you trust who made the folder"
_COLUMNS = tuple(field.name for field in fields(ManifestRow) if field.name != "broken")


@dataclass(frozen=True)
class Manifest:
    """All rows, and the directory to which their relative URIs refer."""

    root: Path
    rows: ManifestRows
    unreferenced: tuple[str, ...] = ()
    """Members of the archives beside an OpenVid manifest to which no row refers."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Files below a scanned folder that are neither clips nor their captions, see `curation.folders.Scan`."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that occur, sorted."""
        found = {name for batch in self.rows.batches() for name in batch["source"].unique().to_pylist()}
        return tuple(sorted(found))


def read_manifest(path: str | Path, config: IngestConfig | None = None) -> Manifest:
    """Read a CSV, JSON lines or Parquet file, shards, or a folder; see `IngestConfig.format`.

    A folder that holds one of `FOLDER_MANIFESTS` is that file. In a bare folder every video and image below it is a
    row, in sorted order (see `curation.folders`); its caption is the text file of the same name, else the file name's
    words. Shards are a WebDataset or parts of a table, see `curation.manifest_shards.shard_files`. Opens no media file
    but the directories of archives, and texts in tar archives. Raises ManifestError for a path that does not exist,
    missing columns, malformed rows (all of them), and when there is no row at all.
    """
    config = config or IngestConfig()
    path = Path(path)
    if is_scanned(path, config):
        return _scan(path, config)
    files = _shards(path, config)
    if path.is_dir() and not files:
        path = _folder_manifest(path, config)
    if not path.is_file() and not files:
        if _leads_nowhere(path):
            raise ManifestError(f"manifest {path} is a link to {path.readlink()}, which does not exist: fetch it again")
        raise ManifestError(
            f"manifest {path} does not exist; give a CSV, JSON lines or Parquet file, or a folder with videos"
        )
    if config.format == "folder":
        raise ManifestError(f"ingest.format is folder, but {path} is a file; set ingest.format=auto")
    root = media_root(path, config)
    if not root.is_dir():
        raise ManifestError(f"ingest.media_dir: {root} is no directory")
    files = files or (path,)
    state = tuple(
        (str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in (*files, *sorted(root.glob("*.zip")))
    )
    return _read_files(files, root, config.model_dump_json(), state)


def _shards(path: Path, config: IngestConfig) -> tuple[Path, ...]:
    if config.format == "folder" or (path.is_dir() and _manifests_in(path)):
        return ()
    return shard_files(path)


def is_scanned(path: Path, config: IngestConfig) -> bool:
    """Whether `path` is a folder whose files are the manifest: what is written there later would be taken for clips."""
    if not path.is_dir():
        return False
    return config.format == "folder" or (config.format == "auto" and not _manifests_in(path) and not shard_files(path))


def media_root(path: Path, config: IngestConfig) -> Path:
    """Directory to which the relative URIs of a manifest refer, without reading it: of a link, where the link lies."""
    folder = path if path.is_dir() else path.parent
    return folder if config.media_dir is None else folder / config.media_dir


def external_digest(manifest: Manifest, stores: ObjectStores | None = None) -> str:
    """What a plan can know of a manifest and its media without reading them: the rows, and the stamp of each file.

    Two equal digests mean the same data; a touched file changes it, and then ingest finds equal content and an equal
    dataset digest.
    """
    sha = hashlib.sha256()
    for batch in manifest.rows.batches():
        rows = batch.to_pylist()
        found = stamps((row["uri"] for row in rows), str(manifest.root), stores or ObjectStores())
        for row in rows:
            told = [row[name] for name in _COLUMNS]
            sha.update(json.dumps([*told, row["broken"]] if row["broken"] else told).encode())
            sha.update(found[row["uri"]].encode())
    sha.update(json.dumps(manifest.unreferenced).encode())
    return f"sha256:{sha.hexdigest()}"


def _manifests_in(folder: Path) -> list[Path]:
    return [path for path in (folder / name for name in FOLDER_MANIFESTS) if path.is_file() or _leads_nowhere(path)]


def _leads_nowhere(path: Path) -> bool:
    """Whether it is a link to what is not there: a download that did not end, and no reason to do without it."""
    return path.is_symlink() and not path.exists()


def _folder_manifest(folder: Path, config: IngestConfig) -> Path:
    found = _manifests_in(folder)
    if len(found) == 1:
        # Its mistakes are told with what stands in it.
        if not config.follow_links and not _leads_nowhere(found[0]) and leads_out(found[0].name, folder):
            raise ManifestError(f"manifest {found[0]} is a link that leads out of the folder: {_ALLOWED_BY}")
        return found[0]
    names = ", ".join(path.name for path in found) or f"none of {', '.join(FOLDER_MANIFESTS)}"
    raise ManifestError(
        f"folder {folder} holds {names}: give the path of the manifest for ingest.format={config.format}"
    )


@lru_cache(maxsize=1)
def _read_files(
    files: tuple[Path, ...], root: Path, settings: str, _state: tuple[tuple[str, int, int], ...]
) -> Manifest:
    """Read files, unless they were read last: `_state` tells whether they and their archives have changed since."""
    config = IngestConfig.model_validate_json(settings)
    archives: list[ArchiveIndex] = []
    rows = ManifestRows(row for path in files for row in _file_rows(path, root, config, archives))
    if not rows:
        raise ManifestError(f"manifest {files[0]} has a header but no rows")
    return Manifest(root, rows, tuple(archives[0].unreferenced()) if archives else ())


def _file_rows(path: Path, root: Path, config: IngestConfig, archives: list[ArchiveIndex]) -> Iterator[ManifestRow]:
    """The rows of one file; adds the archives that they name, once. ManifestError for its mistakes, behind them."""
    if path.suffix.lower() == ".tar":
        check_beside(path, root)
        yield from tar_rows(path, config, KINDS)
        return
    mistakes = Mistakes(path)
    with opened(path, KINDS, mistakes, headless) as table:
        if not table.names:
            mistakes.check()
        kind = detect(table.names) if config.format == "auto" else config.format
        check_columns(kind, table.names, f"manifest {path}")
        if table.holds_media:
            check_beside(path, root)
        if kind == "openvid":
            archives[:] = archives or [ArchiveIndex(root)]
            rows_of = openvid_rows(config, archives[0])
        else:
            known = {"panda": panda_rows, "vggsound": vggsound_rows}
            rows_of = known.get(kind, clip_rows)(config)
        yield from _rows(table.records, rows_of, mistakes)
    mistakes.check()


def check_beside(path: Path, root: Path) -> None:
    """ManifestError where the media in a file would be looked for elsewhere, or no URI can name them."""
    if not is_unicode(path.name):
        raise ManifestError(f"folder {path.parent}: the file name {path.name!r} is not UTF-8; rename it")
    if path.parent.resolve() != root.resolve():
        raise ManifestError(f"manifest {path} holds the media itself: leave ingest.media_dir out")


def _rows(records: Iterable[Record], rows_of: RowsOf, mistakes: Mistakes) -> Iterator[ManifestRow]:
    for record in records:
        try:
            yield from list(rows_of(record))
        except ManifestError as error:
            mistakes.add(record.number, str(error))


def _scan(folder: Path, config: IngestConfig) -> Manifest:
    if config.media_dir is not None:
        raise ManifestError(f"ingest.media_dir has no meaning for the bare folder {folder}: give that folder itself")
    found = scan(folder)
    if not found.media:
        rest = f"; of other things there are {said(found.left_out)}" if found.left_out else ""
        raise ManifestError(f"folder {folder} holds no video, no image and no {FOLDER_MANIFESTS[0]}{rest}")
    rows = ManifestRows(_scanned(folder, name, config) for name in found.media)
    return Manifest(folder, rows, left_out=found.left_out)


def _scanned(folder: Path, name: str, config: IngestConfig) -> ManifestRow:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ManifestError(f"folder {folder}: the file name {name!r} is not UTF-8; rename it") from None
    caption, fault = _caption(folder, name, config.follow_links)
    return ManifestRow(name, guess_media(name), config.default_source, caption, "{}", fault=fault)


def _caption(folder: Path, video: str, follow_links: bool) -> tuple[str, str]:
    """The caption of a video in a bare folder, and why it is none."""
    stem = os.path.splitext(video)[0]
    # Text and system calls alone: of each of a hundred thousand files.
    if not os.path.lexists(f"{folder}/{stem}{SIDECAR_SUFFIX}"):
        return _words(stem)
    sidecar = folder / f"{stem}{SIDECAR_SUFFIX}"
    if not sidecar.is_file() and not _leads_nowhere(sidecar):
        return _words(stem)
    try:
        caption, fault = checked_caption(decode(_sidecar(folder, sidecar, follow_links)))
    except TextError as error:
        caption, fault = "", f"line {error.line}, {error}"
    except OSError as error:
        if is_of_machine(error):
            raise machine_error(error, str(sidecar)) from error
        caption, fault = "", error.strerror or str(error)
    return caption, fault and f"{sidecar.relative_to(folder).as_posix()}: {fault}"


def _words(stem: str) -> tuple[str, str]:
    return checked_caption(" ".join(stem.rpartition("/")[2].replace("_", " ").replace("-", " ").split()))


def _sidecar(folder: Path, sidecar: Path, follow_links: bool) -> bytes:
    """The content of a caption's file. OSError or TextError if it is none, which tell nothing of the content."""
    if not follow_links and leads_out(sidecar.relative_to(folder).as_posix(), folder):
        raise OSError(f"this link leads out of the folder: {_ALLOWED_BY}")
    with sidecar.open("rb") as file:
        if is_on_no_disk(os.fstat(file.fileno())):
            raise OSError("the system makes this up (/proc, /sys, /dev), it is no file")
        content = file.read(_SIDECAR_BYTES + 1)
    if len(content) > _SIDECAR_BYTES:
        raise OSError(f"it is larger than a caption may be ({_SIDECAR_BYTES >> 20} MiB)")
    return content


_HASHED = pa.schema([*INGEST, pa.field("row", pa.int64()), pa.field("has_folder", pa.bool_())])
"""`has_folder`: the folder of the file was there when the rows were planned; if it is not later, no file is missing."""


def _read(inputs: Mapping[str, Input], config: IngestConfig, _env: Env) -> Iterator[pa.Table]:
    manifest = read_manifest(inputs["manifest"].path, config)
    first = 0
    for batch in manifest.rows.batches():
        uris = batch["uri"].to_pylist()
        # Hashed in the order of their folders and archives.
        order = sorted(range(len(uris)), key=lambda at: neighbours(uris[at]))
        found = with_folders(uris, str(manifest.root))
        columns = {
            "row": pa.array(range(first, first + len(uris))),
            "has_folder": pa.array([uri in found for uri in uris]),
            "clip_id": pa.array([digest_of(f"uri|{uri}") for uri in uris]),
        }
        yield _planned(pa.table({**dict(zip(batch.schema.names, batch.columns, strict=True)), **columns}).take(order))
        first += len(uris)


def _planned(rows: pa.Table) -> pa.Table:
    """The rows with their status: those that are broken, or whose caption is no text, are set aside."""
    is_broken = pc.not_equal(rows["broken"], "")
    faulty = pc.or_(pc.not_equal(rows["fault"], ""), is_broken)
    told = pc.if_else(is_broken, rows["broken"], rows["fault"])
    details = pa.array([short_detail(fault) for fault in told.to_pylist()])
    reasons = pc.if_else(is_broken, Reason.UNREADABLE_FILE, Reason.UNREADABLE_CAPTION)
    aside = Status.QUARANTINED, reasons, INGEST_OPERATOR.name, details
    none = pa.scalar(None, pa.string())
    for name, value in zip(STATUS_COLUMNS, aside, strict=True):
        rows = rows.append_column(name, pc.if_else(faulty, value, Status.OK if name == "status" else none))
    return conform(rows, _HASHED)


def _make(config: IngestConfig, env: Env) -> Callable[[pa.Table], pa.Table]:
    def hash_unit(table: pa.Table) -> pa.Table:
        known: dict[str, dict[str, Any] | RowError] = {}  # several spans of one file: it is read once

        def hash_row(row: dict[str, Any]) -> dict[str, Any]:
            uri = row["uri"]
            if uri not in known:
                try:
                    known[uri] = _hashed(uri, env, config)
                except RowError as error:
                    if row["has_folder"] and error.reason == Reason.MISSING_FILE:
                        check_not_away(uri, env.media_root, env.stores)
                    known[uri] = error
            found = known[uri]
            if isinstance(found, RowError):
                raise found
            if found["media"] == "image" and row["span_start_s"] is not None:
                detail = f"{uri}: the content is an image, which has no span; leave span_start_s and span_end_s empty"
                raise RowError(Reason.NO_VIDEO_STREAM, detail)
            name = stated_id(row, found["sha256"]) if config.stated_ids else None
            return found | {"clip_id": name or clip_id(found["sha256"], row["span_start_s"], row["span_end_s"])}

        return map_rows(table, _HASHED, INGEST_OPERATOR.name, hash_row)

    return hash_unit


def _hashed(uri: str, env: Env, config: IngestConfig) -> dict[str, Any]:
    if not config.follow_links and (link := local_name(uri)) and leads_out(link, Path(env.media_root)):
        raise RowError(
            Reason.LEADS_OUTSIDE, f"{uri}: this link leads out of the folder {env.media_root}: {_ALLOWED_BY}"
        )
    sha, size, head = hashlib.sha256(), 0, b""
    for chunk in chunks(uri, env.media_root, env.stores):
        sha.update(chunk)
        size += len(chunk)
        if len(head) < HEAD_BYTES:
            head += chunk[: HEAD_BYTES - len(head)]
    return {"sha256": sha.hexdigest(), "num_bytes": size, "media": media_of(head, uri)}


def _reduce(table: pa.Table, _config: IngestConfig, _surveyed: Any) -> pa.Table:
    """Give every row its id, and set aside repeated content; the first in the manifest is kept."""
    kept: dict[str, str] = {}
    seen: dict[str, int] = {}
    return to_table(_identified(iterate(table.sort_by("row")), kept, seen), INGEST)


def _identified(rows: Iterable[dict[str, Any]], kept: dict[str, str], seen: dict[str, int]) -> Iterable[dict[str, Any]]:
    for row in rows:
        has_content = row["sha256"] is not None
        span = (row["span_start_s"], row["span_end_s"])
        first = row["clip_id"]
        occurrence = seen[first] = seen.get(first, -1) + 1
        if occurrence:
            is_own = has_content and first == clip_id(row["sha256"], *span)
            row["clip_id"] = (
                clip_id(row["sha256"], *span, occurrence) if is_own else beside(first, f"{first}|{occurrence}")
            )
        if has_content and occurrence:
            detail = f"same content and span as {kept[first]}, which is kept (clip_id {first})"
            row |= status_not_ok(INGEST_OPERATOR.name, Status.FILTERED, Reason.DUPLICATE_CONTENT, detail)
        kept.setdefault(first, row["uri"])
        yield row


INGEST_OPERATOR = Operator(
    name="ingest",
    config=IngestConfig,
    schema=INGEST,
    computed=_HASHED,
    inputs=("manifest",),
    read=_read,
    map=_make,
    rows_per_batch=lambda _config: 16,
    reduce=_reduce,
)
"""Reads the input `manifest`: a file or a folder, see `read_manifest`."""
