"""Clips for evaluation: what is encoded, which noise, and in which order it all reaches the sampler."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lumina import clip_frames
from lumina.evaluation.generation import ClipGenerator
from lumina.evaluation.noise import evaluation_noise
from lumina.flow_matching.schedules import PRESETS, SamplerConfig
from lumina.latents import initial_noise
from lumina.models.text_encoder import TextEncoder
from lumina.randomness import generator
from tests.lumina import tiny

PARTS = tiny.text_to_video()
SYSTEM = PARTS.system_prompts["web"].text
CAPTIONS = ["a red circle moves left", "two blue squares"]


class Sampled:
    """In place of the sampler: remembers what it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts: list[str] = []
        self.given: dict[str, Any] = {}
        encode = TextEncoder.encode

        def encoded(encoder: TextEncoder, prompts: list[str]) -> list[Tensor]:
            self.prompts += prompts
            return encode(encoder, prompts)

        monkeypatch.setattr(TextEncoder, "encode", encoded)
        monkeypatch.setattr(clip_frames, "sample", self)

    def __call__(self, *given: Any, **options: Any) -> Tensor:
        self.given = dict(zip(("model", "noise", "text", "negative", "sampler"), given, strict=True)) | options
        latents: Tensor = given[1]
        return latents

    def check_texts(self, positive: list[str], negative: list[str]) -> None:
        """The features are of these prompts, in this order, and nothing else was encoded."""
        assert set(self.prompts) == {*positive, *negative}
        for found, prompts in ((self.given["text"], positive), (self.given["negative"], negative)):
            expected = PARTS.text_encoder.encode(prompts)
            assert len(found) == len(expected)
            assert all(map(torch.equal, found, expected))


def test_the_negative_prompt_of_an_evaluation_is_the_system_prompt_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = Sampled(monkeypatch)
    sampler = SamplerConfig(steps=2)
    clips = ClipGenerator(PARTS.transformer, PARTS.vae, PARTS.text_encoder)
    addresses = [evaluation_noise(5, "p", 0), evaluation_noise(5, "q", 3)]
    frames = clips.generate(SYSTEM, CAPTIONS, addresses, sampler, num_frames=8, height=32, width=48)
    sampled.check_texts([SYSTEM + caption for caption in CAPTIONS], [SYSTEM] * 2)
    assert sampled.given["model"] is PARTS.transformer
    assert sampled.given["sampler"] == sampler
    assert sampled.given["motion"] is None
    noise = sampled.given["noise"]
    for own, prompt_id, number in zip(noise, "pq", (0, 3), strict=True):
        want = generator(5, "eval-noise", prompt_id, number).standard_normal((16, 2, 4, 6), dtype=np.float32)
        assert torch.equal(own, torch.from_numpy(want))
    np.testing.assert_array_equal(frames, PARTS.vae.decode(noise).numpy())
    clips.generate(SYSTEM, CAPTIONS, addresses, sampler, num_frames=8, height=32, width=48, motion=[1.0, 4.0])
    assert sampled.given["motion"] == [1.0, 4.0]
    with pytest.raises(ValueError, match="1 of 2 clips of a batch have a motion score: give all or none"):
        clips.generate(SYSTEM, CAPTIONS, addresses, sampler, num_frames=8, height=32, width=48, motion=[1.0, None])
    long = " ".join(["circle"] * 400)
    cut = clips.cut(SYSTEM, long)
    assert cut["tokens_cut"] == PARTS.text_encoder.tokens_cut(SYSTEM + long) > 0
    assert (SYSTEM + long).endswith(cut["words_cut"])
    assert clips.cut(SYSTEM, "a cat") == {"tokens_cut": 0, "words_cut": ""}


@pytest.mark.parametrize("negative", ["", "blue"])
def test_both_prompts_of_a_generated_clip_have_the_system_prompt_of_its_source(
    negative: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = Sampled(monkeypatch)
    made = PARTS(
        CAPTIONS,
        source="web",
        seeds=[7, 9],
        negative_prompt=negative,
        motion=3,
        sampler="f16F64R512-MultiScale",
        num_frames=16,
        width=64,
        height=32,
    )
    sampled.check_texts([SYSTEM + caption for caption in CAPTIONS], [SYSTEM + negative] * 2)
    assert sampled.given["sampler"] == PRESETS["f16F64R512-MultiScale"]
    assert sampled.given["motion"] == [3.0, 3.0]
    noise = sampled.given["noise"]
    assert torch.equal(noise, torch.stack([initial_noise((16, 4, 4, 8), seed) for seed in (7, 9)]))
    np.testing.assert_array_equal(made.frames, PARTS.vae.decode(noise).numpy())
    PARTS("x", motion=[-1.0], seed=2)
    sampled.prompts.clear()
    PARTS(CAPTIONS[0], seed=2)
    default = PARTS.system_prompts["clean"].text
    sampled.check_texts([default + CAPTIONS[0]], [default])
    assert sampled.given["motion"] is None
    assert sampled.given["sampler"] == PARTS.defaults.sampler
    assert torch.equal(sampled.given["noise"][0], initial_noise((16, 2, 4, 8), 2))
