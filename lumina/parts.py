"""Parts of a text-to-video directory: their names, where they lie, copies of networks, hub ids that stand for them.

No torch in here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from lumina.files import read_json
from lumina.generation_config import GenerationConfig
from lumina.hub import PREFIX, HubModel, hub_model, no_folder
from lumina.links import check_links
from lumina.pretrained import local_folder, locate
from lumina.system_prompts import SystemPrompt, write_system_prompts

TRANSFORMER, VAE, TEXT_ENCODER = "transformer", "vae", "text_encoder"
SYSTEM_PROMPTS_FILE, GENERATION_FILE = "system_prompts.json", "generation.json"
SOUND_FILE = "sound.json"
"""Of a video-to-audio directory, whose other parts `lumina.video_to_audio.sound_parts` names."""
REFERENCES_FILE = "references.json"
_REFERABLE = (TEXT_ENCODER, VAE)
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


def read_references(directory: Path) -> dict[str, HubModel]:
    """The parts that a directory names by hub ids; empty if it holds all of them itself.

    Raises ValueError for what is no hub id.
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
        found[name] = model
    return found


def find_parts(directory: str | Path) -> dict[str, Path]:
    """Where the parts of a text-to-video directory lie, or of a model of the hub; by their names, files included.

    Reads no weights and fetches no part: a checkpoint is data, and opens no connection. Raises FileNotFoundError naming
    the part that is missing, and the command that fetches it where it is one of the hub; ValueError for a
    video-to-audio checkpoint.
    """
    folder = local_folder(directory)
    if not (folder / GENERATION_FILE).is_file():
        if (folder / SOUND_FILE).is_file():
            raise ValueError(f"{folder} is a video-to-audio checkpoint, which makes no clips: give it as --sound")
        raise FileNotFoundError(
            f"{folder} does not hold a text-to-video checkpoint: no {GENERATION_FILE}; `lumina assemble` makes one of "
            "a transformer and its parts"
        )
    what = "a text-to-video checkpoint"
    root = locate(directory, what, (GENERATION_FILE,)).folder
    names = (TRANSFORMER, VAE, TEXT_ENCODER, SYSTEM_PROMPTS_FILE, GENERATION_FILE)
    return parts_of(root, names, read_references(root), what.removeprefix("a "))


def parts_of(root: Path, names: Iterable[str], elsewhere: Mapping[str, HubModel], what: str) -> dict[str, Path]:
    """Where the named parts of a directory are, in it or `elsewhere`. Raises FileNotFoundError, naming one missing."""
    found = {}
    for name in names:
        model = elsewhere.get(name)
        path = root / name if model is None else model.snapshot
        if path is None:
            raise FileNotFoundError(f"{name} of {root}: {no_folder(str(model))}")
        if not path.exists():
            raise FileNotFoundError(f"{root} is no {what}: it holds no {name}")
        found[name] = path
    return found


def find_source(known: Collection[str], source: str | None) -> str:
    """The source that is meant: None is the only one there is. Raises ValueError, naming those that there are."""
    if source is None and len(known) == 1:
        [source] = known
    if source is None or source not in known:
        asked = "name a source" if source is None else f"no system prompt for source {source!r}"
        raise ValueError(f"{asked}; there are {', '.join(known)}")
    return source


def write_texts(directory: Path, prompts: Iterable[SystemPrompt], defaults: GenerationConfig) -> None:
    """Write the JSON files of a text-to-video directory."""
    write_system_prompts(directory / SYSTEM_PROMPTS_FILE, prompts)
    (directory / GENERATION_FILE).write_text(defaults.model_dump_json(indent=1) + "\n", encoding="utf-8")
