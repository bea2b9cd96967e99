"""Media by URI: local files, members of zip archives, objects of a store.

A relative path is relative to the media root, and so is the archive in `zip://inside/clip.mp4::archive.zip`. Objects
(`s3://`, `gs://`) are read by pyarrow, which takes options from the URI (`?region=...&endpoint_override=...`) and
credentials from the environment alone.

Every error of the media itself is a RowError: `missing_file`, `unreadable_file` (also for a pipe, a device or a
directory, which is never opened) or `unsupported_uri`.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

from curation.schema import Reason, RowError
from curation.zip_limits import check_member

SCHEMES = ("file", "zip", "s3", "gs")
_CHUNK = 1 << 23
_STAMP_THREADS = 16
_LOCAL_HEADER = 30
_ENCRYPTED = 1
_ENDING = re.compile(r"\.\w{1,16}", re.ASCII)
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True)
class _File:
    path: Path


@dataclass(frozen=True)
class _Member:
    archive: Path
    name: str


@dataclass(frozen=True)
class _Object:
    store: str
    """The URI without its key: what names the server and its options."""
    path: str
    """Bucket and key."""


_Place = _File | _Member | _Object


@contextmanager
def localized(uri: str, media_root: str) -> Iterator[Path]:
    """A local file with the bytes and the extension of the media, for as long as the block lasts; an absolute path.

    A local file is itself; a member or an object is copied to a temporary file. RowError if the media cannot be had;
    what the block raises passes through.
    """
    place = _place(uri, media_root)
    if isinstance(place, _File):
        with _row_errors(uri):
            _stat(place.path)
        yield place.path.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="lumina-media-") as directory:
        ending = suffix(uri)
        path = Path(directory) / ("media" + (ending if _ENDING.fullmatch(ending) else ""))
        with path.open("wb") as copy:
            for chunk in chunks(uri, media_root):
                copy.write(chunk)
        yield path


def chunks(uri: str, media_root: str) -> Iterator[bytes]:
    """The bytes of the media, some MiB at a time. A member is checked against its CRC. RowError as for `localized`."""
    place = _place(uri, media_root)
    with _row_errors(uri):
        stream = _open(place)
    with stream:
        while True:
            with _row_errors(uri):
                chunk = stream.read(_CHUNK)
            if not chunk:
                return
            yield chunk


def stamp(uri: str, media_root: str) -> str:
    """What can be known of the media without reading it: size and time of a file or object, size and CRC of a member.

    RowError as for `localized`.
    """
    place = _place(uri, media_root)
    with _row_errors(uri):
        match place:
            case _File(path):
                found = _stat(path)
                return f"{found.st_size}:{found.st_mtime_ns}"
            case _Member():
                member = _member(place)
                return f"{member.file_size}:{member.CRC:08x}"
            case _Object(store, path):
                info = _filesystem(store).get_file_info(path)
                if not info.is_file:
                    raise FileNotFoundError(path)
                return f"{info.size}:{info.mtime_ns}"


def stamps(uris: Iterable[str], media_root: str) -> dict[str, str]:
    """The stamp of each URI, or the reason why it has none. Reads the directory of each archive once."""

    def look(uri: str) -> str:
        try:
            return stamp(uri, media_root)
        except RowError as error:
            return str(error.reason)

    remote: list[str] = []
    local: list[str] = []
    for uri in set(uris):
        (remote if uri.startswith(("s3://", "gs://")) else local).append(uri)
    # Members of one archive side by side: only few directories are kept in memory.
    found = {uri: look(uri) for uri in sorted(local, key=neighbours)}
    if remote:
        with ThreadPoolExecutor(_STAMP_THREADS) as threads:  # each waits for an answer
            found.update(zip(remote, threads.map(look, remote), strict=True))
    return found


def members(archive: Path) -> list[str]:
    """Names of the files in a zip archive, sorted. OSError or zipfile.BadZipFile if it cannot be read."""
    return sorted(_directory(archive))


def member_uri(archive: str, name: str) -> str:
    """The URI of a member of an archive whose path is relative to the media root, or absolute."""
    return f"zip://{name}::{archive}"


def absolute(uri: str, media_root: str) -> str:
    """The URI, such that it does not depend on the media root. RowError `unsupported_uri` for what is none."""
    place = _place(uri, media_root)
    match place:
        case _File(path):
            return str(path.absolute())
        case _Member(archive, name):
            return member_uri(str(archive.absolute()), name)
        case _Object():
            return uri


def suffix(uri: str) -> str:
    """The file extension of what a URI names, in lower case, with its dot."""
    if uri.startswith("zip://"):
        uri = uri.removeprefix("zip://").rpartition("::")[0]
    elif "://" in uri:
        uri = unquote(uri.partition("?")[0])
    return PurePosixPath(uri).suffix.lower()


def neighbours(uri: str) -> tuple[str, str]:
    """A sort key that brings members of one archive together, so that its directory is read once."""
    return uri.rpartition("::")[2] if uri.startswith("zip://") else "", uri


def has_credentials(uri: str) -> bool:
    """Whether a URI holds a user or a password, which would end up in every table. `gs://anonymous@` does not."""
    if "://" not in uri or uri.startswith("zip://"):
        return False
    authority = uri.partition("://")[2].partition("/")[0].partition("?")[0]
    user, at, _ = authority.rpartition("@")
    return bool(at) and user != "anonymous"


def _place(uri: str, media_root: str) -> _Place:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return _File(Path(media_root) / uri)
    if scheme == "file":
        host, _, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise RowError(Reason.UNSUPPORTED_URI, f"cannot open {uri!r}: the file is on another machine")
        return _File(Path("/" + unquote(path)))
    if scheme == "zip":
        name, _, archive = rest.rpartition("::")
        if not name or not archive or ("://" in archive and not archive.startswith("file://")):
            raise RowError(
                Reason.UNSUPPORTED_URI, f"cannot open {uri!r}: expected zip://inside/clip.mp4::archive.zip, a local one"
            )
        return _Member(cast(_File, _place(archive, media_root)).path, name)
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise RowError(Reason.UNSUPPORTED_URI, f"cannot open {uri!r}: expected a path, {known}")
    if has_credentials(uri):
        raise RowError(Reason.UNSUPPORTED_URI, f"{scheme}:// URI with a user in it: credentials are the environment's")
    place, _, options = rest.partition("?")
    bucket, _, key = place.partition("/")
    if not bucket or not key:
        raise RowError(Reason.UNSUPPORTED_URI, f"cannot open {uri!r}: expected {scheme}://bucket/key")
    store = f"{scheme}://{bucket}" + (f"?{options}" if options else "")
    return _Object(store, f"{bucket.rpartition('@')[2]}/{unquote(key)}")


@contextmanager
def _row_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise RowError(Reason.MISSING_FILE, f"{uri}: no such file{_where(uri)}") from None
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        said = (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\n")[0]
        raise RowError(Reason.UNREADABLE_FILE, f"{uri}: {said}") from error


def _where(uri: str) -> str:
    return (
        " in the archive, or no archive" if uri.startswith("zip://") else "" if "://" in uri else " in the media root"
    )


def _open(place: _Place) -> BinaryIO:
    match place:
        case _File(path):
            _stat(path)
            return path.open("rb")
        case _Member(archive):
            return _open_member(archive, _member(place))
        case _Object(store, path):
            return cast(BinaryIO, _filesystem(store).open_input_stream(path))


def _stat(path: Path) -> os.stat_result:
    """What the system says of a regular file. OSError for anything else: a pipe would block whoever opens it."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in _KINDS if test(found.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"this is {kind}, not a file")
    return found


