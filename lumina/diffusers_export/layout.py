"""diffusers layout of a text-to-video directory: model_index.json, the scheduler, the tokenizer, and the code of them.

Weights stay where they are: `DiffusionPipeline.from_pretrained(directory, trust_remote_code=True)` needs none of our
modules. Nothing of ours ever runs that code.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from lumina.diffusers_export import pipeline, scheduler, transformer
from lumina.diffusers_export.bundle import bundle
from lumina.files import read_json
from lumina.generation_config import read_settings
from lumina.parts import GENERATION_FILE, SYSTEM_PROMPTS_FILE, TEXT_ENCODER, TRANSFORMER, VAE
from lumina.system_prompts import read_system_prompts

INDEX_FILE = "model_index.json"
PIPELINE_FILE = "pipeline.py"
"""The name that diffusers looks for."""
_TRANSFORMER_CODE, _SCHEDULER_CODE = "lumina_video_transformer", "lumina_video_scheduler"
_TOKENIZER_FILES = (
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "merges.txt", "special_tokens_map.json",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
)  # fmt: skip
_FAST = "PreTrainedTokenizerFast"


def write_diffusers(directory: Path) -> None:
    """Add to a directory that `TextToVideo.from_pretrained` takes what makes it a diffusers pipeline.

    Raises ValueError for a text encoder of a kind that the library transformers does not have.
    """
    defaults = read_settings(directory / GENERATION_FILE)
    prompts = read_system_prompts(directory / SYSTEM_PROMPTS_FILE)
    index: dict[str, Any] = {
        "_class_name": [Path(PIPELINE_FILE).stem, pipeline.LuminaVideoPipeline.__name__],
        "_diffusers_version": diffusers.__version__,
        TRANSFORMER: [_TRANSFORMER_CODE, transformer.LuminaVideoTransformer.__name__],
        VAE: ["diffusers", diffusers.AutoencoderKLCogVideoX.__name__],
        TEXT_ENCODER: ["transformers", _model_class(directory / TEXT_ENCODER / "config.json")],
        "tokenizer": ["transformers", _tokenizer_class(directory / TEXT_ENCODER / "tokenizer_config.json")],
        "scheduler": [_SCHEDULER_CODE, scheduler.LuminaVideoScheduler.__name__],
        "system_prompts": {source: prompt.text for source, prompt in prompts.items()},
        "default_source": defaults.source,
        **defaults.model_dump(include={"num_frames", "width", "height", "fps"}),
    }
    _write(directory / PIPELINE_FILE, bundle(pipeline.__name__, pipeline.LuminaVideoPipeline.__name__))
    code = bundle(transformer.__name__, transformer.LuminaVideoTransformer.__name__)
    _write(directory / TRANSFORMER / f"{_TRANSFORMER_CODE}.py", code)
    folder = directory / "scheduler"
    folder.mkdir()
    _write(folder / f"{_SCHEDULER_CODE}.py", bundle(scheduler.__name__, scheduler.LuminaVideoScheduler.__name__))
    settings = {
        "_class_name": scheduler.LuminaVideoScheduler.__name__,
        "_diffusers_version": diffusers.__version__,
        **defaults.sampler.model_dump(mode="json"),
    }
    _write(folder / "scheduler_config.json", json.dumps(settings, indent=1) + "\n")
    tokenizer = directory / "tokenizer"
    tokenizer.mkdir()
    for name in _TOKENIZER_FILES:
        if (directory / TEXT_ENCODER / name).is_file():
            shutil.copyfile(directory / TEXT_ENCODER / name, tokenizer / name)
    _write(directory / INDEX_FILE, json.dumps(index, indent=1, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _model_class(path: Path) -> str:
    """The class without a head, which is what `AutoModel` loads."""
    kind = read_json(path).get("model_type")
    found = MODEL_MAPPING_NAMES.get(kind)
    if not isinstance(found, str):
        raise ValueError(f"{path}: transformers has no model of the type {kind!r}, so diffusers could not load it")
    return found


def _tokenizer_class(path: Path) -> str:
    """The class that the tokenizer was saved as; that of tokenizer.json where no public one is named."""
    name = read_json(path).get("tokenizer_class") if path.is_file() else None
    return name if isinstance(name, str) and name.isidentifier() and name.endswith(("Tokenizer", "Fast")) else _FAST
