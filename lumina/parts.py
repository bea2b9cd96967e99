"""Pretrained parts of a text-to-video directory, the VAE and the text encoder: copied, or named by their hub ids."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lumina.files import read_json
from lumina.hub import PREFIX, HubModel, hub_model, no_folder
from lumina.links import check_links

REFERENCES_FILE = "references.json"
_REFERABLE = ("text_encoder", "vae")
_FILES = (
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.j*", "LICENSE*", "NOTICE*", "README.md",
)  # fmt: skip
"""What belongs to a network or a tokenizer; what else lies there is nobody's to publish."""


def copy_part(folder: Path, target: Path) -> None:
    """Copy the files of a network to a directory that must not exist yet; links of a hub's cache become files.

    Raises ValueError for a link that leads out of the folder.
    """
    check_links(folder)
    target.mkdir()
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(path.match(pattern) for pattern in _FILES):
            shutil.copyfile(path, target / path.name)


def pinned(model: HubModel) -> str:
    """The hub id of a model that the cache has, with the commit that it has.

    Raises FileNotFoundError, naming the command that fetches it, if it has none.
    """
    if model.snapshot is None:
        raise FileNotFoundError(no_folder(str(model)))
    return str(replace(model, revision=model.commit))


def write_references(directory: Path, references: Mapping[str, str]) -> None:
    """Write the parts that are models of the hub: name of the part to hub id."""
    (directory / REFERENCES_FILE).write_text(json.dumps(dict(references), indent=1) + "\n", encoding="utf-8")


def read_references(directory: Path) -> dict[str, Path]:
    """Where the cache has the parts that a directory names by hub ids; empty if it holds all of them itself.

    Nothing is fetched: a checkpoint is data, and opens no connection. Raises FileNotFoundError, naming the command that
    fetches a part that is not there, ValueError for what is no hub id.
    """
    file = directory / REFERENCES_FILE
    if not file.is_file():
        return {}
    content = read_json(file)
    if not isinstance(content, dict) or not set(content) <= set(_REFERABLE):
        raise ValueError(f"{file} must hold a JSON object with the hub ids of {' and '.join(_REFERABLE)}")
    found = {}
    for name, text in content.items():
        model = hub_model(text) if isinstance(text, str) and text.startswith(PREFIX) else None
        if model is None:
            raise ValueError(f"{file}: {name} is {text!r}, which is no model of the hub: write hf:owner/name@revision")
        if model.snapshot is None:
            raise FileNotFoundError(f"{name} of {directory}: {no_folder(text)}")
        found[name] = model.snapshot
    return found
