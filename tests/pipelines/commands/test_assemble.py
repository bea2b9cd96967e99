"""`lumina assemble`: the page's own commands make a clip of small released files; what is wrong is said first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lumina.checkpoints import save_model
from lumina.flow_matching.schedules import SamplerConfig
from lumina.generate import TextToVideo
from lumina.generation_config import GenerationConfig
from lumina.models.config import RELEASED_MODELS
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.video import read_frames
from pipelines import cli
from pipelines.base_config import ZOO
from tests.docs.pages import commands
from tests.lumina import tiny
from tests.lumina.hub_cache import SHAPE, make_cache

SMALL = GenerationConfig(num_frames=8, width=32, height=32, sampler=SamplerConfig(steps=1))


def call(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, list(words), env={"COLUMNS": "200"})
    return done.exit_code, done.stderr if done.exit_code else done.stdout


def test_the_pages_own_commands_make_a_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cache(tmp_path, tiny.dit_without_zeros(0.1, SHAPE))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(RELEASED_MODELS, "2B_GQA", SHAPE)
    monkeypatch.setattr("lumina.generation_config.released_settings", lambda name: SMALL)
    monkeypatch.chdir(tmp_path)
    typed = [command.words[1:] for command in commands() if "lumina-video" in command.words]
    assert [words[0] for words in typed] == ["assemble", "generate"]
    code, output = call(*typed[0])
    assert code == 0, output
    assert output.startswith("lumina-video: transformer sha256:")
    assert "8 frames, 32x32, 8 fps, 1 steps; system prompts: released\n" in output
    code, output = call(*typed[1])
    assert code == 0, output
    prompt, out = (typed[1][typed[1].index(option) + 1] for option in ("--prompt", "--out"))
    shown = TextToVideo.from_pretrained("lumina-video")(prompt).frames[0].astype(int)
    assert np.abs(read_frames(tmp_path / out, range(8)).astype(int) - shown).mean() < 12  # H.264
    code, output = call(*typed[0])
    assert (code, output) == (1, "error: OUT lumina-video exists: choose another directory or remove it\n")


def test_what_is_wrong_is_one_line_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(MultiScaleNextDiT(SHAPE), tmp_path / "ours")
    (tmp_path / "settings.json").write_text(SMALL.model_dump_json())
    parts = ["--vae", str(ZOO / "vae"), "--text-encoder", str(ZOO / "text_encoder")]
    ours = ["--transformer", "ours", *parts]
    settings = ["--settings", "settings.json"]
    for words, told in (
        ([*ours], "say what is generated when nothing else is asked for: --sampler NAME, such as f24F96R960"),
        ([*ours, "--sampler", "fast"], "no sampler preset 'fast'; there are f16F64R512, "),
        ([*ours, *settings, "--source", "film"], "no system prompt for source 'film'; there are released"),
        ([*ours, *settings, "--preset", "2B"], "ours tells its own shape"),
        ([*ours, *settings, "--system-prompts", "none.json"], "there is no none.json: give a system_prompts.json"),
        (["--transformer", "gone", *parts, *settings], "gone is no folder; give a path that exists, or a model of the"),
        ([*ours, "--sampler", "f16F64R512", "--vae", "ours"], "cannot load a CogVideoX VAE from ours: "),
    ):
        code, output = call("assemble", "out", *words)
        assert code == 1
        assert told in output
        assert output.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "settings.json"]
    code, output = call("generate", "--checkpoint", "ours", "--prompt", "A red circle.")
    assert code == 1
    assert "no generation.json; `lumina assemble` makes one of a transformer and its parts" in output
