"""Tag: every clip gets the system prompt of its source.

Rows in: clips. Rows out: clip_id, source and system_prompt_id; the texts lie beside them in `system_prompts.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pydantic import Field, field_validator

from curation.operator import Env, Input, Operator, Report
from curation.schema import STATUS_COLUMNS, TAG
from lumina.config import Config
from lumina.system_prompts import PROMPT_START, SystemPrompt, write_system_prompts

if TYPE_CHECKING:
    import pyarrow.dataset as ds

SYSTEM_PROMPTS_FILE = "system_prompts.json"


class SourceError(ValueError):
    """A source has no system prompt."""


class TagConfig(Config):
    """The system prompt of each source. The mark before the caption is appended where a text lacks it."""

    system_prompts: dict[str, str] = Field(default_factory=dict)
    """Source to system prompt."""
    template: str | None = None
    """System prompt of every other source; `{source}` stands for its name."""

    @field_validator("template")
    @classmethod
    def _names_the_source(cls, template: str | None) -> str | None:
        if template is not None and "{source}" not in template:
            raise ValueError("must contain {source}, or all its sources would share one system prompt")
        return template

    @field_validator("system_prompts")
    @classmethod
    def _says_something(cls, prompts: dict[str, str]) -> dict[str, str]:
        empty = sorted(source for source, text in prompts.items() if not text.strip())
        if empty:
            raise ValueError(f"the system prompts of {', '.join(empty)} are empty")
        return prompts


def check_sources(sources: Iterable[str], config: TagConfig) -> tuple[SystemPrompt, ...]:
    """The system prompt of each source, sorted by source. SourceError names the sources that have none."""
    sources = sorted(set(sources))
    missing = [name for name in sources if name not in config.system_prompts and config.template is None]
    if missing:
        raise SourceError(
            f"no system prompt for the source(s) {', '.join(repr(name) for name in missing)}: "
            "add them to tag.system_prompts, or set tag.template to a text with {source} in it"
        )
    return tuple(SystemPrompt(name, _text(name, config)) for name in sources)


def _text(source: str, config: TagConfig) -> str:
    text = config.system_prompts.get(source) or (config.template or "").replace("{source}", source)
    mark = PROMPT_START.strip()
    return text.strip().removesuffix(mark).rstrip() + PROMPT_START


def _plan(inputs: Mapping[str, Input], config: TagConfig, _env: Env) -> pa.Table:
    clips = inputs["clips"].rows(["clip_id", "source", *STATUS_COLUMNS]).sort_by("clip_id")
    names = clips["source"].to_pylist()
    ids = {prompt.source: prompt.system_prompt_id for prompt in check_sources(names, config)}
    return clips.append_column("system_prompt_id", pa.array([ids[name] for name in names], pa.string())).select(
        TAG.names
    )


def _report(dataset: ds.Dataset, config: TagConfig, out: Path) -> Report:
    sources = {
        name for batch in dataset.to_batches(columns=["source"]) for name in batch["source"].unique().to_pylist()
    }
    write_system_prompts(out / SYSTEM_PROMPTS_FILE, check_sources(sources, config))
    return Report(files=(SYSTEM_PROMPTS_FILE,))


TAG_OPERATOR = Operator(name="tag", config=TagConfig, schema=TAG, inputs=("clips",), plan=_plan, report=_report)
"""Reads the input `clips`: the output of `ingest` or `probe`."""
