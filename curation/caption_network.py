"""Vision-language models of transformers that caption: the likeliest answer to frames and a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from curation.caption_config import CaptionConfig
from curation.caption_endpoint import Answer, NoCaption, Question
from curation.schema import Reason
from lumina.pretrained import locate
from lumina.weights_digest import digest

_FILES = ("config.json", "*processor*.json", "*.safetensors", "tokenizer*")


def network(weights: str, config: CaptionConfig, device: str) -> Callable[[Question], Answer]:
    """What asks a local network.

    Args:
        weights: of `AutoModelForImageTextToText`, with its processor and chat template: a directory, or `hf:...`.
        config: of the stage, with nothing left to the device.
        device: to run on.

    Raises FileNotFoundError or ValueError if there is no such model.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    place = locate(weights, "a vision-language model", _FILES)
    with place.explained():
        processor: Any = AutoProcessor.from_pretrained(place.folder, trust_remote_code=False, local_files_only=True)
        model, info = AutoModelForImageTextToText.from_pretrained(
            place.folder,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            dtype=getattr(torch, config.dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    place.check(model.state_dict().keys(), info, more_is_fine=True)
    if not getattr(processor, "chat_template", None):
        raise ValueError(
            f"caption.model ({weights}) has no chat template, so it cannot be asked: take an instruct model"
        )
    version, name = digest({"model": model.state_dict()}), type(model).__name__
    model = model.to(device).eval().requires_grad_(False)
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())

    @torch.no_grad()
    def ask(question: Question) -> Answer:
        content: list[dict[str, str]] = []
        for time_s in question.times_s:
            content += [{"type": "text", "text": f"{time_s:.2f} s:"}, {"type": "image"}]
        content.append({"type": "text", "text": question.prompt})
        messages = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        images = [Image.fromarray(frame) for frame in question.frames]
        inputs = processor(text=text, images=images, return_tensors="pt").to(device, dtype=model.dtype)
        told = inputs["input_ids"].shape[1]
        ids = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=config.max_tokens)[0]
        said = processor.decode(ids[told:], skip_special_tokens=True)
        answer = Answer(said, name, version, len(ids))
        if len(ids) - told >= config.max_tokens and int(ids[-1]) not in ends:
            detail = f"the answer is cut at caption.max_tokens {config.max_tokens}: {said[:120]}"
            raise NoCaption(Reason.CAPTION_NONSENSE, detail, answer)
        return answer

    return ask
