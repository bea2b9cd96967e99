"""Assemble a text-to-video directory from released or trained weights and the networks around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lumina.checkpoints import INDEX_FILE, WEIGHTS_FILE, load_config, load_weights, save_weights, write_whole
from lumina.clip_frames import check_fit
from lumina.diffusers_export.layout import write_diffusers
from lumina.diffusers_export.model_card import write_card
from lumina.files import read_json
from lumina.generation_config import GenerationConfig
from lumina.hub import hub_model
from lumina.latents import latent_shape
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.config import NextDiTConfig
from lumina.models.text_encoder import TextEncoder
from lumina.parts import (
    SYSTEM_PROMPTS_FILE,
    TEXT_ENCODER,
    TRANSFORMER,
    VAE,
    copy_part,
    pinned,
    write_references,
    write_texts,
)
from lumina.pretrained import local_folder
from lumina.released import find_config, read_released, weights_file
from lumina.system_prompts import PROMPT_START, RELEASED_SYSTEM_PROMPT, SystemPrompt, read_system_prompts

RELEASED_PROMPTS = {"released": SystemPrompt("released", RELEASED_SYSTEM_PROMPT)}
"""The system prompt of the released model, under a source of its own."""
_OURS = (TRANSFORMER, "transformer_ema")
"""Folders of an export, and of what a training stage leaves, in which a transformer lies."""


@dataclass(frozen=True)
class TransformerSource:
    """Weights of a transformer that have not been read yet."""

    place: Path
    config: NextDiTConfig
    read: Callable[[], dict[str, Tensor]]
    """Reads them to the CPU, checked against the config."""


def find_transformer(
    source: str | Path, preset: str | None = None, arguments: Path | None = None, *, ema: bool = False
) -> TransformerSource:
    """Find a transformer: a folder of ours, or a released folder or file; see `find_config` for the shape of these.

    Raises FileNotFoundError if there is none, ValueError if its shape is unknown, or named though the folder tells it.
    """
    folder = Path(source) if Path(source).is_file() else local_folder(source)
    place = next((folder / name for name in _OURS if (folder / name).is_dir()), folder)
    if any((place / name).is_file() for name in (WEIGHTS_FILE, INDEX_FILE)):
        if preset or arguments or ema:
            raise ValueError(f"{place} tells its own shape, and holds one set of weights: leave out the preset's name")
        return TransformerSource(place, load_config(place), lambda: load_weights(place))
    try:
        weights_file(place, ema)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{place} holds no transformer: no {WEIGHTS_FILE}, and {error}") from error
    config = find_config(place, preset, arguments)
    return TransformerSource(place, config, lambda: read_released(place, config, ema=ema))


def assemble(
    out: Path,
    *,
    transformer: TransformerSource,
    vae: str | Path,
    text_encoder: str | Path,
    prompts: Mapping[str, SystemPrompt],
    settings: GenerationConfig,
    by_reference: bool = False,
) -> str:
    """Write a directory that `TextToVideo.from_pretrained` takes, and return the digest of its transformer.

    Without references it is a diffusers pipeline too, which needs none of our code.

    Every part is loaded and held against the others before anything is written; the directory appears whole.

    Args:
        out: the directory, which must not exist yet.
        transformer: see `find_transformer`; numbers and types stay as they are.
        vae: a directory, or a model of the hub; where it has a folder `vae`, that.
        text_encoder: likewise.
        prompts: source to system prompt.
        settings: what is generated when nothing else is asked for.
        by_reference: keep parts that are models of the hub as ids with their commit, instead of copies.

    Raises:
        FileExistsError: `out` exists.
        FileNotFoundError: a part is missing.
        ValueError: a part is damaged, or does not fit the others.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists: choose another directory or remove it")
    model, place = transformer.config, transformer.place
    if settings.source is not None and settings.source not in prompts:
        raise ValueError(f"no system prompt for source {settings.source!r}; there are {', '.join(prompts)}")
    try:
        latent_shape(model, settings.num_frames, settings.width, settings.height, settings.sampler)
    except ValueError as error:
        raise ValueError(f"the settings do not fit the transformer {place}: {error}") from error
    sources = {VAE: vae, TEXT_ENCODER: text_encoder}
    folders = {name: _folder(source, name) for name, source in sources.items()}
    references = _references(sources) if by_reference else {}
    channels = VideoAutoencoder.from_pretrained(folders[VAE]).latent_channels
    width = TextEncoder.from_pretrained(folders[TEXT_ENCODER], dtype=torch.bfloat16).feature_dim
    check_fit(model, str(place), channels, str(folders[VAE]), width, str(folders[TEXT_ENCODER]))
    weights = transformer.read()
    with write_whole(out) as part:
        digest = save_weights(model, weights, part / TRANSFORMER)
        for name in sources:
            if name not in references:
                copy_part(folders[name], part / name)
        if references:
            write_references(part, references)
        write_texts(part, prompts.values(), settings)
        if not references:
            write_diffusers(part)
        write_card(part, prompts.values(), settings)
    return digest


def prompts_of(path: Path) -> dict[str, SystemPrompt]:
    """Read system prompts: a `system_prompts.json`, a directory that holds one, or a JSON object of source to text.

    Raises FileNotFoundError if there is none, ValueError if it holds anything else.
    """
    file = path / SYSTEM_PROMPTS_FILE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}: give a {SYSTEM_PROMPTS_FILE}, or a JSON file of source to text")
    content = read_json(file)
    if (
        isinstance(content, list)
        and content
        and all(isinstance(row, dict) and {"source", "text", "sha256"} <= set(row) for row in content)
    ):
        found = read_system_prompts(file)
    elif isinstance(content, dict) and all(isinstance(text, str) and text.strip() for text in content.values()):
        mark = PROMPT_START.strip()
        texts = {source: text.strip().removesuffix(mark).rstrip() + PROMPT_START for source, text in content.items()}
        found = {source: SystemPrompt(source, text) for source, text in sorted(texts.items())}
    else:
        found = {}
    if not found:
        raise ValueError(f'{file} holds no system prompts: expected a JSON object such as {{"web": "You are ..."}}')
    return found


def _folder(source: str | Path, name: str) -> Path:
    found = local_folder(source)
    return found / name if (found / name).is_dir() else found


def _references(sources: Mapping[str, str | Path]) -> dict[str, str]:
    """Hub ids of the parts that are models of the hub and that `local_folder` has found."""
    found = {}
    for name, source in sources.items():
        model = None if Path(source).is_dir() else hub_model(str(source))
        if model is None:
            continue
        if model.snapshot is not None and (model.snapshot / name).is_dir():
            model = replace(model, folder="/".join(filter(None, (model.folder, name))))
        found[name] = pinned(model)
    if not found:
        raise ValueError(
            f"none of {', '.join(map(str, sources.values()))} is a model of the hub: they can only be copied"
        )
    return found
