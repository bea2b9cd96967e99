"""What is promised of objects, below a directory and in a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.engine.store.bucket import Bucket
from pipelines.engine.store.objects import LocalObjects, Objects


@pytest.fixture(params=["directory", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "bucket":
        return Bucket(request.getfixturevalue("s3_store"))
    (tmp_path / "runs").mkdir()
    return LocalObjects(tmp_path)


def keys(objects: Objects, prefix: str) -> list[str]:
    return sorted(entry.key for entry in objects.entries(prefix))


def test_records_are_created_once_and_replaced_as_last_seen(objects: Objects) -> None:
    assert objects.read("runs/x.json") is None
    tag = objects.create("runs/x.json", "one")
    assert tag is not None
    assert objects.create("runs/x.json", "two") is None
    newer = objects.replace("runs/x.json", "three", tag)
    assert newer is not None
    assert objects.replace("runs/x.json", "four", tag) is None
    found = objects.read("runs/x.json")
    assert found is not None
    assert (found.text, found.tag) == ("three", newer)
    objects.remove("runs/x.json", tag)
    assert "runs/x.json" in keys(objects, "runs")
    objects.remove("runs/x.json", newer)
    objects.remove("runs/x.json")
    assert objects.read("runs/x.json") is None
    assert objects.replace("runs/x.json", "five", newer) is None


def test_objects_are_put_listed_and_renamed_with_all_their_bytes(objects: Objects) -> None:
    assert objects.get("a/b/x") is None
    assert objects.folders("a") == objects.entries("a") == []
    objects.put("a/b/x", b"\xff\x00", sync=True)
    objects.put("a/c/d/y", "text")
    objects.put("a/z", "text")
    assert objects.get("a/b/x") == b"\xff\x00"
    assert objects.folders("a") == ["b", "c"]
    assert keys(objects, "a") == ["a/b/x", "a/c/d/y", "a/z"]
    assert {entry.bytes for entry in objects.entries("a/b")} == {2}
    objects.rename("a/z", "a/w")
    objects.rename("a/z", "a/v")
    assert keys(objects, "a") == ["a/b/x", "a/c/d/y", "a/w"]
    found = objects.read("a/w")
    assert found is not None
    assert found.text == "text"


def test_nothing_behind_a_link_is_an_object(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    objects.put("out/x", "1")
    (tmp_path / "out" / "file").symlink_to(tmp_path / "out" / "x")
    (tmp_path / "out" / "folder").symlink_to(tmp_path)
    found = {entry.key: entry.bytes for entry in objects.entries("out")}
    assert found == {"out/x": 1, "out/file": None, "out/folder": None}
    assert keys(objects, "out/x") == []
