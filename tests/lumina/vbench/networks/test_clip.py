"""CLIP: a directory as the hub has it, its tokenizer, and texts that are too long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumina.vbench.networks import preprocess
from lumina.vbench.networks.clip import Clip, load_clip
from tests.lumina.vbench.networks.reference_numbers import frames

WORDS = ["a</w>", "b</w>", "o", "i", "l</w>", "oi", "oil</w>", "c</w>", "<|startoftext|>", "<|endoftext|>"]
"""By id. As CLIP has them, the two at the ends of a text are the largest."""


@pytest.fixture(scope="module")
def of_file(files: dict[str, Path]) -> Clip:
    return load_clip(files["clip"])


@pytest.fixture(scope="module")
def folder(of_file: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as `openai/clip-vit-base-patch32` is one, of a small network."""
    from transformers import CLIPTokenizer

    where = tmp_path_factory.mktemp("clip")
    merges = [("o", "i"), ("oi", "l</w>")]
    CLIPTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, merges=merges).save_pretrained(where)
    of_file.model.save_pretrained(where)
    return where


def test_a_directory_is_the_same_network_with_a_tokenizer(of_file: Clip, folder: Path) -> None:
    found = load_clip(folder)
    clip = frames(2, 60, 80)
    for prepare in (preprocess.clip_float, preprocess.clip_pil):
        assert torch.equal(found.images(clip, prepare), of_file.images(clip, prepare))
    assert not torch.equal(found.images(clip, preprocess.clip_pil), found.images(clip))
    assert found.logit_scale == of_file.logit_scale
    texts = found.texts(["a oil", "B"])
    torch.testing.assert_close(texts, of_file.tokens(torch.tensor([[8, 0, 6, 9], [8, 1, 9, 0]])))


def test_the_old_configs_of_the_hub_find_the_end_of_a_text(of_file: Clip, folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.testing.assert_close(load_clip(tmp_path).texts(["b"]), of_file.tokens(torch.tensor([[8, 1, 9]])))


def test_batches_change_no_embedding(of_file: Clip) -> None:
    clip = frames(3, 60, 80)
    torch.testing.assert_close(of_file.images(clip, batch=1), of_file.images(clip))


def test_texts_that_are_too_long_are_refused(folder: Path) -> None:
    clip = load_clip(folder)
    assert clip.texts(["a a a a"]).shape == (1, 24)
    with pytest.raises(ValueError, match="'a a a a a' has 7 tokens with both ends, and CLIP takes 6: cut it"):
        clip.texts(["a a a a a"])


def test_sizes_that_openai_notes_beside_the_weights_are_no_weights(files: dict[str, Path], tmp_path: Path) -> None:
    notes = {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save(torch.load(files["clip"]) | notes, tmp_path / "clip.pt")
    assert load_clip(tmp_path / "clip.pt").digest == load_clip(files["clip"]).digest


def test_a_file_has_no_tokenizer(of_file: Clip) -> None:
    with pytest.raises(
        ValueError, match="from a file have no tokenizer: give the directory of openai/clip-vit-base-patch32"
    ):
        of_file.texts(["a"])


def test_counters_that_old_files_of_the_hub_hold_are_no_weights(of_file: Clip, folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors["text_model.embeddings.position_ids"] = torch.arange(6)[None]
    tensors["vision_model.embeddings.position_ids"] = torch.arange(50)[None]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    clip = frames(1, 60, 80)
    assert torch.equal(load_clip(tmp_path).images(clip), of_file.images(clip))
