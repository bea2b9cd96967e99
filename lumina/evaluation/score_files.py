"""Scores from elsewhere: the results JSON of VBench, or a CSV with a row for each clip or each source.

A CSV has the column `source` and one column for each figure; with a column `prompt`, and `sample` where there are
several clips of one, its rows are clips. VBench's file holds `{"dimension": [score, [{"video_path", "video_results"},
...]]}`: clips belong to the source that the file is given for, or whose name a folder of their path has, and
`<prompt>-<sample>.mp4` tells which are of one prompt.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lumina.evaluation.subsets import FloatArray
from lumina.evaluation.summary import Results
from lumina.files import read_json

_PLACES = ("source", "prompt", "sample")
_CLIP = re.compile(r"(?P<prompt>.+)-(?P<sample>\d+)", re.DOTALL)


@dataclass(frozen=True)
class _Score:
    """A figure of one clip, or of a whole source: then there is no prompt."""

    source: str
    figure: str
    prompt: str | None
    sample: int
    value: float
    where: str


@dataclass(frozen=True)
class Scores:
    """Figures of several sources."""

    results: Mapping[str, Results]
    """By source; one column for each figure."""
    per_clip: bool
    """If not, each source has one value of each figure, and nothing tells how sure it is."""


def read_scores(
    files: Path | Mapping[str, Path], figures: Collection[str], sources: Collection[str], known: Collection[str] = ()
) -> Scores:
    """Read the figures that are asked for.

    Args:
        files: one file for all sources, or one of VBench's for each.
        figures: names of columns, or of VBench's dimensions.
        sources: those to compare; scores of others are left aside.
        known: all that may be named; empty for any.

    Raises:
        ValueError: naming file and place, for what cannot be read, is unknown, absent, not finite, or there twice.
    """
    if isinstance(files, Path):
        rows, name = list(_read(files, None, sources, known)), str(files)
    else:
        unknown = sorted(set(files) - set(known or files))
        if unknown:
            raise ValueError(f"scores are given for {', '.join(unknown)}; the sources are {', '.join(sorted(known))}")
        rows = [row for source in sorted(files) for row in _read(files[source], source, sources, known)]
        name = ", ".join(str(files[source]) for source in sorted(files))
    rows = [row for row in rows if row.source in sources]
    unscored = sorted(set(sources) - {row.source for row in rows})
    if unscored:
        raise ValueError(f"{name}: no scores of {', '.join(unscored)}: every source that can be chosen needs them")
    have = sorted({row.figure for row in rows})
    absent = sorted(set(figures) - set(have))
    if absent:
        raise ValueError(f"{name}: no figure {', '.join(absent)}, which the score weighs; it has {', '.join(have)}")
    rows = [row for row in rows if row.figure in figures]
    return _arranged(rows, sorted(figures), sorted(sources), name)


def _read(path: Path, source: str | None, sources: Collection[str], known: Collection[str]) -> Iterator[_Score]:
    if not path.is_file():
        raise ValueError(f"{path} is no file: give a CSV, or the results JSON of VBench")
    if path.suffix.lower() == ".json":
        return _vbench(path, source, known or sources, strict=bool(known))
    if path.suffix.lower() != ".csv":
        raise ValueError(f"{path}: scores are read from .csv and .json files")
    return _csv(path, source, known)


def _csv(path: Path, given: str | None, known: Collection[str]) -> Iterator[_Score]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8") from error
    table = csv.DictReader(lines, strict=True)
    columns = list(table.fieldnames or ())
    if "source" not in columns and given is None:
        raise ValueError(f"{path} lacks the column source; it has {', '.join(columns) or 'none'}")
    try:
        for row in table:
            where = f"{path}, line {table.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{where}: it has not as many fields as the header")
            source = row["source"] if given is None else given
            _check_source(source, known, where)
            sample = row.get("sample") or "0"
            if not sample.isdecimal():
                raise ValueError(f"{where}: sample {sample!r} is no whole number")
            for figure in columns:
                if figure not in _PLACES:
                    value = _number(row[figure], where, figure)
                    yield _Score(source, figure, row.get("prompt"), int(sample), value, where)
    except csv.Error as error:
        raise ValueError(f"{path}, line {table.line_num}: no CSV: {error}") from error


def _vbench(path: Path, given: str | None, known: Collection[str], strict: bool) -> Iterator[_Score]:
    content = read_json(path)
    expected = 'expected {"dimension": [score, [{"video_path": ..., "video_results": ...}, ...]]}, as VBench writes it'
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: {expected}")
    for figure, found in content.items():
        where = f"{path}: {figure}"
        if not isinstance(found, list) or not 1 <= len(found) <= 2:
            raise ValueError(f"{where}: {expected}")
        clips = found[1] if len(found) == 2 else []
        if not isinstance(clips, list) or not all(isinstance(clip, dict) for clip in clips):
            raise ValueError(f"{where}: {expected}")
        if not clips:
            if given is None:
                raise ValueError(f"{where} is of no clip: give a file for each source")
            yield _Score(given, figure, None, 0, _number(found[0], where, "the score"), where)
        for clip in clips:
            place = clip.get("video_path")
            if not isinstance(place, str) or "video_results" not in clip:
                raise ValueError(f"{where}: {expected}")
            source = _source_of(place, known) if given is None else given
            if source is None and strict:
                raise ValueError(
                    f"{where}: {place} is in no folder that names one source of {', '.join(sorted(known))}: give a "
                    "file for each, scores: {web: web.json, ...}"
                )
            if source is None:
                continue
            stem = PurePosixPath(place).stem
            parts = _CLIP.fullmatch(stem)
            prompt, sample = (parts["prompt"], int(parts["sample"])) if parts else (stem, 0)
            value = _number(clip["video_results"], where, place)
            yield _Score(source, figure, prompt, sample, value, f"{where}: {place}")


def _source_of(place: str, known: Collection[str]) -> str | None:
    """The source whose name a folder has: `web`, or of an evaluation's output `evaluate@web`, `evaluate@3.web`."""
    folders = PurePosixPath(place).parts[:-1]
    found = {
        source
        for source in known
        for folder in folders
        if folder == source or re.fullmatch(rf"evaluate@([^.]*\.)?{re.escape(source)}", folder)
    }
    return found.pop() if len(found) == 1 else None


