"""Augmented prompts: what a model is told in place of a prompt that its clips are named after."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lumina.files import read_jsonl
from lumina.vbench.prompts import VBenchPrompt

_COLUMNS = ("prompt", "text")


def read_augmented(path: Path, prompts: Sequence[VBenchPrompt]) -> dict[str, str]:
    """Texts by prompt, from CSV or JSON Lines with the columns prompt and text.

    Raises ValueError naming the file, and the row: it has other columns, a prompt twice, or lacks one of `prompts`.
    """
    if path.suffix.lower() not in (".csv", ".jsonl") or not path.is_file():
        raise ValueError(f"{path}: expected a .csv or .jsonl file with the columns prompt and text")
    found: dict[str, str] = {}
    for number, row in enumerate(_rows(path), 1):
        prompt, text = (row.get(name) for name in _COLUMNS) if isinstance(row, Mapping) else (None, None)
        if not (isinstance(prompt, str) and isinstance(text, str) and prompt and text.strip()):
            raise ValueError(f"{path}, row {number}: expected a prompt and a text")
        if prompt in found:
            raise ValueError(f"{path}, row {number}: {prompt!r} is there twice")
        found[prompt] = text
    if missing := [prompt.text for prompt in prompts if prompt.text not in found]:
        raise ValueError(f"{path} has no text for {len(missing)} prompts, the first of them {missing[0]!r}")
    return found


def _rows(path: Path) -> Iterator[Any]:
    if path.suffix.lower() == ".jsonl":
        yield from read_jsonl(path)
        return
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)
