"""TextToVideo: one directory, reproducible clips that do not depend on their batch, errors that name what fits."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lumina import generate
from lumina.evaluation.generation import ClipGenerator
from lumina.generate import TextToVideo
from lumina.latents import initial_noise
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.text_encoder import TextEncoder
from pipelines.base_config import ZOO
from tests.lumina import tiny

SAMPLER = tiny.SAMPLER


@pytest.fixture(scope="module")
def pipeline() -> TextToVideo:
    return tiny.text_to_video()


def test_round_trip_gives_the_same_frames(pipeline: TextToVideo, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    # Last bits of products depend on where in memory the weights lie: both come out of files.
    loaded = TextToVideo.from_pretrained(tmp_path / "model")
    loaded.save_pretrained(tmp_path / "again")
    want = loaded("a red circle")
    got = TextToVideo.from_pretrained(tmp_path / "again")("a red circle")
    assert got.frames.shape == (1, 8, 32, 64, 3)
    assert got.fps == 8
    np.testing.assert_array_equal(got.frames, want.frames)
    with pytest.raises(FileExistsError):
        pipeline.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "system_prompts.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no system_prompts\.json"):
        TextToVideo.from_pretrained(tmp_path / "model")


def test_all_parts_are_loaded_in_the_type_of_the_device(
    pipeline: TextToVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    loaded: list[tuple[str, torch.dtype]] = []

    def load(_directory: Path, device: str, dtype: torch.dtype) -> SimpleNamespace:
        loaded.append((str(device), dtype))
        shape = SimpleNamespace(in_channels=1, cap_feat_dim=1)
        return SimpleNamespace(config=shape, latent_channels=1, feature_dim=1)

    monkeypatch.setattr(generate, "load_model", load)
    monkeypatch.setattr(VideoAutoencoder, "from_pretrained", load)
    monkeypatch.setattr(TextEncoder, "from_pretrained", load)
    TextToVideo.from_pretrained(tmp_path / "model")
    TextToVideo.from_pretrained(tmp_path / "model", "cuda")
    TextToVideo.from_pretrained(tmp_path / "model", torch.device("cuda", 1))
    TextToVideo.from_pretrained(tmp_path / "model", "cuda", torch.float32)
    kinds = [("cpu", torch.float32), ("cuda", torch.bfloat16), ("cuda:1", torch.bfloat16), ("cuda", torch.float32)]
    assert loaded == [kind for kind in kinds for _ in range(3)]


def test_parts_that_are_damaged_or_do_not_fit_are_one_line(pipeline: TextToVideo, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    for content in ("[]", '[{"source": "web"}]', "{}"):
        (tmp_path / "model" / "system_prompts.json").write_text(content)
        with pytest.raises(ValueError, match=r"system_prompts\.json holds no system prompts \(a list of source, text"):
            TextToVideo.from_pretrained(tmp_path / "model")
    encoder = tmp_path / "model" / "text_encoder"
    shutil.rmtree(encoder)
    shutil.copytree(ZOO / "text_encoder", encoder)
    told = "the text encoder .*text_encoder has features of width 128, but the transformer .* takes 24: name the text"
    with pytest.raises(ValueError, match=told):
        TextToVideo.from_pretrained(tmp_path / "model")
    parts = [str(tmp_path / "model" / name) for name in ("vae", "text_encoder")]
    with pytest.raises(ValueError, match=told):
        ClipGenerator.load(tmp_path / "model" / "transformer", *parts, "cpu", torch.float32)


def test_a_clip_does_not_depend_on_its_batch(pipeline: TextToVideo) -> None:
    prompts, seeds = ["a red circle", "two blue squares move left", "x", "a green one"], [3, 1, 4, 1]
    together = pipeline(prompts, seeds=seeds).frames
    for i, prompt in enumerate(prompts):
        alone = pipeline(prompt, seed=seeds[i]).frames[0]
        assert np.abs(together[i].astype(int) - alone).max() <= 1


def test_what_is_asked_for_matters(pipeline: TextToVideo) -> None:
    plain = pipeline("a red circle").frames
    assert pipeline("a red circle", num_frames=1, width=32, height=64).frames.shape == (1, 1, 64, 32, 3)
    # An image is sampled at the finest scale alone, which takes finer sizes.
    assert pipeline("a red circle", num_frames=1, width=48, height=16).frames.shape == (1, 1, 16, 48, 3)
    with pytest.raises(ValueError, match="width"):
        pipeline("a red circle", width=48, height=16)
    for other in (
        pipeline("a red circle", seed=1),
        pipeline("a blue square"),
        pipeline("a red circle", source="web"),
        pipeline("a red circle", negative_prompt="blue"),
        pipeline("a red circle", motion=0.0),
        pipeline("a red circle", sampler=SAMPLER.model_copy(update={"steps": 5})),
    ):
        assert not np.array_equal(other.frames, plain)


def test_a_prompt_that_is_cut_is_said(pipeline: TextToVideo, caplog: pytest.LogCaptureFixture) -> None:
    pipeline("a red circle", negative_prompt="blue")
    assert not caplog.messages
    words = " ".join(["circle"] * 800)
    encoder = pipeline.text_encoder
    whole = len(encoder.tokenizer(pipeline.system_prompt(None) + words)["input_ids"])
    pipeline(words)
    said = (
        f"{whole:,} tokens with its system prompt, and the text encoder takes 256: the last {whole - 256:,} are cut off"
    )
    [message] = caplog.messages
    assert message.startswith(f"the prompt has {said}, 'circle circle ")
    assert message.endswith("...'; shorten it")
    assert len(message) < 400
    caplog.clear()
    pipeline(["a red circle", words], negative_prompt=words)
    assert [text.partition(",")[0] for text in caplog.messages] == [
        f"{name} has {said}".partition(",")[0] for name in ("prompt 2", "the negative prompt")
    ]
    caplog.clear()
    fits = 256 - len(encoder.tokenizer(pipeline.system_prompt(None))["input_ids"])
    pipeline("-" * fits + "Two blue\n squares,\x1b[31m 'red'")
    assert caplog.messages[0].endswith(r"""are cut off, "Two blue squares,\x1b[31m 'red'"; shorten it""")


def test_errors_name_what_fits(pipeline: TextToVideo) -> None:
    with pytest.raises(ValueError, match="near it: 64x32, 96x32"):
        pipeline("x", width=72)
    with pytest.raises(ValueError, match="multiple of 8 for this sampler, got 12: take 8 or 16"):
        pipeline("x", num_frames=12)
    with pytest.raises(ValueError, match="no system prompt for source 'film'; there are clean, web"):
        pipeline("x", source="film")
    with pytest.raises(ValueError, match="no sampler preset"):
        pipeline("x", sampler="fast")
    with pytest.raises(ValueError, match="a seed for each"):
        pipeline(["x", "y"], seeds=[1])


def test_noise_has_an_address() -> None:
    assert torch.equal(initial_noise((4, 2), 1), initial_noise((4, 2), 1))
    assert not torch.equal(initial_noise((4, 2), 1), initial_noise((4, 2), 1, "other"))
