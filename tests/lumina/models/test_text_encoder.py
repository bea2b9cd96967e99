"""The text encoder: which state, which length, independence of neighbours, loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import ByT5Tokenizer

from lumina.models.text_encoder import TextEncoder
from lumina.prompt_length import MAX_TOKENS, cut_message
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


def test_prompts_of_like_length_go_through_together(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = ["x" * length for length in (30, 3, 200, 4, 31, 1, 400, 2)]
    shapes, forward = [], encoder.model.forward

    def noted(input_ids: torch.Tensor, **settings: object) -> object:
        shapes.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **settings)

    alone = [encoder.encode([prompt])[0] for prompt in prompts]
    monkeypatch.setattr(encoder.model, "forward", noted)
    together = encoder.encode(prompts, batch_size=3)
    assert shapes == [(3, 4), (3, 32), (2, MAX_TOKENS)]
    for one, other in zip(alone, together, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    shapes.clear()
    assert all(torch.equal(*pair) for pair in zip(alone, encoder.encode(prompts), strict=True))
    assert {rows for rows, _ in shapes} == {1}
    assert encoder.encode([], 4) == []


def test_long_prompts_are_cut(encoder: TextEncoder) -> None:
    assert len(encoder.encode(["circle " * 400])[0]) == MAX_TOKENS


@pytest.mark.parametrize("words", [0, 1, 3, 200, 254, 255, 256, 257, 400])
def test_what_is_cut_is_counted(encoder: TextEncoder, words: int) -> None:
    prompt = "x" * words
    whole = encoder.tokenizer(prompt)["input_ids"]
    assert len(whole) == 1 + words
    assert encoder.tokenize(prompt) == whole[:MAX_TOKENS]
    assert len(encoder.tokenize(prompt)) + encoder.tokens_cut(prompt) == len(whole)


def test_what_is_cut_is_named(encoder: TextEncoder) -> None:
    assert encoder.text_cut("x" * 255) == ""
    assert encoder.text_cut("x" * 253 + " a red circle") == "circle"
    # As written, where the tokenizer splits words and characters.
    for end in ("Two Blue Squares", "x\ty", "\N{GRINNING FACE} a red \N{LATIN SMALL LETTER E WITH ACUTE}"):
        assert encoder.text_cut("x" * 255 + " " + end + "\n") == end
    # One in plain Python, which puts a special token at the end.
    plain = TextEncoder(encoder.model, ByT5Tokenizer())
    assert plain.tokenize("x" * 300)[-1] == plain.tokenizer.eos_token_id
    assert plain.text_cut("x" * 255 + "yz") == "yz"
    assert plain.text_cut("x" * 255) == ""


def test_one_line_says_how_many_prompts_are_cut() -> None:
    assert cut_message([], "shorten them") is None
    assert cut_message([0, 0], "shorten them") is None
    assert cut_message([0, 3, 1200], "shorten them") == (
        "2 of 3 prompts are longer than the 256 tokens that the text encoder takes, system prompt included; what is "
        "over is cut off (1,200 tokens of the longest): shorten them"
    )
    assert str(cut_message([0, 1], "x")).startswith("1 of 2 prompts is longer")


def test_loading(encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "text")
    loaded = TextEncoder.from_pretrained(tmp_path / "text")
    assert torch.equal(loaded.encode(tiny.TEXTS)[0], encoder.encode(tiny.TEXTS)[0])
    (tmp_path / "text" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors"):
        TextEncoder.from_pretrained(tmp_path / "text")
