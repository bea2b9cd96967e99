from __future__ import annotations

import errno
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.folders import (
    COVER,
    HIDDEN,
    LINKED,
    NO_FILE,
    NO_SUFFIX,
    UNREADABLE,
    Scan,
    said,
    scan,
)


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_every_kind_of_video_and_image_is_a_clip(tmp_path: Path) -> None:
    kinds = (
        "mp4 wmv flv 3gp 3g2 m2ts mts ogv asf vob f4v mxf mpe m1v m2v dv rm rmvb divx webm y4m h264 264 hevc 265 ivf "
        "nut mjpg apng gif M4V TS png jfif jpe avif heic webp jp2 exr hdr ppm BMP tga jxl dib"
    )
    names = [f"{number:02}.{kind}" for number, kind in enumerate(kinds.split())]
    _touch(tmp_path, *names)
    assert scan(tmp_path) == Scan(tuple(names), (), ())


def test_what_is_no_clip_is_counted(tmp_path: Path) -> None:
    _touch(
        tmp_path,
        "a.mp4", "a.txt", "a.json", "a.jpg", "a.mp4.webp", "b/a.jpg", "b/a.txt", "b/alone.txt", "README", "part.zip",
        ".trash/x.mp4", ".trash/deep/y.wmv", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/b/._a.jpg", "._a.mp4",
        ".DS_Store", "b/Thumbs.db", "@eaDir/a.mp4/SYNOVIDEO.jpg", ".git/objects/00/1",
    )  # fmt: skip
    found = scan(tmp_path)
    assert found.media == ("a.mp4", "b/a.jpg")
    assert found.sidecars == ("a.txt", "b/a.txt")
    assert found.left_out == (
        (".json", "a.json"), (".txt", "b/alone.txt"), (".zip", "part.zip"), (COVER, "a.jpg"), (COVER, "a.mp4.webp"),
        *((HIDDEN, name) for name in (
            ".DS_Store", "._a.mp4", ".git/objects/00/1", ".ipynb_checkpoints/a-checkpoint.png", ".trash/deep/y.wmv",
            ".trash/x.mp4", "@eaDir/a.mp4/SYNOVIDEO.jpg", "__MACOSX/b/._a.jpg", "b/Thumbs.db",
        )),
        (NO_SUFFIX, "README"),
    )  # fmt: skip
    assert said(found.left_out).startswith(f"9 {HIDDEN} (.DS_Store); 2 {COVER} (a.jpg); 1 .json (a.json)")


def test_links_and_what_is_no_file(tmp_path: Path) -> None:
    folder, other = tmp_path / "clips", tmp_path / "other"
    _touch(other, "c.mkv", "part/d.mp4")
    _touch(folder, "sub/a.mp4")
    (folder / "c.mkv").symlink_to(other / "c.mkv")
    (folder / "gone.mp4").symlink_to("nowhere.mp4")
    (folder / "itself.mov").symlink_to("itself.mov")
    (folder / "gone.json").symlink_to("nowhere.json")
    (folder / "part").symlink_to(other / "part")
    (folder / "sub" / "back").symlink_to(folder)
    (folder / ".old").symlink_to(other)
    os.mkfifo(folder / "pipe.mp4")
    (folder / "device.png").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket.gif"))
    found = scan(folder)
    assert found.media == ("c.mkv", "gone.mp4", "itself.mov", "sub/a.mp4")
    assert found.left_out == (
        (".json", "gone.json"), (HIDDEN, ".old"), (LINKED, "part"), (LINKED, "sub/back"),
        (NO_FILE, "device.png"), (NO_FILE, "pipe.mp4"), (NO_FILE, "socket.gif"),
    )  # fmt: skip
    (tmp_path / "linked").symlink_to(folder)
    assert scan(tmp_path / "linked") == found


def test_a_folder_that_cannot_be_read_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path, "a.mp4", "closed/b.mp4")
    look = os.scandir

    def refuse(path: str | Path) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert scan(tmp_path) == Scan(("a.mp4",), (), ((UNREADABLE, "closed"),))


NAMES = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["a", "b", "a.mp4", ".h", "é", "A b", "__MACOSX", "#1"]),
        st.sampled_from(["", ".mp4", ".wmv", ".png", ".jpg", ".txt", ".json", ".MP4", "/"]),
    ),
).map(lambda name: name.strip("/"))


@settings(max_examples=60)
@given(st.sets(st.lists(NAMES, min_size=1, max_size=3).map(tuple), max_size=12), st.sets(NAMES, max_size=3))
def test_rows_sidecars_and_what_is_counted_are_all_there_is(
    tmp_path_factory: pytest.TempPathFactory, paths: set[tuple[str, ...]], links: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    for path in sorted(paths, key=len, reverse=True):
        file = folder.joinpath(*path)
        if not file.exists() and not any(parent.is_file() for parent in file.parents):
            _touch(folder, "/".join(path))
    for name in links:
        if not (folder / name).exists():
            (folder / name).symlink_to(folder)
    every = {
        os.path.relpath(os.path.join(place, name), folder)
        for place, folders, files in os.walk(folder)
        for name in (*folders, *files)
        if name in files or os.path.islink(os.path.join(place, name))
    }
    found = scan(folder)
    told = [*found.media, *found.sidecars, *(path for _, path in found.left_out)]
    assert sorted(told) == sorted(every)
    # Another order of directories, the same clips.
    copy = folder.with_name(f"{folder.name}-copy")
    for name in sorted(every, reverse=True):
        if not (folder / name).is_symlink():
            _touch(copy, name)
    if copy.exists():
        assert scan(copy).media == found.media
        shutil.rmtree(copy)
