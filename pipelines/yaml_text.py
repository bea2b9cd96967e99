"""YAML from outside: read once its aliases are known to stand for little, its nesting to end, its keys to differ.

A text of a kilobyte can name a list ten times, that list ten times, and so on, for more settings than there is memory.
"""

from __future__ import annotations

from typing import Any

import yaml

_CHARS = 1 << 20
_NODES = 100_000
_DEPTH = 60


class YamlLimitError(ValueError):
    """A text that nobody wrote by hand, or not as it was meant.

    Attributes:
        line: where, from 1.
    """

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class _Bounded(yaml.SafeLoader):
    """Stops once what is read stands for too much."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}
        """Values that a node stands for, its aliases included."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) and id(self.anchors.get(event.anchor)) not in self._sizes:
            raise YamlLimitError(line, f"the alias *{event.anchor} stands for nothing that ends before it")
        self._depth += 1
        if self._depth > _DEPTH:
            raise YamlLimitError(line, f"it is nested over {_DEPTH} deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        below = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            below = [one for pair in node.value for one in pair]
        size = self._sizes[id(node)] = 1 + sum(self._sizes[id(one)] for one in below)
        if size > _NODES:
            raise YamlLimitError(line, f"with its aliases it stands for over {_NODES:,} values")
        return node


def _check_keys(node: yaml.MappingNode) -> None:
    """PyYAML takes the last of two: two scorers of one name, or a rule that is silently gone."""
    seen = dict[tuple[str, str], int]()
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        if first := seen.get((key.tag, key.value)):
            raise YamlLimitError(line, f"{key.value!r} is there twice, in line {first} before: leave one of them out")
        seen[key.tag, key.value] = line


def load_yaml(text: str) -> Any:
    """Plain data of a YAML text.

    Raises:
        YamlLimitError: it is too long, nested too deeply, stands for too much, or has a key twice.
        yaml.YAMLError, ValueError: it is no YAML.
    """
    if len(text) > _CHARS:
        raise YamlLimitError(1, f"{len(text):,} characters; at most {_CHARS:,} are read")
    return yaml.load(text, _Bounded)  # noqa: S506  (a SafeLoader)
