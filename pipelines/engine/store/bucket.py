"""Objects of a store in a bucket (`s3://`, `gs://`): small records, and the files of outputs.

Which of many writers wins is for the bucket to decide (`If-None-Match`, `If-Match`). Needs obstore: the extra `s3` of
this package.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

from pipelines.engine.store.objects import Entry, Record, Tag
from pipelines.errors import GoneError, StoreError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SCHEMES = ("s3://", "gs://")
_OPTIONS = {"s3": ("region", "endpoint_override", "scheme"), "gs": ()}
_RETRIES = {"max_retries": 8, "retry_timeout": timedelta(seconds=120)}
_CHUNK_BYTES = 8 << 20


class Bucket:
    """Objects below one prefix; see `pipelines.engine.store.objects.Objects`.

    Args:
        uri: `s3://bucket/prefix?region=...&endpoint_override=host:port&scheme=http`, or `gs://bucket/prefix`;
            credentials come from the environment.
        option: what named it, for messages.

    Raises:
        StoreError: obstore is not installed, or the URI has no bucket or an option that is not known.
    """

    every_s: ClassVar[float] = 10.0
    stamps: ClassVar[bool] = False  # a bucket may name versions by their content, and tell whole seconds only

    def __init__(self, uri: str, option: str = "--store") -> None:
        self._option = option
        self._seen: dict[str, tuple[Tag, float]] = {}
        self.given = uri
        """The URI with its options."""
        parts = urlsplit(uri)
        options = dict(parse_qsl(parts.query))
        self.uri = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        if not parts.netloc:
            raise StoreError(f"store {uri}: it names no bucket; give {parts.scheme}://BUCKET/PREFIX")
        if unknown := sorted(set(options) - set(_OPTIONS[parts.scheme])):
            known = ", ".join(_OPTIONS[parts.scheme]) or "none"
            raise StoreError(f"store {uri}: unknown option {unknown[0]!r}; known are: {known}")
        try:
            import obstore
            from obstore import store
        except ModuleNotFoundError as error:
            raise StoreError(
                f"store {uri}: obstore is not installed; `pip install 'lumina-video[s3]'` brings it"
            ) from error
        self._api = obstore
        prefix = parts.path.strip("/") or None
        if parts.scheme == "gs":
            self._store: Any = store.GCSStore(parts.netloc, prefix=prefix, retry_config=_RETRIES)
            return
        config = {"region": options["region"]} if "region" in options else {}
        if endpoint := options.get("endpoint_override"):
            config["endpoint"] = endpoint if "://" in endpoint else f"{options.get('scheme', 'https')}://{endpoint}"
        plain = config.get("endpoint", "").startswith("http://")
        self._store = store.S3Store(
            parts.netloc, prefix=prefix, retry_config=_RETRIES, client_options={"allow_http": plain}, **config
        )

    def check(self, folder: str = "") -> None:
        """Try what leases and manifests rely on, in a folder of the bucket.

        Raises:
            StoreError: the bucket is not there or not writable, or does not honour conditional writes.
        """
        key = f"{folder and folder + '/'}.probe-{uuid.uuid4().hex}"
        tag = self.create(key, "1")
        again = self._put(key, "2", "create")
        replaced = self.replace(key, "3", tag) if tag is not None else None
        stale = self._put(key, "4", dict(tag)) if tag is not None else None
        self.remove(key)
        if again is not None or replaced is None or stale is not None:
            raise StoreError(
                f"store {self.uri}: this endpoint does not honour conditional writes (If-None-Match, If-Match), so two "
                "runners could both believe to have finished a stage; use another endpoint, or a store on a file system"
            )

    def read(self, key: str) -> Record | None:
        """See `Objects.read`."""
        with self._named(key):
            try:
                found = self._api.get(self._store, key)
                text = bytes(found.bytes()).decode(errors="replace")
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None
        return Record(text, _tag(found.meta), found.meta["last_modified"].timestamp())

    def create(self, key: str, text: str) -> Tag | None:
        """See `Objects.create`."""
        return self._put(key, text, "create") or self._mine(key, text)

    def replace(self, key: str, text: str, tag: Tag | None) -> Tag | None:
        """See `Objects.replace`."""
        return self._put(key, text, "create" if tag is None else dict(tag)) or self._mine(key, text)

    def put(self, key: str, content: str | bytes, sync: bool = False) -> None:
        """See `Objects.put`; what is in a bucket stays."""
        with self._named(key):
            self._api.put(self._store, key, content.encode() if isinstance(content, str) else content)

    def get(self, key: str) -> bytes | None:
        """See `Objects.get`."""
        with self._named(key), contextlib.suppress(FileNotFoundError):
            return bytes(self._api.get(self._store, key).bytes())
        return None

    def remove(self, key: str, tag: Tag | None = None) -> None:
        """See `Objects.remove`."""
        if tag is not None and ((found := self.read(key)) is None or found.tag != tag):
            return
        with self._named(key):
            try:
                self._api.delete(self._store, key)
            except FileNotFoundError as error:
                self._check_bucket(error)

    def rename(self, key: str, name: str) -> None:
        """See `Objects.rename`."""
        if (record := self.read(key)) is not None:
            self.put(name, record.text)
        self.remove(key)

    def age(self, key: str, record: Record) -> float:
        """See `Objects.age`: since this process first saw the record, as hosts share no clock with a bucket."""
        tag, since = self._seen.get(key, ({}, 0.0))
        if tag != record.tag:
            since = time.monotonic()
            self._seen[key] = (record.tag, since)
        return time.monotonic() - since

    def entries(self, prefix: str) -> list[Entry]:
        """See `Objects.entries`."""
        with self._named(prefix):
            found = self._api.list(self._store, prefix).collect()
        return [Entry(one["path"], one["size"], one["last_modified"].timestamp()) for one in found]

    def folders(self, prefix: str) -> list[str]:
        """See `Objects.folders`."""
        with self._named(prefix):
            found = self._api.list_with_delimiter(self._store, prefix)
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"])

    def children(self, prefix: str) -> dict[str, int | None]:
        """Names of what lies directly below `prefix/`: bytes of an object, None of what has objects below it."""
        with self._named(prefix):
            found = self._api.list_with_delimiter(self._store, prefix or None)
        names: dict[str, int | None] = {one["path"].rpartition("/")[2]: one["size"] for one in found["objects"]}
        return names | {path.rstrip("/").rpartition("/")[2]: None for path in found["common_prefixes"]}

    def upload(self, path: Path, key: str) -> None:
        """Put a file, in parts if it is large."""
        with self._named(key):
            self._api.put(self._store, key, path)

    def download(self, key: str, path: Path) -> str:
        """Write an object to a file; returns the hex SHA-256 of what was written.

        Raises:
            GoneError: there is no such object.
        """
        digest = hashlib.sha256()
        with self._named(key):
            try:
                chunks = self._api.get(self._store, key).stream(min_chunk_size=_CHUNK_BYTES)
            except FileNotFoundError as error:
                raise GoneError(f"{self.name(key)} is not there") from error
            with path.open("wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
        return digest.hexdigest()

    def open(self, key: str, size: int) -> io.RawIOBase:
        """An object of `size` bytes as a file, of which only what is read is asked for; it is not held against a hash.

        Reading raises a GoneError if there is no such object.
        """
        return _Opened(self, key, size)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Some bytes of an object.

        Raises:
            GoneError: there is no such object.
        """
        with self._named(key):
            try:
                return bytes(self._api.get_range(self._store, key, start=start, length=length))
            except FileNotFoundError as error:
                raise GoneError(f"{self.name(key)} is not there") from error

    def name(self, key: str) -> str:
        """See `Objects.name`."""
        return f"{self.uri}/{key}"

    def _put(self, key: str, text: str, mode: Any) -> Tag | None:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._named(key):
            try:
                return _tag(self._api.put(self._store, key, text.encode(), mode=mode))
            except (AlreadyExistsError, PreconditionError):
                return None
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None  # replaced what is gone

    def _mine(self, key: str, text: str) -> Tag | None:
        """The version of the object if it says `text`: a write that succeeded, whose answer was lost, is repeated."""
        found = self.read(key)
        return found.tag if found is not None and found.text == text else None

    def _check_bucket(self, error: Exception) -> None:
        if "NoSuchBucket" in str(error):
            raise StoreError(f"store {self.uri}: there is no such bucket; make it, or give another with {self._option}")

    @contextlib.contextmanager
    def _named(self, key: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except BaseError as error:
            self._check_bucket(error)
            raise StoreError(f"{self.name(key)}: {str(error).strip().splitlines()[0]}") from error


class _Opened(io.RawIOBase):
    """An object that is read where it lies."""

    def __init__(self, bucket: Bucket, key: str, size: int) -> None:
        self.bucket, self.key, self.size = bucket, key, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self.size - self._at))
        if length:
            found = self.bucket.read_range(self.key, self._at, length)
            length = len(found)
            view[:length] = found
        self._at += length
        return length


def _tag(meta: Mapping[str, Any]) -> Tag:
    return {key: meta[key] for key in ("e_tag", "version") if meta.get(key)}
