"""`lumina probe`: what is in a file, or why not."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lumina.video import write_h264
from pipelines import cli


def _probe(path: Path | str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["probe", str(path)], env={"COLUMNS": "100"})
    return done.exit_code, " ".join(done.output.split())


def test_a_file_is_shown_or_refused_with_the_reason(tmp_path: Path) -> None:
    write_h264(tmp_path / "clip.mp4", np.zeros((6, 32, 48, 3), np.uint8), fps=8)
    Image.new("RGB", (20, 10)).save(tmp_path / "still.png")
    (tmp_path / "notes.mp4").write_text("no video")
    code, shown = _probe(tmp_path / "clip.mp4")
    assert code == 0
    for text in ("width 48", "height 32", "frames_decodable 6", "fps 8", "codec h264"):
        assert text in shown
    code, shown = _probe(tmp_path / "still.png")
    assert code == 0
    assert "media image width 20 height 10" in shown
    assert "fps unknown" in shown
    code, shown = _probe(tmp_path / "notes.mp4")
    assert code == 1
    assert "decode_error" in shown
    assert "Traceback" not in shown
    code, shown = _probe(tmp_path / "gone.mp4")
    assert (code, "gone.mp4: missing_file: " in shown) == (1, True)
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.write(tmp_path / "still.png", "inside/still.png")
    code, shown = _probe(f"zip://inside/still.png::{tmp_path / 'some.zip'}")
    assert (code, "media image width 20 height 10" in shown) == (0, True)


@pytest.mark.parametrize(
    "name", ["12:30.mp4", "concat:a.mp4", "a?b.mp4", "50%d.mp4", "#1.mp4", "clip[1].mp4", "a|b.mp4", "./-x.mp4"]
)
def test_a_file_is_found_by_its_name_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_h264(tmp_path / name, np.zeros((6, 32, 48, 3), np.uint8), fps=8)
    monkeypatch.chdir(tmp_path)
    code, shown = _probe(name)
    assert (code, "frames_decodable 6" in shown) == (0, True), shown


def test_a_file_is_what_it_holds_and_not_what_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 10)).save("still.mp4", "PNG")
    first, *rest = (Image.new("RGB", (20, 10), (90 * number, 0, 0)) for number in range(3))
    first.save("moves.png", save_all=True, append_images=rest, duration=100)
    first.save("moves.webp", save_all=True, append_images=rest, duration=100)
    (tmp_path / "empty.mp4").touch()
    assert "media image width 20 height 10" in _probe("still.mp4")[1]
    assert "media video width 20 height 10" in _probe("moves.png")[1]
    assert "moves.webp: decode_error: an animation of 3 frames (WEBP), which no video" in _probe("moves.webp")[1]
    assert _probe("empty.mp4") == (1, "error: empty.mp4: unreadable_file: the file is empty (0 bytes)")
