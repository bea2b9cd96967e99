from __future__ import annotations

from pathlib import Path

import pytest

from lumina.files import place_of


def test_a_link_to_a_file_keeps_its_name_and_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "2222").touch()
    (tmp_path / "snapshots" / "x").mkdir(parents=True)
    (tmp_path / "snapshots" / "x" / "a.csv").symlink_to("../../blobs/2222")
    (tmp_path / "latest").symlink_to("snapshots/x")
    monkeypatch.chdir(tmp_path / "blobs")
    assert place_of("../latest/a.csv") == tmp_path / "snapshots" / "x" / "a.csv"
    assert place_of(tmp_path / "latest") == tmp_path / "snapshots" / "x"
    assert place_of("2222") == tmp_path / "blobs" / "2222"
    assert place_of("..") == tmp_path
    assert place_of("gone") == tmp_path / "blobs" / "gone"
