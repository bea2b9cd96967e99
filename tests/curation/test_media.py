from __future__ import annotations

import errno
import hashlib
import os
import socket
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from curation import media
from curation.media import check_not_away, chunks, localized, stamp, stamps, with_folders
from curation.media_uris import member_uri, suffix
from curation.object_stores import ObjectStore, ObjectStores
from curation.schema import Reason, RowError
from lumina import faults
from lumina.faults import MachineError

REFUSED: dict[tuple[str, str], int] = {}
"""Method and path -> the HTTP status with which the store refuses it."""
OBJECTS = {"/bucket/a b.mp4": b"0123456789" * 300_000, "/bucket/folder/empty.mp4": b""}


def _read(uri: str, root: Path, stores: ObjectStores = ObjectStores()) -> bytes:  # noqa: B008 - it is frozen
    content = b"".join(chunks(uri, str(root), stores))
    with localized(uri, str(root), stores) as path:
        assert path.read_bytes() == content
        assert path.suffix.lower() == suffix(uri)
    return content


def _reason(uri: str, root: Path, stores: ObjectStores = ObjectStores()) -> tuple[Reason, str]:  # noqa: B008
    """Why a URI cannot be used: the same for all that open or look at it."""
    said = []
    for use in (_read, lambda uri, root, stores: stamp(uri, str(root), stores)):
        with pytest.raises(RowError) as caught:
            use(uri, root, stores)
        said.append((caught.value.reason, caught.value.detail))
    assert said[0] == said[1]
    return said[0]


def test_paths(tmp_path: Path) -> None:
    file = tmp_path / "a b.MP4"
    file.write_bytes(b"content")
    encoded = f"file://{tmp_path}/a%20b.MP4"
    for uri in ("a b.MP4", str(file), encoded, encoded.replace("file://", "file://localhost")):
        assert _read(uri, tmp_path) == b"content"
        assert stamp(uri, str(tmp_path)) == f"7:{file.stat().st_mtime_ns}"
        assert suffix(uri) == ".mp4"
    with localized("a b.MP4", str(tmp_path)) as path:
        assert path == file
    with pytest.raises(OSError, match="the caller's own"), localized("a b.MP4", str(tmp_path)):
        raise OSError("the caller's own")


@pytest.mark.timeout(60)
def test_what_is_no_file_is_named_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "dir.mp4").mkdir()
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.mp4"))
        found = {name: _reason(f"{name}.mp4", tmp_path) for name in ("pipe", "dir", "loop", "device", "socket")}
    assert {reason for reason, _ in found.values()} == {Reason.UNREADABLE_FILE}
    for name, said in {"pipe": "a named pipe", "dir": "a directory", "loop": "symbolic links", "device": "a device",
                       "socket": "a socket"}.items():  # fmt: skip
        assert said in found[name][1]
    assert _reason("zip://a.mp4::pipe.mp4", tmp_path)[0] == Reason.UNREADABLE_FILE
    assert _reason("x\0.mp4", tmp_path)[0] == Reason.UNREADABLE_FILE
    assert _reason("x" * 300 + ".mp4", tmp_path)[0] == Reason.UNREADABLE_FILE
    for gone in ("gone.mp4", "gone/a.mp4", f"file://{tmp_path}/gone.mp4"):
        assert _reason(gone, tmp_path)[0] == Reason.MISSING_FILE


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("https://example.org/a.mp4", "expected a path, file://, zip://, tar://, parquet://, s3://, gs://"),
        ("file://other/a.mp4", "on another machine"),
        ("zip://a.mp4", "expected zip://inside/clip.mp4::archive.zip"),
        ("zip://a.mp4::s3://bucket/a.zip", "expected zip://inside/clip.mp4::archive.zip"),
        ("s3://bucket", "expected s3://bucket/key"),
        ("s3://key:secret@bucket/a.mp4", "credentials are the environment's"),
    ],
)
def test_other_uris_are_refused(tmp_path: Path, uri: str, message: str) -> None:
    reason, detail = _reason(uri, tmp_path)
    assert reason == Reason.UNSUPPORTED_URI
    assert message in detail
    assert "secret" not in detail


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "clips" / "part.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("video/stored.mp4", b"stored" * 999)
        file.writestr("video/ünï::deflated.mp4", b"deflated" * 999, zipfile.ZIP_DEFLATED)
        file.writestr("bzip2.mp4", b"bzip2" * 999, zipfile.ZIP_BZIP2)
        file.mkdir("folder.mp4")
    return path


