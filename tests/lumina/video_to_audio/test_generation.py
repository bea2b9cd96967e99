"""The noise of a sound: one draw for each seed and address; and its level: nothing is clipped."""

from __future__ import annotations

import torch

from lumina.video_to_audio.generation import sound_noise, within_full_scale
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


def test_a_sound_that_is_too_loud_is_made_quieter_as_a_whole() -> None:
    waves = torch.tensor([[0.5, -0.9, 0.0], [1.0, -4.0, 2.0], [0.0, 0.0, 0.0]])
    told = within_full_scale(waves)
    assert torch.equal(told[[0, 2]], waves[[0, 2]])
    assert torch.allclose(told[1], torch.tensor([0.2475, -0.99, 0.495]))
