"""Where a command is asked to write: what cannot be is said before any work, and nobody's own files are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import cli
from pipelines.commands.written import PAGE, check_file, check_new_folder
from pipelines.errors import PipelineError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "cannot be written: Is a directory; name a file in it"),
        ("none/page.html", "cannot be written: No such file or directory; make the folder {tmp_path}/none first"),
        ("note.txt/page.html", "cannot be written: {tmp_path}/note.txt is no folder"),
        ("n" * 300, "cannot be written: File name too long"),
        ("note.txt", "is there and was not written by this command: name another file"),
    ],
)
def test_what_cannot_be_written_is_one_line(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "note.txt").write_text("my own")
    with pytest.raises(PipelineError) as caught:
        check_file("--out", tmp_path / name, begins=PAGE)
    assert str(caught.value) == f"--out {tmp_path / name} {message.format(tmp_path=tmp_path)}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "note.txt"]


def test_what_can_be_written_is_taken(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("\n\n<!DOCTYPE html><p>old")
    (tmp_path / "empty").touch()
    for name in ("page.html", "empty", "new.html"):
        check_file("--out", tmp_path / name, begins=PAGE)
    check_file("--csv", tmp_path / "a" / "b" / "new.csv", makes_folder=True)
    check_file("--out", Path("/dev/null"), begins=PAGE)
    assert not (tmp_path / "a").exists()


def test_where_writing_is_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.html").touch()
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    for path, where in ((tmp_path / "old.html", ""), (tmp_path / "new.html", f"{tmp_path}: ")):
        with pytest.raises(PipelineError, match=f"cannot be written: {where}Permission denied"):
            check_file("--out", path)


def test_a_new_folder_must_be_new(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_new_folder("OUT", tmp_path / "a" / "b")
    for name, message in (("", "exists: choose another"), ("file/a", "cannot be written: .* is no folder")):
        with pytest.raises(PipelineError, match=message):
            check_new_folder("OUT", tmp_path / name)


def test_every_command_says_it_before_the_work(tmp_path: Path) -> None:
    def call(*arguments: str) -> str:
        done = CliRunner().invoke(cli.app, list(arguments))
        assert done.exit_code == 1
        assert done.output.count("\n") == 1
        return done.output

    (tmp_path / "clips.mp4").mkdir()
    (tmp_path / "many-2.mp4").mkdir()
    manifest = tmp_path / "clips.csv"
    manifest.write_text("video,caption\na.mp4,mine\n")
    # None of these has the checkpoint, run, file or weights that it names: looking for them is work.
    generate = ["generate", "--checkpoint", "no/model", "--prompt", "a"]
    for arguments, named in (
        ([*generate, "--out", str(tmp_path / "clips.mp4")], "--out"),
        ([*generate, "--prompt", "b", "--out", str(tmp_path / "many.mp4")], "many-2.mp4"),
        (["report", "nobody", "--out", str(tmp_path)], "--out"),
        (["diff", "nobody", "nobody", "--html", str(tmp_path)], "--html"),
        (["quarantine", "nobody", "--csv", str(tmp_path)], "--csv"),
        (["cluster", "check", "none.yaml", "--out", str(tmp_path)], "--out"),
    ):
        answer = call(*arguments)
        assert named in answer
        assert "cannot be written: Is a directory; name a file in it" in answer
    assert "exists: choose another directory" in call("convert", str(tmp_path / "none"), str(tmp_path))
    assert "was not written by this command" in call("quarantine", "nobody", "--csv", str(manifest))
    assert "mine" in manifest.read_text()