def test_members_are_read_in_place(archive: Path, tmp_path: Path) -> None:
    for name, content in {
        "video/stored.mp4": b"stored",
        "video/ünï::deflated.mp4": b"deflated",
        "bzip2.mp4": b"bzip2",
    }.items():
        uri = member_uri("clips/part.zip", name)
        assert _read(uri, tmp_path) == content * 999
        assert stamp(uri, str(tmp_path)) == f"{999 * len(content)}:{zipfile.crc32(content * 999):08x}"  # type: ignore[attr-defined]
        assert _read(member_uri(f"file://{archive}", name), tmp_path) == content * 999
    with localized("zip://bzip2.mp4::clips/part.zip", str(tmp_path)) as path:
        assert not path.is_relative_to(tmp_path / "clips")
    assert not path.exists()
    assert {file.name for file in archive.parent.iterdir()} == {"part.zip"}
    for gone in ("zip://folder.mp4/::clips/part.zip", "zip://stored.mp4::clips/part.zip", "zip://a.mp4::gone.zip"):
        assert _reason(gone, tmp_path)[0] == Reason.MISSING_FILE


def test_damaged_archives_are_unreadable(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    at = whole.index(b"stored" * 9)
    archive.write_bytes(whole[:at] + b"X" + whole[at + 1 :])
    with pytest.raises(RowError, match="Bad CRC-32") as caught:
        _read("zip://video/stored.mp4::clips/part.zip", tmp_path)
    assert caught.value.reason == Reason.UNREADABLE_FILE
    archive.write_bytes(whole[: len(whole) // 2])
    assert _reason("zip://bzip2.mp4::clips/part.zip", tmp_path)[0] == Reason.UNREADABLE_FILE
    encrypted = whole.replace(b"PK\3\4\x14\0\0\0", b"PK\3\4\x14\0\1\0", 1).replace(
        b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0", 1
    )
    archive.write_bytes(encrypted)
    with pytest.raises(RowError, match="encrypted"):
        _read("zip://video/stored.mp4::clips/part.zip", tmp_path)


def test_the_stamps_of_many_members_read_each_directory_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = [tmp_path / f"{number}.zip" for number in range(40)]
    for path in archives:
        with zipfile.ZipFile(path, "w") as file:
            for name in range(20):
                file.writestr(f"{name}.mp4", b"x")
    uris = [f"zip://{name}.mp4::{path.name}" for name in range(20) for path in archives]
    opened: list[Any] = []
    real: Callable[..., Any] = zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda path: opened.append(path) or real(path))
    found = stamps([*uris, "zip://no.mp4::0.zip", "gone.mp4", "ftp://x/a.mp4"], str(tmp_path))
    assert sorted(opened) == sorted(archives)
    assert len(found) == 803
    assert found["zip://no.mp4::0.zip"] == found["gone.mp4"] == "missing_file"
    assert found["ftp://x/a.mp4"] == "unsupported_uri"


class _S3(BaseHTTPRequestHandler):
    """As much of S3 as pyarrow's client asks for: HEAD, GET with a range, and an empty listing."""

    def _answer(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body) if length is None else length), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self) -> bool:
        """Whether the answer is an error that `REFUSED` names."""
        status = REFUSED.get((self.command, self._path()), 0)
        if status:
            # pyarrow tries for six seconds what it knows to be passing, such as SlowDown.
            code = "NoSuchBucket" if status == 404 else "ExpiredToken"
            said = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
            self._answer(status, b"" if self.command == "HEAD" else said.encode(), Content_Type="application/xml")
        return bool(status)

    def do_HEAD(self) -> None:
        if self._refuse():
            return
        assert "dummy-key" in self.headers["Authorization"]
        content = OBJECTS.get(self._path())
        modified = formatdate(1_700_000_000, usegmt=True)
        if self._path() == "/bucket/secret.mp4":
            self._answer(403)
        elif content is None:
            self._answer(404)
        else:
            self._answer(200, length=len(content), Last_Modified=modified, ETag='"x"')

    def do_GET(self) -> None:
        if self._refuse():
            return
        content = OBJECTS.get(self._path())
        if content is None:
            body = b'<?xml version="1.0"?><ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>'
            self._answer(200, body, Content_Type="application/xml")
            return
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1]
        self._answer(206, part, Content_Range=f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")

    def _path(self) -> str:
        return self.path.partition("?")[0].replace("%20", " ")

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A local server."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "dummy-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "dummy-secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _S3)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield ObjectStore(region="us-east-1", scheme="http", endpoint_override=f"127.0.0.1:{server.server_port}")
    REFUSED.clear()
    server.shutdown()
    server.server_close()


def test_objects_of_s3(s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = ObjectStores(s3=s3)
    content = OBJECTS["/bucket/a b.mp4"]
    uri = "s3://bucket/a%20b.mp4"
    assert hashlib.sha256(_read(uri, tmp_path, stores)).digest() == hashlib.sha256(content).digest()
    assert stamp(uri, "", stores) == f"{len(content)}:1700000000000000000"
    with localized(uri, "", stores) as path:
        assert path.name == "media.mp4"
    assert not path.exists()
    assert _read("s3://bucket/folder/empty.mp4", tmp_path, stores) == b""
    gone, secret = "s3://bucket/gone.mp4", "s3://bucket/secret.mp4"
    assert _reason(gone, tmp_path, stores)[0] == Reason.MISSING_FILE
    assert stamps([uri, gone], "", stores) == {uri: stamp(uri, "", stores), gone: "missing_file"}
    monkeypatch.setattr(faults, "WAITS_S", (0.0,))
    for use in (lambda: _read(secret, tmp_path, stores), lambda: stamps([uri, gone, secret], "", stores)):
        with pytest.raises(MachineError, match=r"ACCESS_DENIED.*see that the credentials are valid") as caught:
            use()
        assert "dummy" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403, 429, 503])
