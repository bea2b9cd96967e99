"""Gemma-2 features of prompts: the second to last hidden state, as in the released model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from lumina.pretrained import locate
from lumina.prompt_length import MAX_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TextEncoder:
    """Prompts to features, unless asked otherwise one at a time: no padding, and no result depends on its neighbours.

    Args:
        model: a decoder-only language model without its head, in evaluation mode.
        tokenizer: the model's tokenizer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.feature_dim: int = model.config.hidden_size

    @classmethod
    def from_pretrained(
        cls, source: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Self:
        """Load a directory or a model of the hub, e.g. "hf:google/gemma-2-2b".

        Raises FileNotFoundError naming what is missing, ValueError if it is damaged, asks for code of its own, or the
        tensors are not those of its config.
        """
        from transformers import AutoModel, AutoTokenizer

        place = locate(source, "a text encoder", ("config.json", "*.safetensors", "tokenizer*"))
        with place.explained():
            # Gemma-2 caps its attention scores, which the fused kernels leave out.
            model, info = AutoModel.from_pretrained(
                place.folder,
                dtype=dtype,
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                attn_implementation="eager",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(
                place.folder, padding_side="right", trust_remote_code=False, local_files_only=True
            )
        place.check(model.state_dict().keys(), info, more_is_fine=True)
        return cls(model.to(device).eval().requires_grad_(False), tokenizer)

    def save_pretrained(self, directory: Path) -> None:
        """Write config, safetensors weights and tokenizer files."""
        self.model.save_pretrained(directory, safe_serialization=True)
        self.tokenizer.save_pretrained(directory)

    def tokenize(self, prompt: str) -> list[int]:
        """Token ids of a prompt, at most `MAX_TOKENS`, with the tokenizer's special tokens."""
        return tokenize(self.tokenizer, prompt)

    def tokens_cut(self, prompt: str) -> int:
        """How many tokens of a prompt `tokenize` leaves out; 0 for all but long ones."""
        ids: list[int] = self.tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
        return max(0, len(ids) - MAX_TOKENS)

    def text_cut(self, prompt: str) -> str:
        """The end of a prompt that `tokenize` leaves out, without space around it; empty for all but long ones."""
        fast = self.tokenizer.is_fast
        whole = self.tokenizer(prompt, truncation=False, verbose=False, return_offsets_mapping=fast)
        ids: list[int] = whole["input_ids"]
        # Special tokens at the end are kept when text before them is cut.
        first = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self.tokenize(prompt), ids, strict=False))
        )
        if first == len(ids):
            return ""
        if fast:
            return prompt[whole["offset_mapping"][first][0] :].strip()
        return str(self.tokenizer.decode(ids[first:], skip_special_tokens=True)).strip()

    def encode(self, prompts: Sequence[str], batch_size: int = 1) -> list[Tensor]:
        """Return the features of each prompt; see `encode_tokens`."""
        return encode_tokens(self.model, [self.tokenize(prompt) for prompt in prompts], batch_size)


def tokenize(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """See `TextEncoder.tokenize`."""
    ids: list[int] = tokenizer(prompt, truncation=True, max_length=MAX_TOKENS)["input_ids"]
    if not ids:
        raise ValueError(f"the prompt {prompt!r} has no tokens")
    return ids


@torch.no_grad()
def encode_tokens(model: PreTrainedModel, ids: Sequence[list[int]], batch_size: int = 1) -> list[Tensor]:
    """Return the features [L_i, D] of each prompt's tokens, on the model's device and in its dtype.

    Up to `batch_size` prompts go through together, those of like length, and the shorter ones padded at their ends:
    attention is causal, so no token looks there; but last bits depend on the shape of what goes through.
    """
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    features: dict[int, Tensor] = {}
    for start in range(0, len(order), batch_size):
        some = order[start : start + batch_size]
        longest = len(ids[some[-1]])
        padded = torch.tensor([ids[number] + [0] * (longest - len(ids[number])) for number in some])
        output = model(input_ids=padded.to(model.device), output_hidden_states=True, use_cache=False)
        for number, states in zip(some, output.hidden_states[-2], strict=True):
            features[number] = states[: len(ids[number])]
    return [features[number] for number in range(len(ids))]
