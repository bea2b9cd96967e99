from __future__ import annotations

from pathlib import Path

import pytest

from curation.manifests import ManifestError, check_manifest, clip_id, external_digest, local_path, read_manifest
from curation.schema import RowError


def _csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my clips.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_is_read_with_its_unknown_columns(tmp_path: Path) -> None:
    path = _csv(tmp_path, '\ufeffsource,video , caption,views\nweb,a.mp4,"one, two",7\n,b/C.PNG,Ünï,\n')
    manifest = read_manifest(path)
    assert manifest.root == tmp_path
    first, second = manifest.rows
    assert (first.uri, first.media, first.source, first.caption, first.extra) == (
        "a.mp4", "video", "web", "one, two", '{"views": "7"}'
    )  # fmt: skip
    assert (second.media, second.source, second.caption) == ("image", "clips", "Ünï")
    assert check_manifest(path) == ("clips", "web")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,caption\na.mp4,x\n", "lacks the columns video, source; it has file, caption"),
        ("", "lacks the columns video, caption, source; it has none"),
        ("video,caption,source\n", "has a header but no rows"),
        ("video,caption,source\na.mp4,x,y\n,x,y\n", "line 3: the column video is empty"),
        ("video,caption,source\na.mp4,x,y,z\n", "line 2: the number of cells differs"),
        ("video,caption,source\na.mp4,x\n", "line 2: the number of cells differs"),
    ],
)
def test_a_bad_csv_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        check_manifest(_csv(tmp_path, text))


def test_a_folder_is_scanned(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="does not exist"):
        check_manifest(tmp_path / "nowhere")
    with pytest.raises(ManifestError, match="holds no video"):
        check_manifest(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    for name in ("b/a_red-ball.MP4", "a.mkv", "notes.md"):
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_text("from the sidecar\n")
    manifest = read_manifest(tmp_path)
    assert [(row.uri, row.caption) for row in manifest.rows] == [
        ("a.mkv", "from the sidecar"), ("b/a_red-ball.MP4", "a red ball")
    ]  # fmt: skip
    assert manifest.sources == ("clips",)
    (tmp_path / "clips.csv").write_text("video,caption,source\na.mkv,x,y\n")
    assert check_manifest(tmp_path) == ("y",)


def test_what_a_plan_can_know_changes_with_rows_and_files(tmp_path: Path) -> None:
    path = _csv(tmp_path, "video,caption,source\na.mp4,x,y\ngone.mp4,x,y\ns3://b/c.mp4,x,y\n")
    missing = external_digest(path)
    (tmp_path / "a.mp4").write_bytes(b"1")
    present = external_digest(path)
    (tmp_path / "a.mp4").write_bytes(b"12")
    digests = {missing, present, external_digest(path)}
    assert len(digests) == 3
    assert external_digest(path) in digests


def test_identity_is_content_and_span() -> None:
    ids = [clip_id("aa", None, None), clip_id("ab", None, None), clip_id("aa", 0, 1), clip_id("aa", None, None, 1)]
    assert len(set(ids)) == 4
    assert all(len(name) == 32 for name in ids)


def test_uris(tmp_path: Path) -> None:
    assert local_path("a b.mp4", "/root") == Path("/root/a b.mp4")
    assert local_path("/x/a.mp4", "/root") == Path("/x/a.mp4")
    assert local_path("file:///x/a%20b.mp4", "/root") == Path("/x/a b.mp4")
    with pytest.raises(RowError, match="only local files"):
        local_path("s3://b/c.mp4", "/root")