def test_a_store_that_refuses_is_no_object_s_fault(s3: ObjectStore, tmp_path: Path, status: int) -> None:
    """Credentials may expire, and servers be busy, between two reads; 400 is how some say that a token has expired."""
    uri, stores = "s3://bucket/a%20b.mp4", ObjectStores(s3=s3)
    REFUSED["GET", "/bucket/a b.mp4"] = status
    with pytest.raises(MachineError, match=r"AWS Error .*; see that the credentials are valid and the store answers"):
        _read(uri, tmp_path, stores)
    with pytest.raises(MachineError, match="AWS Error"), localized(uri, "", stores):
        pass
    REFUSED.clear()
    assert _read(uri, tmp_path, stores) == OBJECTS["/bucket/a b.mp4"]


def test_a_bucket_that_is_away_is_no_object_s_fault(s3: ObjectStore, tmp_path: Path) -> None:
    uri, stores = "s3://bucket/gone.mp4", ObjectStores(s3=s3)
    assert _reason(uri, tmp_path, stores)[0] == Reason.MISSING_FILE
    REFUSED["GET", "/bucket"] = 404
    for use in (stamp, lambda uri, root, stores: b"".join(chunks(uri, root, stores))):
        with pytest.raises(MachineError, match="there is no such bucket"):
            use(uri, "", stores)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "day").mkdir(parents=True)
    (root / "other.mp4").write_bytes(b"other")
    (root / "day" / "a.mp4").write_bytes(b"content")
    with zipfile.ZipFile(root / "day" / "part.zip", "w") as file:
        file.writestr("a.mp4", b"content")
    return root


URIS = ("day/a.mp4", "zip://a.mp4::day/part.zip")


@pytest.mark.parametrize("name", ["a.MP4", "a", "a.", ".mp4", "..mp4", "a.b/c", "a.mp4/", "a.mp4/.", "..", "", "é.ogv"])
def test_an_extension_is_that_of_pathlib(name: str) -> None:
    assert suffix(f"folder/{name}") == Path(f"folder/{name}").suffix.lower()


def test_whose_folder_is_there_is_told_of_each_however_it_is_written(clips: Path) -> None:
    there = ["day/a.mp4", "day/b.mp4", "./day/a.mp4", "no/", "day/../day/c.mp4", f"{clips}/day/d.mp4", "e.mp4", "day/."]
    assert with_folders(["no/a.mp4", "no/b.mp4", *there, "day/no/a.mp4", "/no/a.mp4"], str(clips)) == set(there)


