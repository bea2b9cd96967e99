"""SoundModel: what a sound depends on, how long it is, and directories that hold no such model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lumina.parts import find_parts
from lumina.video_to_audio.checkpoints import load_dit
from lumina.video_to_audio.sound_model import SoundModel
from lumina.video_to_audio.sound_parts import find_sound_parts
from tests.lumina import tiny
from tests.lumina.video_to_audio.tiny_sound import CONFIG, film, save_dit, save_sound_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sound_model(tmp_path_factory.mktemp("sound") / "exported")


@pytest.fixture(scope="module")
def model(folder: Path) -> SoundModel:
    return SoundModel.load(folder)


def stamps(count: int, fps: float) -> list[float]:
    return [index / fps for index in range(count)]


def test_a_sound_is_as_long_as_the_clip_and_ends_in_silence(model: SoundModel) -> None:
    # 1.03 s: 25 whole latent steps, and 30 ms that none covers.
    frames = film(31)
    wave = model.sound(frames, stamps(31, 30), 1.03)
    assert (wave.dtype, wave.shape) == (np.float32, (16_480,))
    assert not wave[16_000:].any()
    assert wave[:15_900].any()
    assert abs(wave[15_990:16_000]).max() <= abs(wave[15_600:15_840]).max()
    assert np.array_equal(wave * 32_768, np.round(wave * 32_768))
    assert model.sound(film(8), stamps(8, 12.5), 0.64).shape == (10_240,)
    with pytest.raises(ValueError, match=r"a sound needs a clip of 0\.64 s or longer, got 0\.6 s"):
        model.sound(film(6), stamps(6, 10), 0.6)
    with pytest.raises(ValueError, match=r"a sound needs a clip of 10 s or shorter, got 10\.5 s: cut it first"):
        model.sound(film(21), stamps(21, 2), 10.5)
    with pytest.raises(ValueError, match="there are no frames"):
        model.sound(film(2)[:0], [], 1.0)


def test_a_patch_of_several_steps_leaves_the_rest_silent(model: SoundModel, tmp_path: Path) -> None:
    save_dit(tmp_path / "two", CONFIG.model_copy(update={"patch": (2, 16)}))
    wide = replace(model, transformer=load_dit(tmp_path / "two"))
    # 25 latent steps, of which the patch takes 24.
    wave = wide.sound(film(16), stamps(16, 16), 1.0)
    assert wave.shape == (16_000,)
    assert wave[:15_300].any()
    assert not wave[15_360:].any()


def test_it_depends_on_seed_prompt_and_what_is_seen_and_on_nothing_else(model: SoundModel) -> None:
    frames, times = film(16), stamps(16, 16)
    wave = model.sound(frames, times, 1.0, "a oil", 3)
    assert np.array_equal(model.sound(frames, times, 1.0, "a oil", 3), wave)
    assert np.array_equal(model.sound(frames, times, 1.0), model.sound(frames, times, 1.0, " ", 7))
    for other in (
        model.sound(frames, times, 1.0, "a oil", 4),
        model.sound(frames, times, 1.0, "b", 3),
        model.sound(frames, times, 1.0, "", 3),
        model.sound(frames[::-1], times, 1.0, "a oil", 3),
        model.sound(frames, times, 1.0, "a oil", 3, steps=3),
    ):
        assert not np.array_equal(other, wave)


def test_other_directories_are_told_by_their_kind(folder: Path, tmp_path: Path) -> None:
    tiny.text_to_video().save_pretrained(tmp_path / "video")
    with pytest.raises(ValueError, match="video is a text-to-video checkpoint, which makes no sound"):
        SoundModel.load(tmp_path / "video")
    with pytest.raises(ValueError, match="is a video-to-audio checkpoint, which makes no clips: give it as --sound"):
        find_parts(folder)
    with pytest.raises(FileNotFoundError, match=r"no sound\.json; the stage `export`"):
        find_sound_parts(tmp_path)
    broken = shutil.copytree(folder, tmp_path / "broken")
    shutil.rmtree(broken / "transformer")
    shutil.copytree(tmp_path / "video" / "transformer", broken / "transformer")
    with pytest.raises(ValueError, match=r"transformer.*video"):
        SoundModel.load(broken)
    shutil.rmtree(broken / "transformer")
    with pytest.raises(FileNotFoundError, match="is no video-to-audio checkpoint: it holds no transformer"):
        SoundModel.load(broken)
    save_dit(broken / "transformer", CONFIG.model_copy(update={"visual_dim": 25}))
    with pytest.raises(
        ValueError, match=r"clip has 24 as width of its visual features, but .* takes 25: name the clip"
    ):
        SoundModel.load(broken)
    (broken / "sound.json").write_text('{"sampler": {"steps": 0}}')
    with pytest.raises(ValueError, match=r"sound\.json holds no settings of sounds: sampler\.steps: "):
        SoundModel.load(broken)
