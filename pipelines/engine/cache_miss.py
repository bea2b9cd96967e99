"""Why a stage is not in the store: what its recipe says otherwise than that of an output that is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from pipelines.engine.recipe_diff import ABSENT, Change, recipe_changes, short_pair
from pipelines.engine.store.manifest import Manifest

_HASH = re.compile(r"([0-9a-f]{12})[0-9a-f]{20,}")
_DIGITS = 8
"""Of the digest of a module, enough to see that it is another one."""
_NAMED = 4
"""Modules that are named."""


@dataclass(frozen=True)
class Nearest:
    """The output that a stage is compared with."""

    manifest: Manifest
    changes: tuple[Change, ...]
    """Its recipe -> the wanted one."""

    @property
    def by_code_alone(self) -> bool:
        """Whether nothing but code differs, and something does."""
        return bool(self.changes) and all(change.part == "code" for change in self.changes)


def nearest(history: Iterable[Manifest], recipe: Mapping[str, Any], unknown: Set[str] = frozenset()) -> Nearest | None:
    """The output that explains best why a stage has to run; None if there is none.

    With unknown inputs, the newest that has the same recipe but for them. Else the newest from which nothing but the
    code differs; else the newest.

    Args:
        history: records of the stage, the newest first.
        recipe: the one that is wanted.
        unknown: keys of the inputs whose content has yet to be computed: that they have another one is no change.
    """
    found = [_compare(manifest, recipe, unknown) for manifest in history]
    same = [one for one in found if not one.changes] if unknown else []
    return next(iter([*same, *(one for one in found if one.by_code_alone), *found]), None)


def by_code_alone(history: Iterable[Manifest], recipe: Mapping[str, Any]) -> list[Nearest]:
    """The outputs from which nothing but the code differs, in the order of `history`."""
    found = (_compare(manifest, recipe, frozenset()) for manifest in history)
    return [one for one in found if one.by_code_alone]


def _compare(manifest: Manifest, recipe: Mapping[str, Any], unknown: Set[str]) -> Nearest:
    changes = recipe_changes(manifest.recipe, recipe)
    return Nearest(
        manifest,
        tuple(
            change
            for change in changes
            # An input that came or went is a change whatever it holds.
            if change.part != "inputs" or change.key not in unknown or ABSENT in (change.old, change.new)
        ),
    )


def reason(changes: Sequence[Change]) -> str:
    """The first part that differs, old -> new, and how many others there are: `config.fps 8 -> 12; 1 other difference`.

    All modules of code count as one part. Empty if nothing differs.
    """
    parts = [_text(change) for change in changes if change.part != "code"]
    modules = _modules(changes)
    # What somebody set comes first: code mostly moves along with it.
    after = sum(change.part == "config" for change in changes)
    parts[after:after] = [f"code {_module(modules[0])}{_more(len(modules) - 1, ' modules')}"] if modules else []
    others = f"; {len(parts) - 1} other difference{'s' if len(parts) > 2 else ''}" if len(parts) > 1 else ""
    return "".join(parts[:1]) + others


def module_names(changes: Sequence[Change]) -> str:
    """The modules that differ, `lumina.motion, lumina.video (new) and 2 more`; empty for none."""
    names = [f"{change.key}{_came_or_went(change)}" for change in _modules(changes)]
    return ", ".join(names[:_NAMED]) + _more(len(names) - _NAMED, "")


def _modules(changes: Sequence[Change]) -> list[Change]:
    """Those that were edited before those that came or went, which mostly follow from an edit."""
    return sorted((change for change in changes if change.part == "code"), key=lambda one: bool(_came_or_went(one)))


def _module(change: Change) -> str:
    gone = _came_or_went(change)
    return f"{change.key}{gone}" if gone else f"{change.key} {change.old[:_DIGITS]} -> {change.new[:_DIGITS]}"


def _came_or_went(change: Change) -> str:
    return " (new)" if change.old == ABSENT else " (gone)" if change.new == ABSENT else ""


def _more(count: int, what: str) -> str:
    return f" and {count} more{what if count > 1 else what.rstrip('s')}" if count > 0 else ""


def _text(change: Change) -> str:
    if change.part == "inputs":
        return str(change)
    old, new = (_HASH.sub(r"\1", value) if isinstance(value, str) else value for value in (change.old, change.new))
    return "{} {} -> {}".format(change.key, *short_pair(old, new))
