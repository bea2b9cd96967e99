"""In which parts two recorded recipes differ, and how a difference reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumina.formats import short_digest

ABSENT = "(absent)"
"""Stands where a recipe does not have a part that the other one has."""
_PARTS = ("config", "code", "inputs", "weights", "files", "facts", "depends", "version", "entry", "schema", "stage")
_TEXTS = ("code", "inputs", "weights", "files", "facts", "depends")
"""Parts that hold texts alone, which are equal where Python says so."""
_SHORT = 32
_AROUND = 10
"""Characters shown before the place in which two long texts part."""


@dataclass(frozen=True)
class Change:
    """One part of a recipe, or one fact about a run, with its two values."""

    part: str
    """`config`, `code`, `inputs`, ...: the top-level part of the recipe."""
    key: str
    """Dotted path: `config.tasks[0].lr`; for code the module; for inputs the key."""
    old: Any
    new: Any

    def __str__(self) -> str:
        if self.part == "code":
            done = "added" if self.old == ABSENT else "removed" if self.new == ABSENT else "changed"
            return f"code {self.key}" + ("" if done == "changed" else f" ({done})")
        if self.part == "inputs":
            old, new = (short_digest(str(value)) for value in (self.old, self.new))
            return f"input {self.key} {old} -> {new}"
        old, new = short_pair(self.old, self.new)
        return f"{self.key} {old} -> {new}"


def recipe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, ...]:
    """Every part in which two recipes differ, those that a person sets first."""
    rest = sorted((old.keys() | new.keys()) - set(_PARTS))
    found: list[Change] = []
    for part in (*_PARTS, *rest):
        before, after = old.get(part), new.get(part)
        if part in _TEXTS and before == after:
            continue
        # Names of modules, inputs and distributions hold dots themselves: the part alone says what they are.
        path = "" if part in ("code", "inputs") else part
        found += [Change(part, *found) for found in _walk(before, after, path)]
    return tuple(found)


def flat_changes(old: Mapping[str, Any], new: Mapping[str, Any], part: str) -> tuple[Change, ...]:
    """Every key in which two mappings differ."""
    return tuple(Change(part, *found) for found in _walk(old, new, ""))


def _walk(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            yield from _walk(old.get(key, ABSENT), new.get(key, ABSENT), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _walk(before, after, f"{path}[{index}]")
    # Python holds 1, 1.0 and true for equal, a fingerprint does not.
    elif old != new or type(old) is not type(new):
        yield path, old, new


def by_inputs_alone(changes: Sequence[Change]) -> bool:
    """Whether nothing but the content of the inputs differs; an input that came or went is a difference of its own."""
    return all(change.part == "inputs" and ABSENT not in (change.old, change.new) for change in changes)


def summary(changes: Sequence[Change], most: int = 2) -> str:
    """The first differences and how many more there are; modules of code count as one."""
    settings = [change for change in changes if change.part not in ("code", "inputs")]
    # What came or went with a version says less than what somebody set.
    parts = [str(change) for change in sorted(settings, key=lambda one: ABSENT in (one.old, one.new))]
    modules = [change for change in changes if change.part == "code"]
    if modules:
        more = f" and {len(modules) - 1} more modules" if len(modules) > 2 else ""
        more = f" and {modules[1].key}" if len(modules) == 2 else more
        parts.append(f"{modules[0]}{more}")
    parts += [str(change) for change in changes if change.part == "inputs" and by_inputs_alone((change,)) is False]
    moved = [change.key for change in changes if by_inputs_alone((change,))]
    if moved:
        parts.append(f"input {', '.join(moved[:2])}" + (f" and {len(moved) - 2} more" if len(moved) > 2 else ""))
    rest = f", and {len(parts) - most} more differences" if len(parts) > most + 1 else ""
    return ", ".join(parts[:most] if rest else parts) + rest


def short_pair(old: Any, new: Any) -> tuple[str, str]:
    """Two values that differ, cut so that the place where they differ can be seen."""
    before, after = _text(old), _text(new)
    if max(len(before), len(after)) <= _SHORT:
        return before, after
    if {ABSENT} & {before, after}:
        return _cut(before, 0), _cut(after, 0)
    start = max(0, _agree(before, after) - _AROUND)
    return _cut(before, start), _cut(after, start)


def _agree(a: str, b: str) -> int:
    """Characters at the start that two texts share."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _cut(text: str, start: int) -> str:
    head = "…" if start else ""
    tail = "…" if len(text) > start + _SHORT else ""
    return f"{head}{text[start : start + _SHORT]}{tail}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