def _check_source(source: str, known: Collection[str], where: str) -> None:
    if known and source not in known:
        raise ValueError(f"{where}: unknown source {source!r}; the sources are {', '.join(sorted(known))}")


def _number(value: Any, where: str, what: str) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: {what} is {value!r:.40}, expected a finite number")
    return number


def _arranged(rows: Sequence[_Score], figures: Sequence[str], sources: Sequence[str], name: str) -> Scores:
    per_clip = {row.prompt is not None for row in rows}
    if len(per_clip) > 1:
        raise ValueError(f"{name}: some scores are of clips, others of whole sources: they cannot be compared")
    places: dict[tuple[str, str], dict[tuple[str, int], float]] = {}
    for row in rows:
        held = places.setdefault((row.source, row.figure), {})
        key = (row.prompt or "", row.sample)
        if key in held:
            what = f"sample {row.sample} of {row.prompt!r}" if row.prompt is not None else "it"
            raise ValueError(f"{row.where}: {row.figure} of source {row.source} is there twice for {what}")
        held[key] = row.value
    for figure in figures:
        one = places.get((sources[0], figure), {})
        for source in sources[1:]:
            other = places.get((source, figure), {})
            for prompt, sample in sorted(one.keys() ^ other.keys()):
                has, lacks = (sources[0], source) if (prompt, sample) in one else (source, sources[0])
                what = f" for sample {sample} of {prompt!r}" if per_clip == {True} else ""
                raise ValueError(
                    f"{name}: {has} has {figure}{what}, and {lacks} has not: sources are compared on the same clips"
                )
    prompts = sorted({prompt for held in places.values() for prompt, _ in held})
    samples = sorted({sample for held in places.values() for _, sample in held})
    results = {
        source: Results(
            tuple(prompts), len(samples), {name: _table(places[source, name], prompts, samples) for name in figures}
        )
        for source in sources
    }
    return Scores(results, per_clip == {True})


def _table(held: Mapping[tuple[str, int], float], prompts: Iterable[str], samples: Sequence[int]) -> FloatArray:
    return np.array([[held.get((prompt, sample), math.nan) for sample in samples] for prompt in prompts])
