"""Media by URI: local files, members of zip and tar archives, cells of Parquet tables, objects of a store.

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
import io
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
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qsl

from curation.media_uris import (
    ARCHIVES,
    NO_STORES,
    ArchiveMember,
    LocalFile,
    Location,
    StoredObject,
    local_path,
    locate,
    neighbours,
    suffix,
)
from curation.object_stores import ObjectStores
from curation.parquet_cells import read_cell
from curation.schema import Reason, RowError
from curation.tar_members import open_member
from curation.zip_limits import check_member
from lumina.faults import MachineError, is_of_machine, machine_error, machine_errors, patiently, said
from lumina.links import is_on_no_disk

_CHUNK = 1 << 23
_STAMP_THREADS = 16
_LOCAL_HEADER = 30
_ENCRYPTED = 1
_REFUSED = (Reason.DECODE_ERROR, Reason.DECODE_CRASHED)
_ENDING = re.compile(r"\.\w{1,16}", re.ASCII)
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextmanager
def localized(uri: str, media_root: str, stores: ObjectStores = NO_STORES, seen: bool = True) -> Iterator[Path]:
    """A local file with the bytes and the extension of the media, for as long as the block lasts; an absolute path.

    A local file is itself; a member or an object is copied to a temporary file. RowError if the media cannot be had,
    MachineError if the machine is at fault; what the block raises passes through, but for a decoder's word on a file
    that cannot be read any more.

    Args:
        uri: of the media.
        media_root: see above.
        seen: the media was there before, so that its folder can only be away for a time.
    """
    location = locate(uri, media_root, stores)
    if isinstance(location, LocalFile):
        with _sorted_errors(uri, location, media_root, seen):
            _stat(location.path)
        with _blamed(uri, location, media_root, seen):
            yield location.path.absolute()
        return
    with machine_errors(f"no temporary copy of {uri} (TMPDIR)"):
        directory = tempfile.TemporaryDirectory(prefix="lumina-media-")
    with directory as name:
        ending = suffix(uri)
        path = Path(name) / ("media" + (ending if _ENDING.fullmatch(ending) else ""))
        with machine_errors(f"no temporary copy of {uri} in {name} (TMPDIR)"), path.open("wb") as copy:
            for chunk in _read(uri, location, media_root, seen):
                copy.write(chunk)
        with _blamed(uri, LocalFile(path), name, seen=True):
            yield path


@contextmanager
def _blamed(uri: str, file: LocalFile, media_root: str, seen: bool) -> Iterator[None]:
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


def chunks(uri: str, media_root: str, stores: ObjectStores = NO_STORES) -> Iterator[bytes]:
    """The bytes of the media, some MiB at a time. A member is checked against its CRC. Errors as of `localized`."""
    return _read(uri, locate(uri, media_root, stores), media_root, seen=False)


def check_not_away(uri: str, media_root: str, stores: ObjectStores = NO_STORES) -> None:
    """MachineError if a missing file is so because its folder, which was there before, is away, or was until now."""
    location = locate(uri, media_root, stores)
    if not isinstance(location, StoredObject):
        _check_folder(uri, location, media_root, seen=True)
        if isinstance(location, LocalFile) and location.path.exists():
            raise _back(uri)


def _read(uri: str, location: Location, media_root: str, seen: bool) -> Iterator[bytes]:
    with _sorted_errors(uri, location, media_root, seen):
        stream = _open(location)
    with stream:
        while True:
            with _sorted_errors(uri, location, media_root, seen):
                chunk = stream.read(_CHUNK)
            if not chunk:
                return
            yield chunk


def stamp(uri: str, media_root: str, stores: ObjectStores = NO_STORES) -> str:
    """What can be known of the media without reading it: size and time of a file or object, size and CRC of a member.

    Errors as of `localized`.
    """
    location = locate(uri, media_root, stores)
    with _sorted_errors(uri, location, media_root, seen=None):
        match location:
            case LocalFile(path):
                found = _stat(path)
                return f"{found.st_size}:{found.st_mtime_ns}"
            case ArchiveMember(archive, name, "zip"):
                member = _member(archive, name)
                return f"{member.file_size}:{member.CRC:08x}"
            case ArchiveMember(archive):
                # Neither has a checksum of its members.
                found = _stat(archive)
                return f"{found.st_size}:{found.st_mtime_ns}"
            case StoredObject(store, anonymous, path):
                info = _filesystem(store, anonymous).get_file_info(path)
                if not info.is_file:
                    raise FileNotFoundError(path)
                return f"{info.size}:{info.mtime_ns}"


def stamps(uris: Iterable[str], media_root: str, stores: ObjectStores = NO_STORES) -> dict[str, str]:
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

    def is_there(uri: str) -> bool:
        try:
            location = locate(uri, media_root)
        except RowError:
            return False
        if isinstance(location, StoredObject):
            return False
        folder = local_path(location).parent
        if folder not in known:
            known[folder] = patiently(partial(_lists, folder), str(folder))
        return known[folder]

    # To take a path apart costs more than all else: those that agree up to the last slash are in one folder.
    answers: dict[str, bool] = {}

    def has_folder(uri: str) -> bool:
        place, slash, name = uri.rpartition("/")
        if "://" in uri or name in ("", "."):
            return is_there(uri)
        if place + slash not in answers:
            answers[place + slash] = is_there(uri)
        return answers[place + slash]

    return set(filter(has_folder, uris))


@contextmanager
def _sorted_errors(uri: str, location: Location, media_root: str, seen: bool | None) -> Iterator[None]:
    """Errors as RowError or MachineError, see above; `seen` is None before anything was planned."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        _check_folder(uri, location, media_root, seen)
        if not isinstance(location, StoredObject) and error.errno == errno.ENOENT and local_path(location).exists():
            raise _back(uri) from error
        raise RowError(Reason.MISSING_FILE, f"{uri}: no such file{_where(uri)}") from None
    except MemoryError as error:
        raise machine_error(error, uri) from error
    except OSError as error:
        if isinstance(location, StoredObject):
            raise _store_error(uri, error) from error
        if is_of_machine(error):
            raise machine_error(error, uri) from error
        raise RowError(Reason.UNREADABLE_FILE, f"{uri}: {said(error)}") from error
    except (ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise RowError(Reason.UNREADABLE_FILE, f"{uri}: {said(error)}") from error


def _back(uri: str) -> MachineError:
    return MachineError(f"{uri}: it was away for a moment; see that its mount is well, and the same command continues")


def _check_folder(uri: str, location: Location, media_root: str, seen: bool | None) -> None:
    """MachineError if a file is missing because its bucket, the media root or its folder is away."""
    if isinstance(location, StoredObject):
        if not _has_bucket(uri, location):
            raise MachineError(
                f"{uri}: there is no such bucket; see that its store is the right one, and the same command continues"
            )
        return
    path, root = local_path(location), Path(media_root)
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


def _has_bucket(uri: str, location: StoredObject) -> bool:
    from pyarrow.fs import FileSelector, FileType

    bucket, store = location.path.partition("/")[0], _filesystem(location.store, location.anonymous)
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
        " in the archive, or no archive"
        if uri.partition("://")[0] in ARCHIVES
        else ""
        if "://" in uri
        else " in the media root"
    )


def _open(location: Location) -> BinaryIO:
    match location:
        case LocalFile(path):
            _stat(path)
            return path.open("rb")
        case ArchiveMember(archive, name, "zip"):
            return _open_member(archive, _member(archive, name))
        case ArchiveMember(archive, name, "tar"):
            state = _stat(archive)
            return open_member(archive, (state.st_mtime_ns, state.st_size), name)
        case ArchiveMember(archive, name):
            state = _stat(archive)
            return io.BytesIO(read_cell(archive, (state.st_mtime_ns, state.st_size), name))
        case StoredObject(store, anonymous, path):
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


def _member(archive: Path, name: str) -> zipfile.ZipInfo:
    found = _directory(archive).get(name)
    if found is None:
        raise FileNotFoundError(name)
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
