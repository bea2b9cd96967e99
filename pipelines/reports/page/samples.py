"""Clips of a training on a page: a prompt's row over the steps, as pictures of their frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.files import read_json
from lumina.pages.page import MEDIA_BYTES, data_uri
from lumina.training.sample_config import FOLDER, STEP_FILE
from pipelines.compare.runs import Side

_ROWS = 4
"""Prompts of each stage at most; one for each system prompt first."""
_STEPS = 6
"""Of a prompt at most, evenly spread, the first and last among them."""


@dataclass(frozen=True)
class SampleRow:
    """One prompt under one system prompt."""

    prompt: str
    source: str
    pictures: tuple[tuple[int, str], ...]
    """Step, and a `data:` URI or why there is none."""


def sample_rows(side: Side) -> dict[str, tuple[SampleRow, ...]]:
    """Stage -> rows of its clips, as many as fit; stages without clips are left out. StoreError if they cannot be
    read."""
    found = {}
    spent = 0
    for name, held in side.stages.items():
        records = [] if held.manifest is None else _steps([file.path for file in held.manifest.files])
        if held.output is None or not records:
            continue
        output = held.output
        root = output.fetch(f"{FOLDER}/")
        made = {int(Path(path).parent.name.removeprefix("step-")): read_json(root / path) for path in records}
        rows = []
        for source, prompt, seed in _chosen(next(iter(made.values()))["rows"]):
            files = [
                (step, f"{FOLDER}/step-{step:08d}/{row['strip']}")
                for step, record in made.items()
                for row in record["rows"]
                if (row["source"], row["prompt"], row["seed"]) == (source, prompt, seed)
            ]
            spent += sum((root / file).stat().st_size for _, file in files if (root / file).is_file())
            if spent > MEDIA_BYTES // 8:
                break
            rows.append(SampleRow(prompt, source, tuple((step, data_uri(root / file, file)) for step, file in files)))
        found[name] = tuple(rows)
    return found


def _steps(files: list[str]) -> list[str]:
    """The records of the steps that are shown."""
    records = sorted(path for path in files if path.startswith(f"{FOLDER}/") and path.endswith(f"/{STEP_FILE}"))
    count = min(_STEPS, len(records))
    return [records[round(number * (len(records) - 1) / max(1, count - 1))] for number in range(count)]


def _chosen(rows: list[Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    """By order, and not by looks: the first prompt of every system prompt, then the second of each."""
    place: dict[str, int] = {}
    numbered = []
    for row in rows:
        place[row["source"]] = place.get(row["source"], 0) + 1
        numbered.append((place[row["source"]], row["source"], row["prompt"], row["seed"]))
    return [(source, prompt, seed) for _, source, prompt, seed in sorted(numbered)[:_ROWS]]
