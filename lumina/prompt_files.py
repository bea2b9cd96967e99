"""Prompt files: what clips to generate, one a line of text, or with settings of their own in CSV or JSON Lines.

A prompt is data: nothing in it is a path, a command or markup. A file name is checked as strictly as it can be: it has
to be good on every system that the clips may be copied to.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from lumina.randomness import generator

COLUMNS = ("prompt", "seed", "size", "frames", "source", "motion", "negative_prompt", "output")
"""Of CSV and JSON Lines; all but `prompt` may be left out or empty."""
SUFFIXES = (".txt", ".csv", ".jsonl")
_MOST_BYTES = 1 << 28
_LONGEST_NAME = 230
"""Bytes: file systems take 255, and a record that is being written has 19 more. VBench's longest has 217."""
_LARGEST_SEED = 2**63 - 1
_UNPORTABLE = frozenset('<>:"|?*')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Names of devices on Windows, with any ending."""
_SLUG = re.compile(r"[^a-z0-9]+")


class PromptFileError(ValueError):
    """A prompt file cannot be used: one line that names the file, the line in it, and what is expected."""


@dataclass(frozen=True)
class PromptRow:
    """A clip that is asked for. None, or an empty text, where the row leaves a setting to the command."""

    line: int
    """Where it begins in the file, from 1."""
    prompt: str
    file: str
    """Name of its video file."""
    seed: int | None = None
    size: tuple[int, int] | None = None
    """(width, height) in pixels."""
    frames: int | None = None
    source: str = ""
    motion: float | None = None
    negative_prompt: str = ""
    number: int = 0
    """How many rows above have the same prompt and the same seed, or none as this one."""
    notes: tuple[tuple[str, str | int], ...] = ()
    """What else the manifest of its clip says: names and values."""

    def seed_of(self, seed: int) -> int:
        """Its own seed; without one, a number below 2^31 that is drawn for the run's `seed`, the prompt and `number`.

        So it depends on no other prompt, nor on where in the file this one stands.
        """
        if self.seed is not None:
            return self.seed
        return int(generator(seed, "prompt-seed", self.prompt, self.number).integers(2**31))


def read_prompts(path: Path) -> list[PromptRow]:
    """Read a prompt file: `.txt` with a prompt on each line that is not empty, `.csv`, or `.jsonl`.

    Raises:
        PromptFileError: the file is none of these, is not UTF-8, holds no prompt, has an unknown column, a value that
            is no such setting, or names an output that leaves its folder, is another row's, or is not portable.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise PromptFileError(f"{path}: expected a file of prompts that ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise PromptFileError(f"{path} is no file: give one with a prompt on each line, or CSV or JSON Lines")
    if path.stat().st_size > _MOST_BYTES:
        raise PromptFileError(f"{path} has over {_MOST_BYTES >> 20} MiB: split it, and give each part a folder")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptFileError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    kind = {".txt": _lines, ".csv": _csv, ".jsonl": _jsonl}[path.suffix.lower()]
    rows: list[PromptRow] = []
    seen: dict[tuple[str, int | None], int] = {}
    files: dict[str, int] = {}
    for line, values in kind(text, path):
        where = f"{path}, line {line}"
        row = _row(where, line, values, seen)
        folded = unicodedata.normalize("NFC", row.file).casefold()
        if (other := files.setdefault(folded, line)) != line:
            raise PromptFileError(f"{where}: output {row.file!r} is that of line {other} too: give each its own name")
        rows.append(row)
    if not rows:
        raise PromptFileError(f"{path} holds no prompt")
    return rows


def _lines(text: str, _path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, {"prompt": line.strip()}


def _csv(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    header: list[str] = []
    began = 1
    try:
        for cells in reader:
            where, line, began = f"{path}, line {began}", began, reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                _check_names(where, header)
                if "prompt" not in header:
                    raise PromptFileError(f"{where}: no column prompt; the first line names the columns")
                if twice := sorted({name for name in header if header.count(name) > 1}):
                    raise PromptFileError(f"{where}: column {twice[0]} is there twice")
            elif len(cells) != len(header):
                raise PromptFileError(
                    f"{where}: {len(cells)} values for {len(header)} columns; a value with a comma stands in quotes"
                )
            else:
                yield line, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise PromptFileError(f"{path}, line {reader.line_num}: no CSV: {error}") from error


def _jsonl(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            values = json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise PromptFileError(f"{where}: no JSON: {error}") from error
        if not isinstance(values, dict):
            raise PromptFileError(f'{where}: expected an object such as {{"prompt": "A red fox."}}, got {line[:60]}')
        _check_names(where, list(values))
        yield number, values


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in it")
    return found


def _check_names(where: str, names: Sequence[str]) -> None:
    for name in names:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name.lower().replace(" ", "_"), COLUMNS, 1, cutoff=0.7)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COLUMNS)}"
            raise PromptFileError(f"{where}: unknown column {name!r}; {hint}")


