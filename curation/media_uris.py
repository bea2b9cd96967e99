"""Media URIs: which file, member of an archive or object of a store a URI names, told without a look at it.

A relative path is relative to the media root, and so is the archive in `zip://inside/clip.mp4::archive.zip`,
`tar://clip.mp4::shard.tar` and `parquet://column/row/clip.mp4::table.parquet`, where a cell holds the bytes of a file.
What names nothing is a RowError `unsupported_uri`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast
from urllib.parse import parse_qsl, unquote, urlencode

from curation.object_stores import ObjectStore, ObjectStores
from curation.schema import Reason, RowError

ARCHIVES = ("zip", "tar", "parquet")
SCHEMES = ("file", *ARCHIVES, "s3", "gs")
_INSIDE = tuple(f"{kind}://" for kind in ARCHIVES)
NO_STORES = ObjectStores()
_BUCKET = re.compile(r"(anonymous@)?[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class LocalFile:
    """A file on a disk."""

    path: Path


@dataclass(frozen=True)
class ArchiveMember:
    """A member of a local archive, or a cell of a local table."""

    archive: Path
    name: str
    """Of a cell: its column, its row from 0, and what its file would be called."""
    kind: str = "zip"
    """One of `ARCHIVES`."""


@dataclass(frozen=True)
class StoredObject:
    """An object of a store."""

    store: str
    """The URI without its key: what names the server and its options."""
    anonymous: bool
    path: str
    """Bucket and key."""


Location = LocalFile | ArchiveMember | StoredObject


def locate(uri: str, media_root: str, stores: ObjectStores = NO_STORES) -> Location:
    """What a URI names; RowError."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return LocalFile(Path(media_root) / uri)
    if scheme == "file":
        host, _, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise RowError(Reason.UNSUPPORTED_URI, f"cannot open {uri!r}: the file is on another machine")
        return LocalFile(Path("/" + unquote(path)))
    if scheme in ARCHIVES:
        name, _, archive = rest.rpartition("::")
        if not name or not archive or ("://" in archive and not archive.startswith("file://")):
            raise RowError(
                Reason.UNSUPPORTED_URI,
                f"cannot open {uri!r}: expected {scheme}://inside/clip.mp4::archive.{scheme}, a local one",
            )
        return ArchiveMember(cast(LocalFile, locate(archive, media_root)).path, name, scheme)
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise RowError(Reason.UNSUPPORTED_URI, f"cannot open {uri!r}: expected a path, {known}")
    if has_credentials(uri):
        raise RowError(Reason.UNSUPPORTED_URI, f"{scheme}:// URI with a user in it: credentials are the environment's")
    name, _, options = rest.partition("?")
    bucket, _, key = name.partition("/")
    if not _BUCKET.fullmatch(bucket) or not key:
        raise RowError(Reason.UNSUPPORTED_URI, f"cannot open {uri!r}: expected {scheme}://bucket/key")
    server: ObjectStore = getattr(stores, scheme)
    given = dict(parse_qsl(options, keep_blank_values=True))
    refused = sorted(set(given) - set(stores.row_options))
    if refused or (options and not given):
        raise RowError(
            Reason.UNSUPPORTED_URI,
            f"{scheme}://{name}: a row names no server or options ({', '.join(refused) or 'none that can be read'}): "
            f"set runtime.object_stores.{scheme}, or allow them by name with runtime.object_stores.row_options",
        )
    query = urlencode({**server.options(), **given})
    store = f"{scheme}://{bucket}" + (f"?{query}" if query else "")
    return StoredObject(store, server.anonymous, f"{bucket.rpartition('@')[2]}/{unquote(key)}")


def member_uri(archive: str, name: str, kind: str = "zip") -> str:
    """The URI of a member of an archive whose path is relative to the media root, or absolute."""
    return f"{kind}://{name}::{archive}"


def absolute(uri: str, media_root: str, stores: ObjectStores = NO_STORES) -> str:
    """The URI, such that it does not depend on the media root. RowError `unsupported_uri` for what is none."""
    location = locate(uri, media_root, stores)
    match location:
        case LocalFile(path):
            return str(path.absolute())
        case ArchiveMember(archive, name, kind):
            return member_uri(str(archive.absolute()), name, kind)
        case StoredObject():
            return uri


def suffix(uri: str) -> str:
    """The file extension of what a URI names, in lower case, with its dot."""
    if uri.startswith(_INSIDE):
        uri = uri.partition("://")[2].rpartition("::")[0]
    elif "://" in uri:
        uri = unquote(uri.partition("?")[0])
    name = uri.rpartition("/")[2]
    if name in ("", "."):
        name = PurePosixPath(uri).name  # as pathlib has it, which takes ten times as long
    dot = name.rfind(".")
    return name[dot:].lower() if 0 < dot < len(name) - 1 else ""


def neighbours(uri: str) -> tuple[str, str]:
    """A sort key that brings members of one archive together, so that its directory is read once."""
    return uri.rpartition("::")[2] if uri.startswith(_INSIDE) else "", uri


def local_name(uri: str) -> str:
    """The path in a URI that is relative to the media root: of a file, or of a member's archive; empty if there is
    none."""
    archive = uri.rpartition("::")[2] if uri.startswith(_INSIDE) else uri
    return "" if "://" in archive else archive


def has_credentials(uri: str) -> bool:
    """Whether a URI holds a user or a password, which would end up in every table. `gs://anonymous@` does not."""
    if "://" not in uri or uri.startswith(_INSIDE):
        return False
    authority = uri.partition("://")[2].partition("/")[0].partition("?")[0]
    user, at, _ = authority.rpartition("@")
    return bool(at) and user != "anonymous"


def local_path(location: LocalFile | ArchiveMember) -> Path:
    """The file on a disk: of a member its archive."""
    return location.path if isinstance(location, LocalFile) else location.archive
