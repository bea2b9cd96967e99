"""Model card: the README.md of an export, with data, system prompts, figures and commands.

Names and texts come from outside: in Markdown every mark of theirs is escaped, and nothing of them is in the YAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from lumina.evaluation.selection import Figure, Selection
from lumina.generation_config import GenerationConfig
from lumina.hub import HubModel
from lumina.parts import read_references
from lumina.system_prompts import SystemPrompt

CARD_FILE = "README.md"
_GENERATE = 'lumina generate --checkpoint . --prompt "A red circle moves to the right."'
_WITH_DIFFUSERS = (
    "With diffusers (and transformers, accelerate and pydantic):\n\n"
    "```python\nfrom diffusers import DiffusionPipeline\n\n"
    'pipe = DiffusionPipeline.from_pretrained(".", trust_remote_code=True)\n'
    'video = pipe("A red circle moves to the right.", seed=0).frames[0]\n```\n\n'
    "`trust_remote_code` runs the Python files of this directory: read them first. With lumina-video, which runs none "
    "of them:\n\n"
)
_BY_REFERENCE = (
    "With lumina-video alone: parts of it are of the hub, and must be in its cache. diffusers takes a copy with all "
    "parts, as `lumina assemble` makes it without `--by-reference`.\n\n"
)
_MARKS = re.compile(r"([!-/:-@\[-`{-~])")
"""ASCII punctuation, all of which Markdown lets be escaped."""


@dataclass(frozen=True)
class Origin:
    """Where a trained model is from."""

    stage: str
    fingerprint: str
    inputs: Mapping[str, str]
    """Stage to the digest of its output."""
    clips: Mapping[str, int] = field(default_factory=dict)
    """Source to its clips, those that were set aside not counted."""
    selection: Selection | None = None


def escaped(text: object) -> str:
    """Text from outside on one line of Markdown, shown as it is: no markup, no link, no entity, no HTML."""
    line = " ".join("".join(one if one.isprintable() else " " for one in str(text)).split())
    return _MARKS.sub(r"\\\1", line)


def write_card(
    directory: Path, prompts: Iterable[SystemPrompt], defaults: GenerationConfig, origin: Origin | None = None
) -> None:
    """Write the README.md of a text-to-video directory; without `origin` the weights are somebody else's."""
    clip = f"{defaults.num_frames} frames, {defaults.width}x{defaults.height} pixels, {defaults.fps:g} frames a second"
    missing = read_references(directory)
    library = "" if missing else "library_name: diffusers\n"
    sections = [
        f"---\n{library}pipeline_tag: text-to-video\ntags:\n- text-to-video\n- lumina-video\n---",
        "# Text to video",
        "A multi-scale Next-DiT trained by rectified flow, after the paper Lumina-Video (arXiv 2502.06782). When "
        f"nothing else is asked for: {clip}, {defaults.sampler.steps} steps.",
        f"## Use\n\n{_BY_REFERENCE + _commands(missing) if missing else _WITH_DIFFUSERS + _commands()}",
        "## System prompts\n\nOne is put before every prompt, by `source`"
        + (f" (\u201c{escaped(defaults.source)}\u201d unless another is named)" if defaults.source else "")
        + ".\n\n"
        + table(("source", "text"), [(prompt.source, prompt.text) for prompt in prompts]),
        *(trained(origin) if origin is not None else ()),
        f"## Licences\n\n{licences(directory)} Weights, data and code may each have others: the manifests of clips "
        "that lumina-video reads have no field for them.",
    ]
    (directory / CARD_FILE).write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _commands(missing: Mapping[str, HubModel] = MappingProxyType({})) -> str:
    return "\n".join(["```sh", *(model.fetch for model in missing.values()), _GENERATE, "```"])


def trained(origin: Origin) -> list[str]:
    """Sections on the data, the evaluation and the origin of trained weights."""
    rows = [(source, f"{count:,}") for source, count in sorted(origin.clips.items())]
    sections = [f"## Data\n\n{table(('source', 'clips'), rows)}"] if rows else []
    selection = origin.selection
    if selection is not None:
        told = f"Fine-tuned on {', '.join(map(escaped, selection.sources)) or 'no source'}"
        sections.append(f"## Evaluation\n\n{told}. {escaped(selection.reason)}")
        if selection.table:
            names = sorted({name for one in selection.table for name in one.metrics})
            figures = [
                (one.source, _figure(one.score), *(_figure(one.metrics.get(name)) for name in names))
                for one in selection.table
            ]
            clips = f"{selection.prompts:,} prompts, {selection.samples:,} clips of each; " if selection.prompts else ""
            sections.append(
                f"Before fine-tuning, under the system prompt of each source ({clips}intervals in brackets):\n\n"
                + table(("source", "score", *names), figures)
            )
    sections.append(
        "## How it was made\n\n"
        + table(
            ("what", "identity"),
            [
                ("stage", origin.stage),
                ("fingerprint of its recipe", origin.fingerprint),
                *((f"input {stage}", digest) for stage, digest in sorted(origin.inputs.items())),
            ],
        )
        + "\n\nThe fingerprint is that of config, code, versions and inputs: `MANIFEST.json` of the stage lists them. "
        "In a checkout of lumina-video, with the store:\n\n```sh\nlumina compare        # runs, and what came of each\n"
        "lumina rerun RUN      # compute one again, and compare\n```"
    )
    return sections


def _figure(figure: Figure | None) -> str:
    if figure is None or figure.get("value") is None:
        return ""
    low, high = figure.get("low"), figure.get("high")
    bounds = "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"
    return f"{figure['value']:.4g}{bounds}"


def licences(directory: Path) -> str:
    """A sentence on the licences that came with the parts."""
    files = sorted(
        path.relative_to(directory).as_posix()
        for pattern in ("LICENSE*", "NOTICE*")
        for depth in ("*", "*/*")
        for path in directory.glob(f"{depth}/{pattern}")
    )
    return (
        f"As they came with the parts: {', '.join(map(escaped, files))}." if files else "No part came with a licence."
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, with every mark in it escaped."""
    lines = [head, ["---"] * len(head), *([escaped(cell) for cell in row] for row in rows)]
    lines[0] = [escaped(cell) for cell in head]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
