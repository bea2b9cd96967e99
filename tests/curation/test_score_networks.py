"""Tiny networks of transformers' own classes, drawn at random: what is held is the arithmetic around them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
)

from curation.score_networks import aesthetic, caption_match, embedding, nsfw
from curation.scores import AestheticConfig, CaptionMatchConfig, NsfwConfig, QualityConfig, ScoresConfig
from lumina.randomness import generator
from lumina.vbench.networks import preprocess
from tests.conftest import SHARED
from tests.curation.scored import panned, scored, texture

WORDS = ["a</w>", "b</w>", "c</w>", "d</w>", "<|startoftext|>", "<|endoftext|>"]
ENDS = {"bos_token_id": 4, "eos_token_id": 5, "vocab_size": len(WORDS), "pad_token_id": 5}
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
ZOO_CLIP = Path(__file__).resolve().parents[2] / "lumina/zoo/clip"


def _frames(count: int = 3) -> np.ndarray:
    return generator(5, "frames").integers(0, 256, (count, 40, 60, 3), np.uint8)


def _saved(folder: Path, model: Any, *others: Any) -> Path:
    for one in (model, *others):
        one.save_pretrained(folder)
    return folder


def _clip(folder: Path, width: int = 768, side: int = 224, patch: int = 112) -> tuple[Path, CLIPModel]:
    torch.manual_seed(1)
    vision = {**SMALL, "image_size": side, "patch_size": patch}
    text = {**SMALL, **ENDS, "max_position_embeddings": 6}
    model = CLIPModel(CLIPConfig(projection_dim=width, vision_config=vision, text_config=text)).eval()
    words = {word: number for number, word in enumerate(WORDS)}
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return _saved(folder, model, CLIPTokenizer(vocab=words, merges=[]), processor), model


def _siglip(folder: Path) -> tuple[Path, SiglipModel]:
    torch.manual_seed(2)
    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    text = {**SMALL, **ENDS, "max_position_embeddings": 8, "projection_size": 16}
    model = SiglipModel(SiglipConfig(vision_config=vision, text_config=text)).eval()
    words = {word: number for number, word in enumerate(WORDS)}
    return _saved(folder, model, CLIPTokenizer(vocab=words, merges=[])), model


def _head(path: Path, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None) -> Path:
    draw = torch.from_numpy(generator(3, "head").standard_normal((1, 768))).float()
    save_file(
        {"weight": draw if weight is None else weight, "bias": torch.tensor([5.0]) if bias is None else bias}, path
    )
    return path


@torch.no_grad()
def test_aesthetics_are_the_head_s_product_with_unit_embeddings_of_clip(tmp_path: Path) -> None:
    folder, model = _clip(tmp_path / "clip")
    head = _head(tmp_path / "head.safetensors")
    found = aesthetic(str(folder), str(head), "cpu")(_frames(), "")
    embedded = model.get_image_features(pixel_values=preprocess.clip_float(_frames())).pooler_output
    tensors = load_file(head)
    expected = (embedded / embedded.norm(dim=1, keepdim=True)) @ tensors["weight"][0] + tensors["bias"]
    assert found["aesthetic"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert found["aesthetic_min"] == pytest.approx(float(expected.min()), rel=1e-5)


def test_aesthetics_are_ten_times_vbench_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = SHARED / "golden_vbench"
    if not golden.is_dir():
        pytest.skip(f"no golden fixtures at {golden}")
    told = json.loads((golden / "W_aesthetic.json").read_text())
    arrays = load_file(golden / "W_aesthetic.safetensors")
    fill = runpy.run_path(str(golden / "fill_vbench.py"))["fill"]
    weights = fill(told["head"]["manifest"], told["head"]["seed"], told["head"]["rules"])
    head = _head(tmp_path / "head.safetensors", *(torch.as_tensor(weights[name]) for name in ("weight", "bias")))
    for record in told["result"]["records"]:
        features = arrays[f"feat.{Path(record['video_path']).stem}"]
        stub = SimpleNamespace(
            model=SimpleNamespace(config=SimpleNamespace(projection_dim=768)),
            images=lambda _frames, features=features: features,
        )
        monkeypatch.setattr("lumina.vbench.networks.clip.load_clip", lambda *_args, stub=stub: stub)
        found = aesthetic(str(tmp_path), str(head), "cpu")(_frames(), "")
        assert found["aesthetic"] / 10 == pytest.approx(record["video_results"], abs=1e-6)
        assert found["aesthetic_min"] <= found["aesthetic"]


@torch.no_grad()
def test_captions_match_by_the_cosine_that_clip_gives(tmp_path: Path) -> None:
    folder, model = _clip(tmp_path / "clip", 24, 32, 16)
    match = caption_match(str(folder), "cpu")
    images = [Image.fromarray(frame) for frame in _frames()]
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images=images, return_tensors="pt")["pixel_values"]
    # Both ends and four words at most: of five the last is cut.
    for caption, ids in (("a c", [4, 0, 2, 5]), ("A b c d a", [4, 0, 1, 2, 3, 5])):
        output = model(input_ids=torch.tensor([ids]), pixel_values=pixels)
        expected = output.logits_per_image[:, 0] / model.logit_scale.exp()
        found = match(_frames(), caption)
        assert found["caption_match"] == pytest.approx(float(expected.mean()), abs=1e-5)
        assert found["caption_match_min"] == pytest.approx(float(expected.min()), abs=1e-5)
    assert set(match(_frames(), " ").values()) == {None}


@torch.no_grad()
def test_siglip_reads_padded_captions_and_squashed_frames(tmp_path: Path) -> None:
    folder, model = _siglip(tmp_path / "siglip")
    found = caption_match(str(folder), "cpu")(_frames(), "b d")
    squash = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    pixels = squash(images=[Image.fromarray(frame) for frame in _frames()], return_tensors="pt")["pixel_values"]
    output = model(input_ids=torch.tensor([[4, 1, 3, 5, 5, 5, 5, 5]]), pixel_values=pixels)
    expected = (output.logits_per_image[:, 0] - model.logit_bias) / model.logit_scale.exp()
    assert found["caption_match"] == pytest.approx(float(expected.mean()), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_an_embedding_is_the_mean_of_the_frames_unit_ones(kind: str, tmp_path: Path) -> None:
    folder, model = _clip(tmp_path / kind, 24, 32, 16) if kind == "clip" else _siglip(tmp_path / kind)
    processor = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    if kind == "clip":
        processor = CLIPImageProcessorPil.from_pretrained(folder)
    pixels = processor(images=[Image.fromarray(frame) for frame in _frames()], return_tensors="pt")["pixel_values"]
    each = model.get_image_features(pixel_values=pixels).pooler_output
    expected = (each / each.norm(dim=1, keepdim=True)).mean(dim=0)
    np.testing.assert_allclose(embedding(str(folder), "cpu")(_frames()), expected.numpy(), rtol=1e-4, atol=1e-6)


def test_a_network_that_embeds_no_images_is_refused(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "vit", ViTModel(ViTConfig(**SMALL, image_size=32, patch_size=16)))
    with pytest.raises(ValueError, match=r"duplicates\.semantic\.weights \(.+\) is a ViTModel, which embeds no images"):
        embedding(str(folder), "cpu")


def test_the_shipped_clip_knows_a_shape_from_another() -> None:
    frames = np.full((2, 64, 64, 3), 30, np.uint8)
    rows, columns = np.mgrid[0:64, 0:64]
    frames[:, (rows - 32) ** 2 + (columns - 32) ** 2 < 200] = 220, 40, 40
    match = caption_match(str(ZOO_CLIP), "cpu")
    right, wrong = (match(frames, f"A {one} moves to the right.") for one in ("red circle", "blue square"))
    assert right["caption_match_min"] > wrong["caption_match"]


def _classifier(folder: Path) -> tuple[Path, ViTForImageClassification]:
    torch.manual_seed(4)
    config = ViTConfig(**SMALL, image_size=32, patch_size=16, id2label={0: "normal", 1: "NSFW"})
    model = ViTForImageClassification(config).eval()
    torch.nn.init.normal_(model.classifier.weight)
    return _saved(folder, model, ViTImageProcessorPil(size={"height": 32, "width": 32})), model


@torch.no_grad()
def test_nsfw_is_the_probability_of_the_named_label(tmp_path: Path) -> None:
    folder, model = _classifier(tmp_path)
    images = [Image.fromarray(frame) for frame in _frames()]
    pixels = ViTImageProcessorPil.from_pretrained(folder)(images=images, return_tensors="pt")["pixel_values"]
    expected = model(pixel_values=pixels).logits.softmax(-1)
    for label, index in (("nsfw", 1), ("Normal", 0)):
        found = nsfw(str(folder), label, "cpu")(_frames(), "")
        assert found["nsfw"] == pytest.approx(float(expected[:, index].mean()), abs=1e-6)
        assert found["nsfw_max"] == pytest.approx(float(expected[:, index].max()), abs=1e-6)
    with pytest.raises(ValueError, match=r"has no label 'porn': scores\.nsfw\.label may be normal, nsfw"):
        nsfw(str(folder), "porn", "cpu")


def test_weights_of_another_model_are_one_line(tmp_path: Path) -> None:
    clip, _ = _clip(tmp_path / "clip", 24)
    classifier, _ = _classifier(tmp_path / "vit")
    head = _head(tmp_path / "head.safetensors")
    for load, message in (
        (lambda: aesthetic(str(clip), str(head), "cpu"), r"scores\.aesthetic\.weights .* 24 numbers.* 768: give hf:"),
        (lambda: caption_match(str(classifier), "cpu"), "does not hold CLIP or SigLIP: no tokenizer"),
        (lambda: nsfw(str(clip), "nsfw", "cpu"), "clip .*an image classifier.*classifier.weight"),
        (lambda: nsfw(str(tmp_path / "none"), "nsfw", "cpu"), "none"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            load()
        assert "\n" not in str(caught.value)


def test_networks_see_the_frames_of_one_decoding_and_numbers_that_are_none_have_a_reason(tmp_path: Path) -> None:
    from lumina.video import write_h264

    write_h264(tmp_path / "a.mp4", panned(texture(1, 48, 64), 12, 2), 12, crf=18)
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    clip, _ = _clip(tmp_path / "clip")
    head = _head(tmp_path / "head.safetensors")
    weights = {"aesthetic.weights": str(clip), "aesthetic.head": str(head), "caption_match.weights": str(clip)}
    networks = ScoresConfig(aesthetic=AestheticConfig(), caption_match=CaptionMatchConfig(), samples=3)
    captions = {"a.mp4": "a b"}
    alone = scored(tmp_path, ["a.mp4"], networks, weights, captions)["a.mp4"]
    both = scored(
        tmp_path, ["a.mp4", "broken.mp4"], networks.model_copy(update={"quality": QualityConfig()}), weights, captions
    )
    names = ("aesthetic", "aesthetic_min", "caption_match", "caption_match_min", "frames_scored")
    assert [alone[name] for name in names] == [both["a.mp4"][name] for name in names]
    assert all(alone[name] is not None for name in names)
    assert both["broken.mp4"]["status"] == "quarantined"
    assert both["broken.mp4"]["reason"] != "internal_error"

    tensors = load_file(head)
    save_file({**tensors, "bias": torch.tensor([float("nan")])}, head)
    row = scored(tmp_path, ["a.mp4"], ScoresConfig(aesthetic=AestheticConfig(), samples=3), weights)["a.mp4"]
    assert (row["status"], row["reason"], row["aesthetic"]) == ("quarantined", "not_finite", None)
    assert row["detail"] == "aesthetic, aesthetic_min came out as no finite number"


def test_places_of_networks_are_in_no_identity() -> None:
    here, there = (
        ScoresConfig(aesthetic=AestheticConfig(weights=place, head=place), nsfw=NsfwConfig(weights=place, label="bad"))
        for place in ("/here", "/there")
    )
    assert here.identity() == there.identity()
    assert here.identity() != there.model_copy(update={"nsfw": NsfwConfig()}).identity()
    assert here.networks() == {"aesthetic.weights": "/here", "aesthetic.head": "/here", "nsfw.weights": "/here"}
