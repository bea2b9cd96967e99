"""Shards of exported clips at the edges: odd characters in cells, and files that are too large for a format."""

from __future__ import annotations

import csv
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curation.export_formats import MEDIA_TYPE, write_shard

SCHEMA = pa.schema({name: pa.string() for name in ("clip_id", "uri", "caption", "media")})
ROW = {"clip_id": "0", "uri": "/a/b.mp4", "caption": "c", "media": "video"}


def _film(folder: Path, size: int) -> Path:
    """A file with holes alone."""
    with (folder / "0.mp4").open("wb") as file:
        file.truncate(size)
    return folder / "0.mp4"


def test_a_name_with_a_carriage_return_is_one_cell(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    odd = {**ROW, "uri": "/a/b\rc.mp4", "caption": None}
    write_shard("csv", path, SCHEMA, [(ROW, None), (odd, None)], Path.unlink)
    with path.open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert (first, second) == (ROW, {**odd, "caption": ""})
    assert path.read_text(encoding="utf-8").splitlines()[1] == "0,/a/b.mp4,c,video"


def test_a_film_that_a_cell_of_parquet_cannot_hold_says_so(tmp_path: Path) -> None:
    film = _film(tmp_path, 2 << 30)
    schema = SCHEMA.append(pa.field("video", MEDIA_TYPE))
    with pytest.raises(OSError, match=r"this clip has 2,147,483,648: export it --as webdataset or csv"):
        write_shard("parquet", tmp_path / "a.parquet", schema, [(ROW, film)], Path.unlink)


def test_a_film_of_eight_gib_goes_into_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film, copy = _film(tmp_path, 8 << 30), tarfile.copyfileobj  # type: ignore[attr-defined]

    def without_the_film(source: Any, target: Any, length: int, **more: Any) -> None:
        copy(source, target, min(length, 1 << 10), **more)

    monkeypatch.setattr(tarfile, "copyfileobj", without_the_film)
    write_shard("webdataset", tmp_path / "a.tar", SCHEMA, [(ROW, film)], Path.unlink)
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert [archive.next().size for _ in range(3)][2] == 8 << 30  # type: ignore[union-attr]
