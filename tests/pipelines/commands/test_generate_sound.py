"""`lumina generate --sound`: each clip with its sound, one alone or many, once and with the same bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import av
import pytest
from typer.testing import CliRunner

from jobs import clips
from lumina.video_to_audio.sound_model import SoundModel
from pipelines import cli
from tests.jobs.here import PoolHere
from tests.lumina.tiny import text_to_video
from tests.lumina.video_to_audio.tiny_sound import save_sound_model

SMALL = ("--size", "32x32", "--steps", "2", "--frames", "8")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    text_to_video().save_pretrained(folder / "video")
    return folder / "video", save_sound_model(folder / "sound")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips are made in this process."""
    monkeypatch.setattr(clips, "hand_out", PoolHere())
    monkeypatch.setattr("jobs.cluster.ensure", lambda runtime: "")
    monkeypatch.setattr("jobs.cluster.shutdown", lambda: None)


def generate(models: tuple[Path, Path], *arguments: object) -> tuple[int, str]:
    words = ["generate", "--checkpoint", models[0], "--sound", models[1], *SMALL, *arguments]
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    return done.exit_code, done.output


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".mp4", ".wav")}


def test_one_clip_and_many_get_the_same_sounds(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("prompt,seed,output\na oil,3,one\nb,4,two\n")
    many = ("--prompts", tmp_path / "a.csv", "--out", tmp_path / "many")
    sound, heard = SoundModel.sound, []

    def listened(model: SoundModel, *arguments: Any) -> Any:
        heard.append(arguments[3:])
        return sound(model, *arguments)

    monkeypatch.setattr(SoundModel, "sound", listened)
    code, output = generate(models, *many)
    assert code == 0, output
    made = content(tmp_path / "many")
    assert set(made) == {"one.mp4", "one.wav", "two.mp4", "two.wav"}
    code, output = generate(models, "--prompt", "a oil", "--seed", 3, "--out", tmp_path / "alone" / "one.mp4")
    assert (code, "its sound alone is" in output) == (0, True), output
    assert content(tmp_path / "alone") == {name: made[name] for name in ("one.mp4", "one.wav")}
    assert heard == [("a oil", 3), ("b", 4), ("a oil", 3)]
    with av.open(str(tmp_path / "many" / "one.mp4")) as container:
        assert [stream.codec_context.name for stream in container.streams] == ["h264", "aac"]
    rows = [json.loads(line) for line in (tmp_path / "many" / "manifest.jsonl").read_text().splitlines()]
    assert [(row["wav"], row["wav_bytes"]) for row in rows] == [
        (name, len(made[name])) for name in ("one.wav", "two.wav")
    ]
    assert rows[0]["sound"].startswith("sha256:")

    # A WAV that is gone or cut is made again with its clip, and nothing else is.
    for spoil in (lambda path: path.unlink(), lambda path: path.write_bytes(b"cut")):
        spoil(tmp_path / "many" / "one.wav")
        assert "1 of them made now" in generate(models, *many)[1]
        assert content(tmp_path / "many") == made
    assert "0 of them made now" in generate(models, *many)[1]


def test_a_folder_is_of_one_sound_checkpoint(models: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    many = ("--prompts", tmp_path / "a.txt", "--out", tmp_path / "many")
    assert generate(models, *many)[0] == 0
    before = content(tmp_path / "many")
    other = shutil.copytree(models[1], tmp_path / "other")
    settings = json.loads((other / "sound.json").read_text())
    (other / "sound.json").write_text(json.dumps(settings | {"seed": 1}))
    code, output = generate((models[0], other), *many)
    assert (code, "holds clips of another sound (" in output) == (1, True), output
    silent = ["generate", "--checkpoint", str(models[0]), *SMALL, *map(str, many)]
    done = CliRunner().invoke(cli.app, silent)
    assert (done.exit_code, "holds clips of another sound (" in done.output) == (1, True), done.output
    assert content(tmp_path / "many") == before
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.wav").touch()
    (tmp_path / "b.csv").write_text("prompt,output\na,mine\n")
    code, output = generate(models, "--prompts", tmp_path / "b.csv", "--out", tmp_path / "own")
    assert (code, "mine.wav is there and was not made by this command" in output) == (1, True), output


def test_what_cannot_get_a_sound_is_said_before_the_work(models: tuple[Path, Path], tmp_path: Path) -> None:
    one = ("--prompt", "a", "--out", tmp_path / "a.mp4")
    for pair, more, text in (
        ((models[0], models[0]), (), "is a text-to-video checkpoint, which makes no sound"),
        ((models[1], models[1]), (), "is a video-to-audio checkpoint, which makes no clips: give it as --sound"),
        ((models[0], tmp_path / "none"), (), "--sound"),
        (models, ("--fps", 24), "a sound needs a clip of 0.64 s or longer"),
    ):
        code, output = generate(pair, *one, *more)
        assert (code, text in output, output.count("\n")) == (1, True, 1), output
    (tmp_path / "a.csv").write_text("prompt,frames\na,8\nb,4096\n")
    code, output = generate(models, "--prompts", tmp_path / "a.csv", "--out", tmp_path / "many")
    assert (code, "line 3: " in output, "a sound needs a clip of 10 s or shorter" in output) == (1, True, True), output
    assert not (tmp_path / "a.mp4").exists()