@pytest.mark.parametrize("uri", URIS)
@pytest.mark.parametrize("emptied", [True, False])
def test_a_folder_that_was_there_is_away_and_its_files_not_missing(clips: Path, uri: str, emptied: bool) -> None:
    assert with_folders([*URIS, "no/a.mp4", "s3://b/k", "x://"], str(clips)) == set(URIS)
    (clips / "day").rename(clips / "elsewhere")
    if emptied:
        (clips / "day").mkdir()
    state = "is empty" if emptied else "is not there"
    for use in (lambda: check_not_away(uri, str(clips)), lambda: localized(uri, str(clips)).__enter__()):
        with pytest.raises(MachineError, match=rf"its folder \S+/root/day {state}; see that it is mounted"):
            use()
    assert _reason_of_unseen(uri, clips) == Reason.MISSING_FILE
    (clips / "day").mkdir(exist_ok=True)
    (clips / "day" / "b.mp4").touch()
    with pytest.raises(RowError) as caught, localized(uri, str(clips)):
        pass
    assert caught.value.reason == Reason.MISSING_FILE


def _reason_of_unseen(uri: str, root: Path) -> Reason:
    with pytest.raises(RowError) as caught:
        stamp(uri, str(root))
    with pytest.raises(RowError) as again:
        b"".join(chunks(uri, str(root)))
    assert caught.value.reason == again.value.reason
    return caught.value.reason


@pytest.mark.parametrize("uri", URIS)
@pytest.mark.parametrize("emptied", [True, False])
def test_a_media_root_that_is_away_is_no_file_s_fault(
    clips: Path, uri: str, emptied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "WAITS_S", ())
    clips.rename(clips.with_name("elsewhere"))
    if emptied:
        clips.mkdir()
    looks = (lambda: stamp(uri, str(clips)), lambda: stamps([uri], str(clips)))
    if emptied:  # a plan may be made before the files are there
        assert stamps([uri], str(clips)) == {uri: "missing_file"}
    for use in (
        *(() if emptied else looks),
        lambda: b"".join(chunks(uri, str(clips))),
        lambda: localized(uri, str(clips)).__enter__(),
    ):
        with pytest.raises(MachineError, match=rf"its folder \S+/root is {'empty' if emptied else 'not there'}; see"):
            use()


