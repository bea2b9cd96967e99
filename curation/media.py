"""Media by URI: local files, members of zip archives, objects of a store.

A relative path is relative to the media root, and so is the archive in `zip://inside/clip.mp4::archive.zip`. Objects
(`s3://`, `gs://`) are read by pyarrow, from the server that the config names and with credentials from the environment
alone.

Every error of the media itself is a RowError: `missing_file`, `unreadable_file` (also for a pipe, a device, a directory
or what the system makes up, as in /proc, which is never opened) or `unsupported_uri`. What the machine or the store is
at fault for is a MachineError: see `lumina.faults`. Of a store that is all but "there is no such object"; of a file,
that its folder is away.
"""

from __future__ import annotations

import errno
import lzma
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
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qsl, unquote, urlencode

from curation.object_stores import ObjectStore, ObjectStores
from curation.schema import Reason, RowError
from curation.zip_limits import check_member
from lumina.faults import MachineError, is_of_machine, machine_error, machine_errors, patiently, said
from lumina.links import is_on_no_disk

SCHEMES = ("file", "zip", "s3", "gs")
_CHUNK = 1 << 23
_STAMP_THREADS = 16
_LOCAL_HEADER = 30
_ENCRYPTED = 1
_NO_STORES = ObjectStores()
_BUCKET = re.compile(r"(anonymous@)?[A-Za-z0-9][A-Za-z0-9._-]*")
_REFUSED = (Reason.DECODE_ERROR, Reason.DECODE_CRASHED)
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
    anonymous: bool
    path: str
    """Bucket and key."""


_Place = _File | _Member | _Object


@contextmanager
def localized(uri: str, media_root: str, stores: ObjectStores = _NO_STORES, seen: bool = True) -> Iterator[Path]:
    """A local file with the bytes and the extension of the media, for as long as the block lasts; an absolute path.

    A local file is itself; a member or an object is copied to a temporary file. RowError if the media cannot be had,
    MachineError if the machine is at fault; what the block raises passes through, but for a decoder's word on a file
    that cannot be read any more.

    Args:
        uri: of the media.
        media_root: see above.
        seen: the media was there before, so that its folder can only be away for a time.
    """
    place = _place(uri, media_root, stores)
    if isinstance(place, _File):
        with _sorted_errors(uri, place, media_root, seen):
            _stat(place.path)
        with _blamed(uri, place, media_root, seen):
            yield place.path.absolute()
        return
    with machine_errors(f"no temporary copy of {uri} (TMPDIR)"):
        directory = tempfile.TemporaryDirectory(prefix="lumina-media-")
    with directory as name:
        ending = suffix(uri)
        path = Path(name) / ("media" + (ending if _ENDING.fullmatch(ending) else ""))
        with machine_errors(f"no temporary copy of {uri} in {name} (TMPDIR)"), path.open("wb") as copy:
            for chunk in _read(uri, place, media_root, seen):
                copy.write(chunk)
        with _blamed(uri, _File(path), name, seen=True):
            yield path


@contextmanager
def _blamed(uri: str, file: _File, media_root: str, seen: bool) -> Iterator[None]:
    """What a decoder says of a file counts if the file can be read: to a decoder, a lost mount is a damaged file."""
    try:
        yield
    except MachineError as error:
        raise MachineError(f"{uri}: {error}") from error
    except RowError as error:
        if error.reason in _REFUSED:
            for _ in _read(uri, file, media_root, seen):
                pass
        raise


def chunks(uri: str, media_root: str, stores: ObjectStores = _NO_STORES) -> Iterator[bytes]:
    """The bytes of the media, some MiB at a time. A member is checked against its CRC. Errors as of `localized`."""
    return _read(uri, _place(uri, media_root, stores), media_root, seen=False)


def check_not_away(uri: str, media_root: str, stores: ObjectStores = _NO_STORES) -> None:
    """MachineError if a missing file is so because its folder, which was there before, is away, or was until now."""
    place = _place(uri, media_root, stores)
    if not isinstance(place, _Object):
        _check_folder(uri, place, media_root, seen=True)
        if isinstance(place, _File) and place.path.exists():
            raise _back(uri)


