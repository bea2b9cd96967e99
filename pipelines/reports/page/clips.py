"""Clips with the same prompt and the same noise next to each other, as many as fit on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.engine.store.output import Output
from pipelines.reports.html import MEDIA_BYTES, data_uri

MOST = 20
"""Clips of each half: Chromium on a phone gives a page 40 players, and a clip beyond them stays black."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Clip:
    """One clip of a row."""

    title: str
    media: str
    """A `data:` URI, or why there is none."""
    verdict: str
    """What the detectors say of it; empty if nothing."""
    good: bool


@dataclass(frozen=True)
class ClipRow:
    """One prompt with one noise: a clip of each column."""

    prompt: str
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class ClipSheet:
    """Rows of clips."""

    rows: tuple[ClipRow, ...]
    total: int
    """Prompts that all columns have."""


def clip_sheet(columns: Sequence[tuple[str, Output, Sequence[Row]]]) -> ClipSheet:
    """Choose prompts spread evenly over all of them in the order of their ids, with their first noise.

    The rule looks at no figure, so nothing is picked for its looks. There are `MOST` clips at most, but one row always;
    fewer where they are too large: half of `MEDIA_BYTES` at most.

    Args:
        columns: title, output that the clips lie in, and its rows.
    """
    found = [{(str(r["prompt_id"]), int(r["seed"]), int(r["sample"])): r for r in rows} for _, _, rows in columns]
    common = sorted(set.intersection(*(set(one) for one in found))) if found else []
    first: dict[str, tuple[str, int, int]] = {}
    for key in common:
        first.setdefault(key[0], key)
    keys = [first[prompt] for prompt in sorted(first)]
    most = max(1, MOST // max(1, len(columns)))
    step = max(1, len(keys) // most)
    shown, spent = [], 0
    for key in keys[::step][:most]:
        names = [str(rows[key]["video"]) for rows in found]
        files = [output.find(name) for (_, output, _), name in zip(columns, names, strict=True)]
        spent += sum(file.stat().st_size for file in files if file.is_file())
        if spent > MEDIA_BYTES // 2:
            break
        clips = tuple(
            Clip(title, data_uri(file, f"{output}/{name}"), *_verdict(rows[key]))
            for (title, output, _), file, name, rows in zip(columns, files, names, found, strict=True)
        )
        shown.append(ClipRow(str(found[0][key]["prompt"]), clips))
    return ClipSheet(tuple(shown), len(keys))


def _verdict(row: Row) -> tuple[str, bool]:
    judged = {
        key.removeprefix("shapes/").removesuffix("_acc"): value
        for key, value in sorted(row.items())
        if key.startswith("shapes/") and key.endswith("_acc") and value in (0.0, 1.0)
    }
    wrong = [name for name, value in judged.items() if not value]
    if not judged:
        return "", True
    return (f"wrong: {', '.join(wrong)}" if wrong else "as asked"), not wrong
