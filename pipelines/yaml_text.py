"""YAML from outside: read once its aliases are known to stand for little, and its nesting to end.

A text of a kilobyte can name a list ten times, that list ten times, and so on, for more settings than there is memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

_CHARS = 1 << 20
_NODES = 100_000
_DEPTH = 60


class YamlLimitError(ValueError):
    """A text that nobody wrote by hand.

    Attributes:
        line: where, from 1.
    """

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


@dataclass
class _Open:
    """A list or a mapping that has not ended yet."""

    anchor: str | None
    nodes: int = 1


def load_yaml(text: str) -> Any:
    """Plain data of a YAML text.

    Raises:
        YamlLimitError: it is too long, nested too deeply, or stands for too much.
        yaml.YAMLError, ValueError: it is no YAML.
    """
    _check(text)
    return yaml.safe_load(text)


def _check(text: str) -> None:
    if len(text) > _CHARS:
        raise YamlLimitError(1, f"{len(text):,} characters; at most {_CHARS:,} are read")
    sizes: dict[str, int] = {}
    above: list[_Open] = [_Open(None)]
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark is not None else 1
        nodes = 0
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise YamlLimitError(line, f"the alias *{event.anchor} stands for nothing that ends before it")
            nodes = sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            nodes = 1
            if event.anchor is not None:
                sizes[event.anchor] = nodes
        elif isinstance(event, yaml.CollectionStartEvent):
            above.append(_Open(event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = above.pop()
            nodes = closed.nodes
            if closed.anchor is not None:
                sizes[closed.anchor] = nodes
        above[-1].nodes += nodes
        if above[-1].nodes > _NODES:
            raise YamlLimitError(line, f"with its aliases it stands for over {_NODES:,} values")
        if len(above) > _DEPTH:
            raise YamlLimitError(line, f"it is nested over {_DEPTH} deep")