def _read(uri: str, place: _Place, media_root: str, seen: bool) -> Iterator[bytes]:
    with _sorted_errors(uri, place, media_root, seen):
        stream = _open(place)
    with stream:
        while True:
            with _sorted_errors(uri, place, media_root, seen):
                chunk = stream.read(_CHUNK)
            if not chunk:
                return
            yield chunk


def stamp(uri: str, media_root: str, stores: ObjectStores = _NO_STORES) -> str:
    """What can be known of the media without reading it: size and time of a file or object, size and CRC of a member.

    Errors as of `localized`.
    """
    place = _place(uri, media_root, stores)
    with _sorted_errors(uri, place, media_root, seen=None):
        match place:
            case _File(path):
                found = _stat(path)
                return f"{found.st_size}:{found.st_mtime_ns}"
            case _Member():
                member = _member(place)
                return f"{member.file_size}:{member.CRC:08x}"
            case _Object(store, anonymous, path):
                info = _filesystem(store, anonymous).get_file_info(path)
                if not info.is_file:
                    raise FileNotFoundError(path)
                return f"{info.size}:{info.mtime_ns}"


def stamps(uris: Iterable[str], media_root: str, stores: ObjectStores = _NO_STORES) -> dict[str, str]:
    """The stamp of each URI, or the reason why it has none. Reads the directory of each archive once.

    MachineError if the machine or the store refuses to tell.
    """

    def look(uri: str) -> str:
        try:
            return patiently(partial(stamp, uri, media_root, stores), uri)
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


def with_folders(uris: Iterable[str], media_root: str) -> set[str]:
    """Those URIs of files, and of members of archives, whose folder is there with something in it.

    MachineError if the system refuses to tell.
    """
    known: dict[Path, bool] = {}
    found = set()
    for uri in uris:
        try:
            place = _place(uri, media_root)
        except RowError:
            continue
        if isinstance(place, _Object):
            continue
        folder = _local(place).parent
        if folder not in known:
            known[folder] = patiently(partial(_lists, folder), str(folder))
        if known[folder]:
            found.add(uri)
    return found


def member_uri(archive: str, name: str) -> str:
    """The URI of a member of an archive whose path is relative to the media root, or absolute."""
    return f"zip://{name}::{archive}"


def absolute(uri: str, media_root: str, stores: ObjectStores = _NO_STORES) -> str:
    """The URI, such that it does not depend on the media root. RowError `unsupported_uri` for what is none."""
    place = _place(uri, media_root, stores)
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


def local_name(uri: str) -> str:
    """The path in a URI that is relative to the media root: of a file, or of a member's archive; empty if there is
    none."""
    archive = uri.removeprefix("zip://").rpartition("::")[2] if uri.startswith("zip://") else uri
    return "" if "://" in archive else archive


def has_credentials(uri: str) -> bool:
    """Whether a URI holds a user or a password, which would end up in every table. `gs://anonymous@` does not."""
    if "://" not in uri or uri.startswith("zip://"):
        return False
    authority = uri.partition("://")[2].partition("/")[0].partition("?")[0]
    user, at, _ = authority.rpartition("@")
    return bool(at) and user != "anonymous"


def _place(uri: str, media_root: str, stores: ObjectStores = _NO_STORES) -> _Place:
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
    if not _BUCKET.fullmatch(bucket) or not key:
        raise RowError(Reason.UNSUPPORTED_URI, f"cannot open {uri!r}: expected {scheme}://bucket/key")
    server: ObjectStore = getattr(stores, scheme)
    given = dict(parse_qsl(options, keep_blank_values=True))
    refused = sorted(set(given) - set(stores.row_options))
    if refused or (options and not given):
        raise RowError(
            Reason.UNSUPPORTED_URI,
            f"{scheme}://{place}: a row names no server or options ({', '.join(refused) or 'none that can be read'}): "
            f"set runtime.object_stores.{scheme}, or allow them by name with runtime.object_stores.row_options",
        )
    query = urlencode({**server.options(), **given})
    store = f"{scheme}://{bucket}" + (f"?{query}" if query else "")
    return _Object(store, server.anonymous, f"{bucket.rpartition('@')[2]}/{unquote(key)}")


