"""The shipped audio codec keeps sounds that it has not seen, and the sounds of its training are the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lumina.video_to_audio.log_mel import log_mel
from lumina.video_to_audio.networks.codec import AudioCodec, load_codec
from lumina.zoo import train_audio_vae
from lumina.zoo.sound_figures import figures, matched
from lumina.zoo.sounds import FRAMES, other_sound, shapes_sound, training_sound

FOLDER = Path(train_audio_vae.__file__).parent / "audio_codec"


@pytest.fixture(scope="module")
def codec() -> AudioCodec:
    return load_codec(FOLDER)


def test_it_is_small_and_says_how_it_was_made(codec: AudioCodec) -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= 3_500_000
    assert (codec.latent_channels, codec.factor, codec.vocoder_name) == (8, 4, "griffin_lim")
    for part in ("vae", "vocoder"):
        card = json.loads((FOLDER / part / "figures.json").read_text())
        assert card["trained_by"].startswith("python -m lumina.zoo.train_")
        assert card["heldout_sounds"] >= 64


def test_the_autoencoder_keeps_unseen_log_mels(codec: AudioCodec) -> None:
    card = json.loads((FOLDER / "vae" / "figures.json").read_text())
    found = train_audio_vae.figures(codec.vae, 12)
    for one in (card, found):
        assert one["mel_l1_shapes"] <= 0.05
        assert one["mel_l1_other"] <= 0.16
        assert 0.8 <= one["latent_std_shapes"] <= 1.2
        assert one["posterior_std_shapes"] <= 0.15


def test_what_is_decoded_sounds_as_it_did(codec: AudioCodec) -> None:
    card = json.loads((FOLDER / "vocoder" / "figures.json").read_text())
    assert (card["shipped"], card["codec_digest"]) == (codec.vocoder_name, codec.digest)
    sounds = [shapes_sound("test", index) for index in range(100, 112)]
    mels = torch.stack([log_mel(sound.wave)[:FRAMES] for sound in sounds])
    waves = codec.vocode(codec.decode(codec.encode(mels).mean))
    for one in (card["vae_griffin_lim_shapes"], figures(list(waves), sounds)):
        assert one["onset_f1"] >= 0.97
        assert one["pitch"] >= 0.99
        assert one["mel_l1"] <= 0.2


def test_noise_in_latents_stays_small_in_log_mels(codec: AudioCodec) -> None:
    mel = log_mel(shapes_sound("test", 1).wave)[None, :FRAMES]
    mean = codec.encode(mel).mean
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(3))
    assert (codec.decode(mean + 0.1 * noise) - mel).abs().mean() < 0.15


def test_training_sounds_are_drawn_by_their_number() -> None:
    for index in range(6):
        wave = training_sound(index).wave
        assert wave.shape == (FRAMES * 160,)
        assert torch.equal(wave, training_sound(index).wave)
        assert wave.abs().max() in (0.0, 0.5)
    assert not torch.equal(other_sound("train", 0).wave, other_sound("test", 0).wave)


def test_times_pair_off_one_to_one() -> None:
    assert matched([0.5, 1.0], [0.46, 0.54, 1.2]) == 1
    assert matched([0.5, 0.54], [0.49, 0.55]) == 2
    assert matched([], [0.1]) == 0
