from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation import manifests
from curation.folders import LINKED, NO_FILE
from curation.manifest_formats import IngestConfig
from curation.manifest_mistakes import ManifestError
from curation.manifests import INGEST_OPERATOR, clip_id, external_digest, read_manifest
from curation.operator import Env, Input
from lumina.video import write_h264
from tests.curation.in_memory import computed


def _csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my clips.csv"
    path.write_text(text, encoding="utf-8")
    return path


def _ingest(path: Path, config: IngestConfig | None = None) -> list[dict[str, Any]]:
    """The rows of the operator, run on one unit of work."""
    config = config or IngestConfig()
    env = Env(str(manifests.media_root(path, config)))
    rows: list[dict[str, Any]] = computed(INGEST_OPERATOR, {"manifest": Input(path)}, config, env).to_pylist()
    return rows


def test_a_csv_is_read_with_its_unknown_columns(tmp_path: Path) -> None:
    path = _csv(tmp_path, '\ufeffsource,video , caption,views\nweb,a.mp4,"one, two",7\n,b/C.PNG,Ünï,\n')
    manifest = read_manifest(path)
    assert manifest.root == tmp_path
    first, second = manifest.rows
    assert (first.uri, first.media, first.source, first.caption, first.extra) == (
        "a.mp4", "video", "web", "one, two", '{"views": "7"}'
    )  # fmt: skip
    assert (second.media, second.source, second.caption) == ("image", "clips", "Ünï")
    assert manifest.sources == ("clips", "web")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip,words\na.mp4,x\n", r"lacks the columns video \(or path.*\) and caption \(or .*it has clip, words"),
        ("", "lacks the columns .*it has none"),
        ("video,caption,source\n", "has a header but no rows"),
        ("video,caption,source\na.mp4,x,y\n,x,y\n", "line 3: the column video is empty"),
        ("video,caption,source\na.mp4,x,y,z\n", "line 2: the number of cells differs"),
        ("video,caption,source\na.mp4,x\n", "line 2: the number of cells differs"),
        ("video,caption,video\na.mp4,x,b.mp4\n", r"has the column\(s\) video twice"),
        ("video,caption\ns3://me:secret@b/a.mp4,x\n", "line 2: the URI holds a user or password"),
        ("video,caption,span_start_s,span_end_s\na.mp4,x,1,\n", "line 2: the span is 1.0 to None seconds"),
        ("video,caption,span_start_s,span_end_s\na.mp4,x,2,2\n", "line 2: the span is 2.0 to 2.0 seconds; expected 0"),
        ("video,caption,span_start_s,span_end_s\na.mp4,x,-1,2\n", "line 2: the span is -1.0 to 2.0"),
        ("video,caption,span_start_s,span_end_s\na.mp4,x,nan,2\n", "line 2: span_start_s is 'nan', expected seconds"),
        ("video,caption,span_start_s,span_end_s\na.png,x,1,2\n", "line 2: an image has no span"),
    ],
)
def test_a_bad_csv_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(_csv(tmp_path, text))
    assert "secret" not in str(caught.value)