@contextmanager
def _sorted_errors(uri: str, place: _Place, media_root: str, seen: bool | None) -> Iterator[None]:
    """Errors as RowError or MachineError, see above; `seen` is None before anything was planned."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        _check_folder(uri, place, media_root, seen)
        if not isinstance(place, _Object) and error.errno == errno.ENOENT and _local(place).exists():
            raise _back(uri) from error
        raise RowError(Reason.MISSING_FILE, f"{uri}: no such file{_where(uri)}") from None
    except MemoryError as error:
        raise machine_error(error, uri) from error
    except OSError as error:
        if isinstance(place, _Object):
            raise _store_error(uri, error) from error
        if is_of_machine(error):
            raise machine_error(error, uri) from error
        raise RowError(Reason.UNREADABLE_FILE, f"{uri}: {said(error)}") from error
    except (ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise RowError(Reason.UNREADABLE_FILE, f"{uri}: {said(error)}") from error


def _back(uri: str) -> MachineError:
    return MachineError(f"{uri}: it was away for a moment; see that its mount is well, and the same command continues")


def _check_folder(uri: str, place: _Place, media_root: str, seen: bool | None) -> None:
    """MachineError if a file is missing because its bucket, the media root or its folder is away."""
    if isinstance(place, _Object):
        if not _has_bucket(uri, place):
            raise MachineError(
                f"{uri}: there is no such bucket; see that its store is the right one, and the same command continues"
            )
        return
    path, root = _local(place), Path(media_root)
    folder = None
    if path.is_relative_to(root) and not (root.is_dir() if seen is None else _lists(root)):
        folder = root
    elif seen and not _lists(path.parent):
        folder = path.parent
    elif seen and path.is_symlink() and not _lists(path.resolve().parent):
        folder = path.resolve().parent
    if folder is not None:
        state = "is empty" if folder.is_dir() else "is not there"
        raise MachineError(
            f"{uri}: its folder {folder} {state}; see that it is mounted, and the same command continues"
        )


def _local(place: _File | _Member) -> Path:
    return place.path if isinstance(place, _File) else place.archive


def _lists(folder: Path) -> bool:
    """Whether a folder is there and not empty: what a mount leaves behind is an empty one. MachineError."""
    try:
        with os.scandir(folder) as names:
            return next(names, None) is not None
    except OSError as error:
        if is_of_machine(error):
            raise machine_error(error, str(folder)) from error
        return False
    except ValueError:  # a NUL in the name
        return False


def _has_bucket(uri: str, place: _Object) -> bool:
    from pyarrow.fs import FileSelector, FileType

    bucket, store = place.path.partition("/")[0], _filesystem(place.store, place.anonymous)
    try:
        if store.get_file_info(bucket).type == FileType.NotFound:
            store.get_file_info(FileSelector(bucket))  # not every store tells of a bucket by its name
    except OSError as error:
        if isinstance(error, FileNotFoundError) or "NO_SUCH_BUCKET" in str(error):
            return False
        raise _store_error(uri, error) from error
    return True


def _store_error(uri: str, error: OSError) -> MachineError:
    """pyarrow tells what a store answered in words of its own: all that is certain is that there was no 404."""
    hint = "see that the credentials are valid and the store answers, and the same command continues"
    return MachineError(f"{uri}: {said(error)}; {hint}")


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
        case _Object(store, anonymous, path):
            return cast(BinaryIO, _filesystem(store, anonymous).open_input_stream(path))


def _stat(path: Path) -> os.stat_result:
    """What the system says of a regular file. OSError for anything else: a pipe would block whoever opens it."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in _KINDS if test(found.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"this is {kind}, not a file")
    if is_on_no_disk(found):
        raise OSError(errno.EINVAL, "the system makes this up (/proc, /sys, /dev), it is no file")
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
def _filesystem(store: str, anonymous: bool) -> Any:
    """The client of a store; making one may ask the store for its region."""
    from pyarrow import fs

    if not anonymous:
        return fs.FileSystem.from_uri(store)[0]
    kind = fs.S3FileSystem if store.startswith("s3://") else fs.GcsFileSystem
    return kind(anonymous=True, **dict(parse_qsl(store.partition("?")[2])))
