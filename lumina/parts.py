"""Copies of pretrained parts, the VAE's and the text encoder's folders, for a text-to-video directory."""

from __future__ import annotations

import shutil
from pathlib import Path

from lumina.links import first_that_leads_out

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
    if (link := first_that_leads_out(folder)) is not None:
        raise ValueError(f"{link} is a link that leads out of the folder: put a copy in its place")
    target.mkdir()
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(path.match(pattern) for pattern in _FILES):
            shutil.copyfile(path, target / path.name)
