from __future__ import annotations

import io
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lumina.files import sha256_file
from pipelines.engine.store.bucket import Bucket, Tag
from pipelines.errors import GoneError, StoreError


def test_a_repeated_write_of_ones_own_has_succeeded(s3_store: str) -> None:
    bucket = Bucket(s3_store)
    tag = bucket.create("x", "mine")
    assert tag is not None
    assert bucket.create("x", "mine") == tag
    newer = bucket.replace("x", "newer", tag)
    assert bucket.replace("x", "newer", tag) == newer


def test_of_sixteen_writers_one_wins(s3_store: str) -> None:
    barrier = threading.Barrier(16)

    def write(number: int) -> bool:
        bucket = Bucket(s3_store)
        barrier.wait()
        return bucket.create("MANIFEST.json", f"by {number}") is not None

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(write, range(16)))
    assert sum(won) == 1
    found = Bucket(s3_store).read("MANIFEST.json")
    assert found is not None
    assert found.text == f"by {won.index(True)}"


def test_files_of_any_size_come_back(s3_store: str, tmp_path: Path) -> None:
    bucket = Bucket(s3_store)
    for size in (0, 1, 12_000_000):
        (tmp_path / "there").write_bytes(b"x" * size)
        bucket.upload(tmp_path / "there", f"a/{size}/b.bin")
        digest = bucket.download(f"a/{size}/b.bin", tmp_path / "back")
        assert digest == sha256_file(tmp_path / "there") == sha256_file(tmp_path / "back")
    assert bucket.folders("a") == ["0", "1", "12000000"]
    with pytest.raises(StoreError, match=r"some/prefix/none is not there"):
        bucket.download("none", tmp_path / "back")


def test_of_an_open_object_only_what_is_read_is_asked_for(s3_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket(s3_store)
    bucket.put("a/b", "0123456789")
    asked: list[tuple[int, int]] = []
    read_range = Bucket.read_range

    def noting(self: Bucket, key: str, start: int, length: int) -> bytes:
        asked.append((start, length))
        return read_range(self, key, start, length)

    monkeypatch.setattr(Bucket, "read_range", noting)
    file = bucket.open("a/b", 10)
    assert file.read(2) == b"01"
    file.seek(-3, io.SEEK_END)
    assert file.read(100) == b"789"
    assert (file.tell(), file.read(1)) == (10, b"")
    assert asked == [(0, 2), (7, 3)]
    with pytest.raises(GoneError, match="some/prefix/none is not there"):
        bucket.open("none", 10).read(1)


def test_an_endpoint_without_conditional_writes_is_refused(s3_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Bucket(s3_store).check()
    assert Bucket(s3_store).entries("") == []
    put = Bucket._put

    def ignore(self: Bucket, key: str, text: str, mode: Any) -> Tag | None:
        self.put(key, text)
        return put(self, f"{key}-tag", text, "create") or {"e_tag": "x"}

    monkeypatch.setattr(Bucket, "_put", ignore)
    with pytest.raises(StoreError, match="does not honour conditional writes"):
        Bucket(s3_store).check()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://", "names no bucket"),
        ("s3://bucket/x?regoin=eu-west-1", "unknown option 'regoin'; known are: region, endpoint_override, scheme"),
        ("gs://bucket/x?region=eu", "unknown option 'region'; known are: none"),
    ],
)
def test_uris_that_are_wrong_are_told(uri: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        Bucket(uri)


def test_a_bucket_that_is_not_there_is_told(s3_store: str) -> None:
    bucket = Bucket(s3_store.replace("s3://", "s3://no-"))
    with pytest.raises(StoreError, match="there is no such bucket"):
        bucket.check()
    with pytest.raises(StoreError, match="there is no such bucket"):
        bucket.read("x")


def test_without_obstore_the_error_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(StoreError, match=r"pip install 'lumina-video\[s3\]'"):
        Bucket("s3://bucket/x")