def test_a_folder_is_scanned(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="does not exist"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(ManifestError, match="holds no video"):
        read_manifest(tmp_path)
    (tmp_path / "data.json").touch()
    with pytest.raises(ManifestError, match=r"no video, no image and no clips.csv; of other .* 1 .json \(data.json\)"):
        read_manifest(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    for name in ("b/a_red-ball.MP4", "a.mkv", "notes.md", "still.jpe"):
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_text("from the sidecar\n")
    os.mkfifo(tmp_path / "pipe.mp4")
    manifest = read_manifest(tmp_path)
    assert [(row.uri, row.media, row.caption) for row in manifest.rows] == [
        ("a.mkv", "video", "from the sidecar"), ("b/a_red-ball.MP4", "video", "a red ball"),
        ("still.jpe", "image", "still"),
    ]  # fmt: skip
    assert manifest.left_out == (
        (".json", "data.json"), (".md", "notes.md"), (LINKED, "b/loop"), (NO_FILE, "pipe.mp4")
    )  # fmt: skip
    assert manifest.sources == ("clips",)
    with pytest.raises(ManifestError, match="media_dir has no meaning for the bare folder"):
        read_manifest(tmp_path, IngestConfig(media_dir=Path("b")))
    (tmp_path / "clips.csv").write_text("video,caption,source\na.mkv,x,y\n")
    assert read_manifest(tmp_path).sources == ("y",)
    assert read_manifest(tmp_path, IngestConfig(format="folder")).sources == ("clips",)
    (tmp_path / "clips.jsonl").write_text("{}")
    with pytest.raises(ManifestError, match=r"holds clips.csv, clips.jsonl: give the path"):
        read_manifest(tmp_path)


def test_a_folder_whose_manifest_was_not_fetched_is_not_scanned_instead(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "clips.csv").symlink_to("../blobs/2222")
    with pytest.raises(ManifestError, match=r"clips.csv is a link to ../blobs/2222, which does not exist: fetch it"):
        read_manifest(tmp_path)


def test_what_a_plan_can_know_changes_with_rows_and_files(tmp_path: Path) -> None:
    path = _csv(tmp_path, "video,caption,source\na.mp4,x,y\ngone.mp4,x,y\nhttp://b/c.mp4,x,y\n")
    missing = external_digest(read_manifest(path))
    (tmp_path / "a.mp4").write_bytes(b"1")
    present = external_digest(read_manifest(path))
    (tmp_path / "a.mp4").write_bytes(b"12")
    digests = {missing, present, external_digest(read_manifest(path))}
    assert len(digests) == 3
    assert external_digest(read_manifest(path)) in digests


def test_the_kind_of_media_is_told_by_the_content(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), "red")
    rest = [Image.new("RGB", (16, 16), "blue")]
    image.save(tmp_path / "still.mp4", format="PNG")
    image.save(tmp_path / "still", format="JPEG")
    image.save(tmp_path / "still.gif")
    image.save(tmp_path / "moves.png", save_all=True, append_images=rest)
    image.save(tmp_path / "moves.gif", save_all=True, append_images=rest)
    write_h264(tmp_path / "film.mp4", np.zeros((5, 16, 16, 3), np.uint8), 8)
    (tmp_path / "film.mp4").rename(tmp_path / "film.jpg")
    names = ["still.mp4", "still", "still.gif", "moves.png", "moves.gif", "film.jpg"]
    rows = _ingest(_csv(tmp_path, "video,caption\n" + "".join(f"{name},x\n" for name in names)))
    assert [row["media"] for row in rows] == ["image", "image", "image", "video", "video", "video"]
    rows = _ingest(_csv(tmp_path, "video,caption,span_start_s,span_end_s\nstill.mp4,x,0,1\nmoves.gif,x,0,1\n"))
    assert [(row["status"], row["reason"]) for row in rows] == [("quarantined", "no_video_stream"), ("ok", None)]
    assert "still.mp4: the content is an image, which has no span" in rows[0]["detail"]


def test_empty_files_and_links_to_nowhere_are_quarantined_each(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.wmv", "c.png"):
        (tmp_path / name).touch()
    (tmp_path / "d.mp4").symlink_to("nowhere.mp4")
    rows = _ingest(tmp_path)
    assert [(row["uri"], row["status"], row["reason"]) for row in rows] == [
        ("a.mp4", "quarantined", "unreadable_file"), ("b.wmv", "quarantined", "unreadable_file"),
        ("c.png", "quarantined", "unreadable_file"), ("d.mp4", "quarantined", "missing_file"),
    ]  # fmt: skip
    assert rows[1]["detail"] == "b.wmv: the file is empty (0 bytes)"


def test_identity_is_content_and_span() -> None:
    ids = [clip_id("aa", None, None), clip_id("ab", None, None), clip_id("aa", 0, 1), clip_id("aa", None, None, 1)]
    assert len(set(ids)) == 4
    assert all(len(name) == 32 for name in ids)


def test_a_file_is_read_once_for_its_spans_and_repeats_are_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"one")
    (tmp_path / "copy.mp4").write_bytes(b"one")
    lines = ["a.mp4,0,1", "copy.mp4,0,1", "a.mp4,1,2.5", "gone.mp4,0,1", "a.mp4,,", "gone.mp4,1,2"]
    path = _csv(tmp_path, "video,span_start_s,span_end_s,caption\n" + "".join(f"{line},x\n" for line in lines))
    opened: list[str] = []
    read: Callable[..., Any] = manifests.chunks
    monkeypatch.setattr(manifests, "chunks", lambda uri, *where: opened.append(uri) or read(uri, *where))
    rows = _ingest(path)
    assert sorted(opened) == ["a.mp4", "copy.mp4", "gone.mp4"]
    assert [(row["uri"], row["span_start_s"], row["span_end_s"], row["reason"]) for row in rows] == [
        ("a.mp4", 0, 1, None), ("copy.mp4", 0, 1, "duplicate_content"), ("a.mp4", 1, 2.5, None),
        ("gone.mp4", 0, 1, "missing_file"), ("a.mp4", None, None, None), ("gone.mp4", 1, 2, "missing_file"),
    ]  # fmt: skip
    assert len({row["clip_id"] for row in rows}) == len(rows)
    assert rows[0]["clip_id"] == clip_id(hashlib.sha256(b"one").hexdigest(), 0, 1)
    assert rows[1]["detail"].startswith("same content and span as a.mp4, which is kept")


def test_openvid_is_read_from_its_zip_parts(tmp_path: Path) -> None:
    header = "video,caption,aesthetic score,motion score,temporal consistency score,camera motion,frame,fps,seconds"
    numbers = "5.1,2.0,0.98,pan_left,120,24.0,5.0"
    names = ["one.mp4", "two.mp4", "loose.mp4", "gone.mp4"]
    path = tmp_path / "data" / "OpenVid-1M.csv"
    path.parent.mkdir()
    path.write_text("".join(f"{line}\n" for line in [header, *(f"{name},about {name},{numbers}" for name in names)]))
    parts = tmp_path / "parts"
    parts.mkdir()
    for part, members in {10: ["two.mp4", "extra.mp4"], 2: ["one.mp4", "two.mp4"]}.items():
        with zipfile.ZipFile(parts / f"OpenVid_part{part}.zip", "w") as archive:
            archive.mkdir("video")
            for name in members:
                archive.writestr(f"video/{name}", f"{name} {part}" * 99, zipfile.ZIP_DEFLATED)
    (parts / "loose.mp4").write_bytes(b"loose")
    config = IngestConfig(media_dir=Path("../parts"), default_source="openvid")
    manifest = read_manifest(path, config)
    assert [row.uri for row in manifest.rows] == [
        "zip://video/one.mp4::OpenVid_part2.zip", "zip://video/two.mp4::OpenVid_part2.zip", "loose.mp4", "gone.mp4"
    ]  # fmt: skip
    assert manifest.sources == ("openvid",)
    assert json.loads(manifest.rows[0].extra)["aesthetic score"] == "5.1"
    assert manifest.unreferenced == (
        "zip://video/extra.mp4::OpenVid_part10.zip", "zip://video/two.mp4::OpenVid_part10.zip"
    )  # fmt: skip
    rows = _ingest(path, config)
    assert [row["reason"] for row in rows] == [None, None, None, "missing_file"]
    assert rows[0]["sha256"] == hashlib.sha256(b"one.mp4 2" * 99).hexdigest()
    before = external_digest(read_manifest(path, config))
    (parts / "OpenVid_part11.zip").write_bytes(b"half a download")
    with pytest.raises(ManifestError, match=r"OpenVid_part11.zip cannot be read .*fetch it again"):
        read_manifest(path, config)
    with zipfile.ZipFile(parts / "OpenVid_part11.zip", "w") as archive:
        archive.writestr("gone.mp4", b"found")
    assert external_digest(read_manifest(path, config)) != before
    assert [row["reason"] for row in _ingest(path, config)] == [None] * 4


def test_a_hundred_thousand_rows_are_read_in_seconds(tmp_path: Path) -> None:
    count = 100_000
    table = pa.table({"path": [f"{n}.mp4" for n in range(count)], "text": ["words"] * count, "n": list(range(count))})
    pq.write_table(table, tmp_path / "clips.parquet")
    manifest = read_manifest(tmp_path / "clips.parquet")
    assert len(manifest.rows) == count
    assert (manifest.rows[-1].uri, manifest.rows[-1].extra) == ("99999.mp4", '{"n": 99999}')