def _row(where: str, line: int, values: Mapping[str, Any], seen: dict[tuple[str, int | None], int]) -> PromptRow:
    texts = {name: _text(where, name, values.get(name)) for name in ("prompt", "source", "negative_prompt", "output")}
    prompt = texts["prompt"]
    if not prompt:
        raise PromptFileError(f"{where}: the prompt is empty")
    seed = _whole(where, "seed", values.get("seed"), 0, _LARGEST_SEED)
    frames = _whole(where, "frames", values.get("frames"), 1, 1_000_000)
    number = seen[prompt, seed] = seen.get((prompt, seed), -1) + 1
    return PromptRow(
        line,
        prompt,
        _file_name(where, texts["output"]) if texts["output"] else default_name(prompt, seed, number),
        seed,
        _size(where, values.get("size")),
        frames,
        texts["source"],
        _motion(where, values.get("motion")),
        texts["negative_prompt"],
        number,
    )


def default_name(prompt: str, seed: int | None, number: int) -> str:
    """Name of a row's file that names none: the prompt's first words, and a digest of prompt, seed and number.

    So a row that is moved, or whose size is changed, keeps its name.
    """
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = _SLUG.sub("-", plain).strip("-")[:40].strip("-")
    digest = hashlib.blake2b(json.dumps([prompt, seed, number]).encode(), digest_size=5).hexdigest()
    return f"{words or 'clip'}-{digest}.mp4"


def _text(where: str, name: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise PromptFileError(f"{where}: {name} should be a text, got {str(value)[:60]}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PromptFileError(f"{where}: {name} holds half a character (a lone surrogate)") from error
    return value.strip()


def _whole(where: str, name: str, value: Any, least: int, most: int) -> int | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    text = value.strip() if isinstance(value, str) else value
    number = int(text) if isinstance(text, str) and re.fullmatch(r"[0-9]{1,19}", text) else text
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise PromptFileError(
            f"{where}: {name} should be a whole number from {least} to {most}, got {str(value)[:60]!r}"
        )
    return number


def _motion(where: str, value: Any) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not 0 <= score < math.inf:
        raise PromptFileError(f"{where}: motion should be a score from 0 on, such as 6, got {str(value)[:60]!r}")
    return score


def _size(where: str, value: Any) -> tuple[int, int] | None:
    text = _text(where, "size", value)
    if not text:
        return None
    found = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", text)
    if found is None:
        raise PromptFileError(f"{where}: size {text[:60]!r}: expected WIDTHxHEIGHT in pixels, such as 672x384")
    return int(found[1]), int(found[2])


def _file_name(where: str, text: str) -> str:
    name = text if text.lower().endswith(".mp4") else f"{text}.mp4"
    shown = repr(text[:80])
    if "/" in name or "\\" in name:
        raise PromptFileError(f"{where}: output {shown} is a path: give a name, which goes into the folder of --out")
    for character in name:
        if character in _UNPORTABLE or unicodedata.category(character).startswith("C"):
            raise PromptFileError(f"{where}: output {shown} has {character!r}, which not every system takes in a name")
    if name.startswith((".", "-")) or name[:-4].endswith((".", " ")):
        raise PromptFileError(f"{where}: output {shown} begins with . or -, or ends with . or a space: choose another")
    if _RESERVED.fullmatch(name):
        raise PromptFileError(f"{where}: output {shown} is the name of a device on Windows: choose another")
    if len(name.encode()) > _LONGEST_NAME:
        raise PromptFileError(f"{where}: output {shown} has over {_LONGEST_NAME} bytes: choose a shorter one")
    return name
