"""The noise of a sound: one draw for each seed and address."""

from __future__ import annotations

import torch

from lumina.video_to_audio.generation import sound_noise
from lumina.video_to_audio.networks.dit import VideoToAudioDiT
from tests.lumina.video_to_audio.tiny_sound import CONFIG


def test_noise_is_of_its_seed_and_address() -> None:
    with torch.device("meta"):
        model = VideoToAudioDiT(CONFIG)
    noise = sound_noise(model, 5, 3, "clip", "a")
    assert (list(noise.shape), noise.dtype) == ([8, 5, 16], torch.float32)
    assert torch.equal(sound_noise(model, 5, 3, "clip", "a"), noise)
    for other in (
        sound_noise(model, 5, 4, "clip", "a"),
        sound_noise(model, 5, 3, "clip", "b"),
        sound_noise(model, 5, 3),
    ):
        assert (other != noise).all()
