"""What leaves the folder that was named is refused by name, and nothing of it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curation.manifest_mistakes import ManifestError
from curation.manifests import INGEST_OPERATOR, IngestConfig, read_manifest
from curation.operator import Env, Input
from lumina.links import leads_out
from tests.curation.in_memory import computed

SECRET = "aws_secret_access_key = marked-7731"  # noqa: S105 - none


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the one that is named."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "credentials").write_text(SECRET)
    (folder / "x.mp4").write_bytes(b"another's film")
    (tmp_path / "clips").mkdir()
    return folder


def _rows(path: Path, root: Path, **config: Any) -> list[dict[str, Any]]:
    settings = IngestConfig(**config)
    env = Env(str(root))
    rows: list[dict[str, Any]] = computed(INGEST_OPERATOR, {"manifest": Input(path)}, settings, env).to_pylist()
    return sorted(rows, key=lambda row: row["uri"])


def test_links_that_leave_the_folder_are_refused_by_name(outside: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    (clips / "sub").mkdir()
    (clips / "sub" / "own.mp4").write_bytes(b"own")
    (clips / "a.mp4").symlink_to("sub/own.mp4")
    (clips / "b.mp4").symlink_to(outside / "x.mp4")
    (clips / "c.mp4").symlink_to("b.mp4")
    (clips / "d.mp4").symlink_to("../outside/x.mp4")
    (clips / "gone.mp4").symlink_to(outside / "gone.mp4")
    (clips / "s3.csv").write_text("a link to a folder")
    found = {row["uri"]: (row["reason"], row["detail"]) for row in _rows(clips, clips)}
    assert [uri for uri, (reason, _) in found.items() if reason == "leads_outside"] == ["b.mp4", "c.mp4", "d.mp4"]
    assert found["gone.mp4"][0] == "missing_file"
    assert {found["a.mp4"][0], found["sub/own.mp4"][0]} == {None, "duplicate_content"}
    assert found["b.mp4"][1] == (
        f"b.mp4: this link leads out of the folder {clips}: put a copy in its place, or set ingest.follow_links=true "
        "if you trust who made the folder"
    )
    allowed = {row["uri"]: row["reason"] for row in _rows(clips, clips, follow_links=True)}
    assert sorted(str(allowed[uri]) for uri in ("b.mp4", "c.mp4", "d.mp4")) == [
        "None", "duplicate_content", "duplicate_content"
    ]  # fmt: skip


def test_rows_of_a_manifest_follow_no_link_either(outside: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    (clips / "sub").mkdir()
    (clips / "there").symlink_to(outside)
    (clips / "part.zip").symlink_to(outside / "x.mp4")
    rows = [
        "there/x.mp4",
        "sub/../there/x.mp4",
        "zip://a.mp4::part.zip",
        str(outside / "x.mp4"),
        "../outside/x.mp4",
    ]
    (clips / "clips.csv").write_text("video,caption\n" + "".join(f"{row},x\n" for row in rows))
    found = {row["uri"]: row["reason"] for row in _rows(clips, clips)}
    assert [found[row] for row in rows[:3]] == ["leads_outside"] * 3
    # Its owner names these in so many words.
    assert {found[row] for row in rows[3:]} == {None, "duplicate_content"}


@pytest.mark.parametrize("target", ["credentials", "/proc/self/environ", "linked"])
def test_a_caption_is_no_link_to_a_secret(outside: Path, tmp_path: Path, target: str) -> None:
    clips = tmp_path / "clips"
    (clips / "clip1.mp4").write_bytes(b"film")
    (outside / "linked").symlink_to("credentials")
    (clips / "clip1.txt").symlink_to(outside / target)
    [row] = _rows(clips, clips)
    assert (row["caption"], row["reason"]) == ("", "unreadable_caption")
    assert row["detail"] == (
        "clip1.txt: this link leads out of the folder: put a copy in its place, or set ingest.follow_links=true if you "
        "trust who made the folder"
    )
    [row] = _rows(clips, clips, follow_links=True)
    if target == "/proc/self/environ":  # not for anybody
        assert row["detail"] == "clip1.txt: the system makes this up (/proc, /sys, /dev), it is no file"
    else:
        assert row["caption"] == SECRET


def test_a_caption_has_a_limit(outside: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    for name, size in (("a", 1 << 20), ("b", (1 << 20) + 1)):
        (clips / f"{name}.mp4").write_bytes(name.encode())
        (clips / f"{name}.txt").write_text("x" * size)
    first, second = _rows(clips, clips)
    assert len(first["caption"]) == 1 << 20
    assert second["detail"] == "b.txt: it is larger than a caption may be (1 MiB)"


def test_what_a_linked_manifest_holds_is_told_to_nobody(outside: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    (clips / "clips.csv").symlink_to(outside / "credentials")
    with pytest.raises(ManifestError, match="is a link that leads out of the folder: put a copy") as caught:
        read_manifest(clips)
    assert "marked" not in str(caught.value)
    (outside / "good.csv").write_text("video,caption\na.mp4,x\n")
    (clips / "clips.csv").unlink()
    (clips / "clips.csv").symlink_to(outside / "good.csv")
    assert len(read_manifest(clips / "clips.csv").rows) == 1  # the user names it
    assert len(read_manifest(clips, IngestConfig(follow_links=True)).rows) == 1


@pytest.mark.parametrize("named", ["snapshots/1a", "linked/1a"])
def test_the_cache_of_a_hub_is_one_folder(tmp_path: Path, named: str) -> None:
    hub = tmp_path / "datasets--x"
    folder = hub / "snapshots" / "1a"
    (folder / "videos").mkdir(parents=True)
    (hub / "blobs").mkdir()
    (hub / "linked").symlink_to("snapshots")
    (hub / "blobs" / "aa11").write_bytes(b"film")
    (hub / "blobs" / "bb22").write_text("A dog runs.")
    (folder / "videos" / "a.mp4").symlink_to("../../../blobs/aa11")
    (folder / "videos" / "a.txt").symlink_to("../../../blobs/bb22")
    [row] = _rows(hub / "snapshots" / "1a", hub / "snapshots" / "1a")
    assert (row["reason"], row["caption"]) == (None, "A dog runs.")
    assert not leads_out("videos/a.mp4", hub / "snapshots" / "1a")
    # A hub's layout made by hand lets nobody out.
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "cc33").write_text(SECRET)
    (hub / "blobs").rename(hub / "old")
    (hub / "blobs").symlink_to(tmp_path / "else")
    (folder / "videos" / "b.mp4").symlink_to("../../../blobs/cc33")
    assert leads_out("videos/b.mp4", folder)
    assert leads_out("videos/b.mp4", hub / "linked" / "1a")
