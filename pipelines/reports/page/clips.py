"""Clips side by side on a page: the same prompt and noise in each row, as many as fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumina.pages.page import MEDIA_BYTES, Clip, ClipRow, data_uri
from pipelines.engine.store.output import Output
from pipelines.reports.evaluations import Evaluated

MOST = 20
"""Clips of each half: Chromium on a phone gives a page 40 players, and a clip beyond them stays black."""


@dataclass(frozen=True)
class ClipFile:
    """One clip before it is read."""

    title: str
    output: Output
    """What it lies in."""
    name: str
    verdict: str = ""
    good: bool = True


def fitting_rows(rows: Iterable[tuple[str, Sequence[ClipFile], str]], most_bytes: int) -> tuple[ClipRow, ...]:
    """The first rows (prompt, clips, note) whose files have `most_bytes` bytes together."""
    shown, spent = [], 0
    for prompt, clips, note in rows:
        files = [clip.output.find(clip.name) for clip in clips]
        spent += sum(file.stat().st_size for file in files if file.is_file())
        if spent > most_bytes:
            break
        row = [
            Clip(clip.title, data_uri(file, f"{clip.output}/{clip.name}"), clip.verdict, clip.good)
            for clip, file in zip(clips, files, strict=True)
        ]
        shown.append(ClipRow(prompt, row, note))
    return tuple(shown)


def clip_sheet(columns: Sequence[Evaluated]) -> tuple[tuple[ClipRow, ...], int]:
    """Choose prompts spread evenly over all of them in the order of their ids, with their first noise.

    The rule looks at no figure, so nothing is picked for its looks. There are `MOST` clips at most, but one row always;
    fewer where they are too large: half of `MEDIA_BYTES` at most.

    Returns:
        The rows, and how many prompts all columns have.
    """
    found = [{(str(r["prompt_id"]), int(r["seed"]), int(r["sample"])): r for r in one.rows} for one in columns]
    first: dict[str, tuple[str, int, int]] = {}
    for key in sorted(set.intersection(*(set(one) for one in found))):
        first.setdefault(key[0], key)
    keys = list(first.values())
    most = max(1, MOST // len(columns))
    rows = (
        (
            str(found[0][key]["prompt"]),
            [
                ClipFile(one.title, one.output, str(rows[key]["video"]), *_verdict(rows[key]))
                for one, rows in zip(columns, found, strict=True)
            ],
            "",
        )
        for key in keys[:: max(1, len(keys) // most)][:most]
    )
    return fitting_rows(rows, MEDIA_BYTES // 2), len(keys)


def _verdict(row: Mapping[str, Any]) -> tuple[str, bool]:
    """What the detectors say of a clip; empty if nothing."""
    judged = {
        key.removeprefix("shapes/").removesuffix("_acc"): value
        for key, value in sorted(row.items())
        if key.startswith("shapes/") and key.endswith("_acc") and value in (0.0, 1.0)
    }
    wrong = [name for name, value in judged.items() if not value]
    return f"wrong: {', '.join(wrong)}" if wrong else "as asked" if judged else "", not wrong
