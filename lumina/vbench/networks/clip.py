"""CLIP (Radford et al. 2021, arXiv 2103.00020): embeddings of frames and of texts, by the classes of `transformers`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina.files import read_json
from lumina.pretrained import Place, locate
from lumina.vbench.networks import clip_names, preprocess, weights

Preparation = Callable[[preprocess.Frames, torch.device], Tensor]

_NETWORK = "CLIP"
_OPEN_CLIP_CONFIG = "open_clip_config.json"
_INSTEAD = (
    "the directory of openai/clip-vit-base-patch32, or of openai/clip-vit-large-patch14 for aesthetic quality "
    "(config.json, model.safetensors, tokenizer.json)"
)


@dataclass(frozen=True)
class Clip:
    """The network, the digest of its weights, and the tokenizer that its directory has."""

    model: Any
    digest: str
    tokenizer: Any = None

    @property
    def logit_scale(self) -> float:
        """What a cosine is multiplied by, 100 or nearly: e to the power that the weights hold."""
        return float(self.model.logit_scale.float().exp())

    @torch.no_grad()
    def images(
        self, frames: preprocess.Frames, prepare: Preparation = preprocess.clip_float, batch: int = 16
    ) -> Tensor:
        """Embeddings of frames uint8 [T, H, W, 3]: float32 [T, D] on the CPU, not normalised.

        Args:
            frames: RGB.
            prepare: how, of `preprocess`: `clip_float`, or `clip_pil` for appearance style.
            batch: frames that are floats at a time.
        """
        preprocess.check(frames)
        parameter = next(self.model.parameters())
        found = []
        for start in range(0, len(frames), batch):
            x = prepare(frames[start : start + batch], parameter.device).to(parameter.dtype)
            found.append(self.model.get_image_features(pixel_values=x).pooler_output.float().cpu())
        return torch.cat(found)

    @torch.no_grad()
    def tokens(self, ids: Tensor) -> Tensor:
        """Embeddings of token ids [N, L]: float32 [N, D] on the CPU, not normalised; the end token ends a text."""
        output = self.model.get_text_features(input_ids=ids.to(self.model.device))
        found: Tensor = output.pooler_output.float().cpu()
        return found

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts: float32 [N, D] on the CPU, not normalised.

        Raises ValueError for a text of more tokens than the network takes (77), as the official code does, or if there
        is no tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError(f"weights of {_NETWORK} from a file have no tokenizer: give {_INSTEAD}")
        most = self.model.config.text_config.max_position_embeddings
        found = []
        for text in texts:
            ids: list[int] = self.tokenizer(text, truncation=False, verbose=False)["input_ids"]
            if len(ids) > most:
                raise ValueError(f"{text!r} has {len(ids)} tokens with both ends, and {_NETWORK} takes {most}: cut it")
            found.append(self.tokens(torch.tensor([ids])))
        return torch.cat(found)


def load_clip(source: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Clip:
    """Load a directory as the hub has it, or a file of tensors by OpenAI's names, which lacks the tokenizer.

    Where a directory has open_clip's config and weights alone, it is these, with the heads and the activation that the
    config tells.

    The `.pt` files that OpenAI publishes are programs, and refused. Raises FileNotFoundError naming what is missing,
    ValueError if it is damaged or the weights are another network's.
    """
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    tokenizer = None
    if (Path(source) / _OPEN_CLIP_CONFIG).is_file() and not any(Path(source).glob("model*.safetensors")):
        place = locate(source, _NETWORK, (_OPEN_CLIP_CONFIG, "open_clip_*model.*", "tokenizer*"))
        path = max(place.folder.glob("open_clip_*model.*"), key=lambda file: file.suffix)
        published = clip_names.fit(weights.read_entry(path, "state_dict", _NETWORK, _INSTEAD), path)
        with place.explained():
            config = read_json(place.folder / _OPEN_CLIP_CONFIG)["model_cfg"]
            settings = CLIPConfig(**clip_names.settings(published, config))
            tokenizer = AutoTokenizer.from_pretrained(place.folder, trust_remote_code=False, local_files_only=True)
        tensors, digest = clip_names.to_hub(published), weights.digest(published)
    elif Path(source).is_dir():
        place = locate(source, _NETWORK, ("config.json", "model*.safetensors", "tokenizer*"))
        with place.explained():
            settings = CLIPConfig.from_pretrained(place.folder)
            tokenizer = AutoTokenizer.from_pretrained(place.folder, trust_remote_code=False, local_files_only=True)
        tensors = weights.read_folder(place)
        digest = weights.digest(tensors)
    else:
        published = clip_names.fit(weights.read_file(source, _NETWORK, _INSTEAD), source)
        settings = CLIPConfig(**clip_names.settings(published))
        place, tensors = Place(Path(source), _NETWORK), clip_names.to_hub(published)
        digest = weights.digest(published)
    model = weights.build(CLIPModel, settings, tensors, place)
    return Clip(model.to(device, dtype), digest, tokenizer)
