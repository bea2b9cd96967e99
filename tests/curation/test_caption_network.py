"""A local vision-language model, made here: what it answers is what transformers' own `generate` says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from curation.caption_config import CaptionConfig
from curation.caption_endpoint import Question
from curation.caption_network import network
from curation.captions import CAPTION_OPERATOR, prompted
from curation.operator import Env, apply
from curation.schema import RowError
from lumina.video import write_h264
from tests.curation.scored import probed

WORDS = "a red blue circle square moves left right up on dark light ground s : describe . 0.25 0.75".split()  # noqa: SIM905
TEMPLATE = (
    "{% for one in messages[0]['content'] %}{% if one['type'] == 'image' %}<image>{% else %} {{ one['text'] }} "
    "{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("llava")
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", "<image>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",  # noqa: S106
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8,
        projection_dim=16,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, eos_token_id=1, pad_token_id=0, bos_token_id=1,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=3, image_seq_length=4)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token="<image>",  # noqa: S106
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


FRAMES = np.random.default_rng(1).integers(0, 256, (2, 24, 32, 3), np.uint8)


def test_the_answer_is_the_likeliest_one_of_the_network(folder: Path, tmp_path: Path) -> None:
    config = CaptionConfig(model=str(folder), max_tokens=6).identity()
    ask = network(str(folder), config, "cpu")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    text = " 0.25 s: <image> 0.75 s: <image> describe . "
    inputs = processor(text=text, images=[Image.fromarray(one) for one in FRAMES], return_tensors="pt")
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
    said = processor.decode(ids, skip_special_tokens=True)
    question = Question("", "describe .", [0.25, 0.75], FRAMES)
    with pytest.raises(RowError, match=re.escape(f"cut at caption.max_tokens 6: {said}")):
        ask(question)
    shutil.copytree(folder, tmp_path / "ends")
    settings = {"eos_token_id": [int(ids[2])]}
    (tmp_path / "ends" / "generation_config.json").write_text(json.dumps(settings))
    answer = network(str(tmp_path / "ends"), config, "cpu")(question)
    assert answer.text == processor.decode(ids[:3], skip_special_tokens=True)
    assert (answer.model, answer.tokens) == ("LlavaForConditionalGeneration", inputs["input_ids"].shape[1] + 3)
    assert str(answer.version).startswith("sha256:")


def test_the_stage_asks_a_local_network(folder: Path, tmp_path: Path) -> None:
    write_h264(tmp_path / "a.mp4", np.repeat(FRAMES[:, :, :, :], 8, axis=0), 8)
    config = CaptionConfig(model=str(folder), max_tokens=3, samples=2, language=None).identity()
    clips = probed(tmp_path, ["a.mp4"], {"a.mp4": "old"})
    clips = prompted(clips, config)
    assert CAPTION_OPERATOR.map is not None
    env = Env(str(tmp_path), {"model": str(folder)})
    [row] = apply(CAPTION_OPERATOR, CAPTION_OPERATOR.map(config, env), clips).to_pylist()
    assert row["caption_prompt"].startswith("These are frames of one video")
    assert row["caption_times_s"] == [0.5, 1.5]
    assert (row["status"] == "ok") == (row["caption_new"] is not None)
    assert row["reason"] in (None, "caption_nonsense"), row["detail"]


def test_a_folder_without_a_chat_template_is_no_captioner(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.name != "chat_template.jinja":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="has no chat template"):
        network(str(tmp_path), CaptionConfig(model="x").identity(), "cpu")
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"does not hold a vision-language model: no config\.json"):
        network(str(tmp_path), CaptionConfig(model="x").identity(), "cpu")
