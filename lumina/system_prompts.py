"""System prompts: the fixed text before a caption that names its data source (paper section 4)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lumina.files import read_json

PROMPT_START = " <Prompt Start> "
"""What every system prompt ends with: the caption follows directly."""

RELEASED_SYSTEM_PROMPT = (
    "You are an assistant designed to generate high-quality videos with the highest degree of image-text alignment "
    "based on user prompts." + PROMPT_START
)
"""The one system prompt of the released model."""


@dataclass(frozen=True)
class SystemPrompt:
    """The system prompt of one data source."""

    source: str
    text: str

    @property
    def system_prompt_id(self) -> str:
        """See `system_prompt_id`."""
        return system_prompt_id(self.text)


def compose(system_prompt: str, caption: str) -> str:
    """Return what the text encoder reads. An empty caption gives the dropped prompt: the system prompt alone.

    Raises ValueError if the system prompt does not end with `PROMPT_START`, which would glue it to the caption.
    """
    if not system_prompt.endswith(PROMPT_START):
        raise ValueError(f"a system prompt must end with {PROMPT_START!r}, got {system_prompt!r}")
    return system_prompt + caption.strip()


def text_id(prompt: str) -> str:
    """Identity of a composed prompt: the BLAKE2b-128 hex digest of its UTF-8 bytes."""
    return hashlib.blake2b(prompt.encode(), digest_size=16).hexdigest()


def system_prompt_id(text: str) -> str:
    """Identity of a system prompt: the BLAKE2b-64 hex digest of its UTF-8 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def write_system_prompts(path: Path, prompts: Iterable[SystemPrompt]) -> None:
    """Write a JSON list of {system_prompt_id, source, text, sha256}, sorted by source."""
    rows = [
        {
            "system_prompt_id": prompt.system_prompt_id,
            "source": prompt.source,
            "text": prompt.text,
            "sha256": hashlib.sha256(prompt.text.encode()).hexdigest(),
        }
        for prompt in sorted(prompts, key=lambda prompt: prompt.source)
    ]
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_system_prompts(path: Path) -> dict[str, SystemPrompt]:
    """Read what `write_system_prompts` wrote: source -> system prompt, sorted by source.

    Raises ValueError if it holds anything else, or a text does not match its digest.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content or not all(_is_row(row) for row in content):
        raise ValueError(f"{path} holds no system prompts (a list of source, text, sha256): restore the file")
    prompts = {}
    for row in content:
        if hashlib.sha256(row["text"].encode()).hexdigest() != row["sha256"]:
            raise ValueError(
                f"{path}: the text of source {row['source']!r} does not match its sha256: restore the file"
            )
        prompts[row["source"]] = SystemPrompt(row["source"], row["text"])
    return dict(sorted(prompts.items()))


def _is_row(row: object) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(name), str) for name in ("source", "text", "sha256"))