def test_a_link_into_a_mount_that_is_away(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount" / "a.mp4").write_bytes(b"content")
    (clips / "link.mp4").symlink_to(tmp_path / "mount" / "a.mp4")
    assert _read("link.mp4", clips) == b"content"
    (tmp_path / "mount" / "a.mp4").unlink()
    with pytest.raises(MachineError, match="mount is empty"), localized("link.mp4", str(clips)):
        pass
    assert _reason_of_unseen("link.mp4", clips) == Reason.MISSING_FILE


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE, errno.ETIMEDOUT])
@pytest.mark.parametrize("uri", URIS)
def test_what_the_system_refuses_is_no_file_s_fault(
    clips: Path, uri: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in ("open", "stat"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, refuse)
            with pytest.raises(MachineError, match=f"{os.strerror(number)}; .* the same command continues"):
                b"".join(chunks(uri, str(clips)))


def test_a_decoder_is_not_believed_while_the_file_cannot_be_read(clips: Path) -> None:
    refused = RowError(Reason.DECODE_ERROR, "pyav: moov atom not found")
    with pytest.raises(RowError, match="moov"), localized("day/a.mp4", str(clips)):
        raise refused

    def decode(meanwhile: Callable[[], object]) -> None:
        with localized("day/a.mp4", str(clips)):
            meanwhile()
            raise refused

    with pytest.raises(MachineError, match="is not there; see that it is mounted"):
        decode(lambda: (clips / "day").rename(clips / "elsewhere"))
    (clips / "elsewhere").rename(clips / "day")
    with pytest.raises(RowError, match="no such file") as caught:
        decode((clips / "day" / "a.mp4").unlink)
    assert caught.value.reason == Reason.MISSING_FILE


def test_a_full_or_lost_temporary_directory_is_no_file_s_fault(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(clips / "large.zip", "w") as file:
        file.writestr("a.mp4", os.urandom(1 << 20))
    small = tmp_path / "small"
    small.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(small / "none"))
    with (
        pytest.raises(MachineError, match=r"no temporary copy of zip://a.mp4\S+ \(TMPDIR\): No such file"),
        localized("zip://a.mp4::large.zip", str(clips)),
    ):
        pass
    monkeypatch.setattr("tempfile.tempdir", str(small))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with (
            pytest.raises(MachineError, match=r"\(TMPDIR\): No space left on device; free some space"),
            localized("zip://a.mp4::large.zip", str(clips)),
        ):
            pass
        assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_damaged_member_of_any_compression_is_unreadable(tmp_path: Path) -> None:
    for kind in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = tmp_path / f"{kind}.zip"
        with zipfile.ZipFile(path, "w", kind) as file:
            file.writestr("a.mp4", os.urandom(4096))
        whole = bytearray(path.read_bytes())
        whole[60:2000] = bytes(1940)
        path.write_bytes(whole)
        with pytest.raises(RowError) as caught:
            _read(f"zip://a.mp4::{path.name}", tmp_path)
        assert caught.value.reason == Reason.UNREADABLE_FILE


def test_a_file_that_is_back_before_its_folder_is_looked_at_is_not_missing(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = media._stat

    def late(path: Path) -> os.stat_result:
        monkeypatch.setattr(media, "_stat", real)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    for uri in URIS:
        monkeypatch.setattr(media, "_stat", late)
        with pytest.raises(MachineError, match="it was away for a moment"):
            b"".join(chunks(uri, str(clips)))
    with pytest.raises(MachineError, match="it was away for a moment"):
        check_not_away(URIS[0], str(clips))


def test_a_row_names_no_server(s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contacted: list[str] = []
    monkeypatch.setattr(media, "_filesystem", lambda store, anonymous: contacted.append(store))
    rows = [
        f"s3://bucket/a.mp4?scheme=http&endpoint_override={s3.endpoint_override}", "gs://bucket/a.mp4?endpoint_override=x",
        "s3://bucket/a.mp4?region=eu-west-1", "s3://bucket/a.mp4?REGION=x", "s3://bucket/a.mp4?x", "s3://bucket/a.mp4?=&",
        "s3://bucket:80/a.mp4", "s3://buck%2fet/a.mp4", "s3://evil.example#/a.mp4", "s3://@/a.mp4", "s3:///a.mp4",
    ]  # fmt: skip
    for uri in rows:
        reason, detail = _reason(uri, tmp_path)
        assert reason == Reason.UNSUPPORTED_URI, uri
        assert str(s3.endpoint_override) not in detail
    assert set(stamps(rows, str(tmp_path)).values()) == {"unsupported_uri"}
    assert _reason(rows[0], tmp_path)[1] == (
        "s3://bucket/a.mp4: a row names no server or options (endpoint_override, scheme): set "
        "runtime.object_stores.s3, or allow them by name with runtime.object_stores.row_options"
    )
    some = ObjectStores(row_options=("region",))
    assert "options (endpoint_override, scheme)" in _reason(rows[0] + "&region=x", tmp_path, some)[1]
    assert contacted == []


def test_rows_may_name_what_the_config_allows(s3: ObjectStore, tmp_path: Path) -> None:
    stores = ObjectStores(s3=ObjectStore(region="nowhere", scheme="http"), row_options=("region", "endpoint_override"))
    uri = f"s3://bucket/folder/empty.mp4?region=us-east-1&endpoint_override={s3.endpoint_override}"
    assert _read(uri, tmp_path, stores) == b""


def test_no_credentials_are_sent_where_the_config_says_so(s3: ObjectStore) -> None:
    # The server asserts that every question is signed.
    nobody = ObjectStores(s3=s3.model_copy(update={"anonymous": True}))
    with pytest.raises(MachineError, match="NETWORK_CONNECTION"):
        stamp("s3://bucket/a%20b.mp4", "", nobody)


@pytest.mark.parametrize("place", ["/proc/self/environ", "/sys/kernel/mm/transparent_hugepage/enabled"])
def test_what_the_system_makes_up_is_no_media(tmp_path: Path, place: str) -> None:
    if not Path(place).is_file():
        pytest.skip(f"no {place}")
    (tmp_path / "a.mp4").symlink_to(place)
    for uri in (place, f"file://{place}", "a.mp4", f"zip://a.mp4::{place}"):
        assert _reason(uri, tmp_path) == (
            Reason.UNREADABLE_FILE, f"{uri}: the system makes this up (/proc, /sys, /dev), it is no file"
        )  # fmt: skip


def test_a_member_is_read_and_never_unpacked_under_its_name(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "root"
    root.mkdir(parents=True)
    names = ("../../evil.mp4", "/srv/evil.mp4", "a/../b.mp4")
    with zipfile.ZipFile(root / "part.zip", "w") as archive:
        for name in names:
            archive.writestr(name, name)
    for name in names:
        assert _read(f"zip://{name}::part.zip", root) == name.encode()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["part.zip"]
