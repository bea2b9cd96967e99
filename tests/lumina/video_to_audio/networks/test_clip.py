"""CLIP's features: of length one, from open_clip's directory, of texts cleaned and cut as open_clip does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lumina.vbench.networks.clip import Clip
from lumina.video_to_audio.frames import clip_frames
from lumina.video_to_audio.networks.clip import ClipFeatures, load_clip_features
from tests.lumina.vbench.networks.reference_numbers import frames
from tests.lumina.video_to_audio.reference_numbers import OPEN_CLIP


@pytest.fixture(scope="module")
def clip(published: dict[str, Path]) -> ClipFeatures:
    return load_clip_features(published["clip"])


def test_features_have_length_one(clip: ClipFeatures) -> None:
    visual, (text,) = clip.visual(frames(3, 60, 80), batch=2), clip.text(["a oil"])
    assert visual.shape == (3, clip.visual_width) == (3, 24)
    assert text.shape == (4, clip.text_width) == (4, 64)
    for features in (visual, text):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(features)))


def test_heads_and_activation_are_those_of_the_config(clip: ClipFeatures) -> None:
    settings = clip.clip.model.config
    assert (settings.text_config.num_attention_heads, settings.vision_config.num_attention_heads) == (2, 4)
    assert settings.text_config.hidden_act == settings.vision_config.hidden_act == "gelu"


def test_the_published_network_sees_the_corner_of_the_larger_square(clip: ClipFeatures) -> None:
    assert clip.side == 224
    larger = ClipFeatures(clip.clip, 232)
    clip_of_noise = frames(1, 90, 160)
    seen = larger._prepare(clip_of_noise, torch.device("cpu"))
    corner = clip_frames(clip_of_noise, 232)[:, :, :224, :224]
    assert seen.shape == corner.shape
    red = torch.tensor((0.48145466, 0.26862954))
    torch.testing.assert_close(seen[:, 0] * red[1] + red[0], corner[:, 0])


def test_padding_changes_no_token_of_a_text(clip: ClipFeatures) -> None:
    [text] = clip.text(["a b"])
    padded = clip.tokens(torch.tensor([[8, 0, 1, 9, 0, 0]]))[0]
    torch.testing.assert_close(padded[:4], text)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", [8, 9]),
        ("  A\n OIL ", [8, 0, 6, 9]),
        ("a&amp;#32;b", [8, 0, 1, 9]),
        # Cut, with the end kept.
        ("a b c a b c", [8, 0, 1, 7, 0, 9]),
    ],
)
def test_texts_are_cleaned_and_cut(clip: ClipFeatures, text: str, ids: list[int]) -> None:
    assert clip.token_ids(text) == ids


def test_weights_without_a_tokenizer_have_no_texts(clip: ClipFeatures) -> None:
    bare = ClipFeatures(Clip(clip.clip.model, ""), 224)
    with pytest.raises(ValueError, match="have no tokenizer: give a directory"):
        bare.text(["a"])


def test_another_network_is_named(published: dict[str, Path], tmp_path: Path) -> None:
    for path in published["clip"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({"vision.weight": torch.ones(2)}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"open_clip_pytorch_model.bin does not fit CLIP by OpenAI's names"):
        load_clip_features(tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**OPEN_CLIP, "vision_cfg": {}}}))
    (tmp_path / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"does not hold CLIP: no open_clip_\*model"):
        load_clip_features(tmp_path)
