"""The text encoder: which state, which length, independence of neighbours, loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lumina.models.text_encoder import MAX_TOKENS, TextEncoder
from tests.lumina import tiny


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return tiny.text_encoder()


def test_second_to_last_state(encoder: TextEncoder) -> None:
    [features] = encoder.encode([tiny.TEXTS[0]])
    ids = torch.tensor([encoder.tokenize(tiny.TEXTS[0])])
    states = encoder.model(input_ids=ids, output_hidden_states=True).hidden_states
    assert len(states) == 3
    assert torch.equal(features, states[1][0])
    assert features.shape == (ids.shape[1], encoder.feature_dim)
    assert ids[0, 0] == 1


def test_results_do_not_depend_on_neighbours(encoder: TextEncoder) -> None:
    together = encoder.encode([*tiny.TEXTS, "x"])
    assert all(torch.equal(a, encoder.encode([text])[0]) for a, text in zip(together, [*tiny.TEXTS, "x"], strict=True))


def test_long_prompts_are_cut(encoder: TextEncoder) -> None:
    assert len(encoder.encode(["circle " * 400])[0]) == MAX_TOKENS


def test_loading(encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "text")
    loaded = TextEncoder.from_pretrained(tmp_path / "text")
    assert torch.equal(loaded.encode(tiny.TEXTS)[0], encoder.encode(tiny.TEXTS)[0])
    (tmp_path / "text" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors"):
        TextEncoder.from_pretrained(tmp_path / "text")