def _member(place: _Member) -> zipfile.ZipInfo:
    found = _directory(place.archive).get(place.name)
    if found is None:
        raise FileNotFoundError(place.name)
    return found


def _directory(archive: Path) -> Mapping[str, zipfile.ZipInfo]:
    found = _stat(archive)
    return _read_directory(archive, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=16)
def _read_directory(archive: Path, _mtime_ns: int, _size: int) -> Mapping[str, zipfile.ZipInfo]:
    with zipfile.ZipFile(archive) as file:
        return {info.filename: info for info in file.infolist() if not info.is_dir()}


def _open_member(archive: Path, member: zipfile.ZipInfo) -> BinaryIO:
    """Open a member by its place in the archive: zipfile.ZipFile would read the whole directory for each."""
    if member.flag_bits & _ENCRYPTED:
        raise zipfile.BadZipFile("the member is encrypted")
    check_member(member)
    file = archive.open("rb")
    try:
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER)
        if len(header) != _LOCAL_HEADER or not header.startswith(b"PK\3\4"):
            raise zipfile.BadZipFile("the archive's directory points to no member: it is cut off or damaged")
        file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), os.SEEK_CUR)
        return cast(BinaryIO, zipfile.ZipExtFile(file, "r", member, None, True))
    except BaseException:
        file.close()
        raise


@lru_cache(maxsize=8)
def _filesystem(store: str) -> Any:
    """The client of a store; making one may ask the store for its region."""
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(store)[0]
