"""YAML documents whose values know their lines, and `<NAME>` placeholders that a shipped file leaves to its user."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from pipelines.errors import PipelineError

Location = tuple[str | int, ...]
"""Keys and positions from the top of a document to a value."""

_PLACEHOLDER = re.compile(r"<[A-Za-z][\w .-]*>|\b(?:CHANGE|REPLACE)[_-]?ME\b|\bTODO\b|\bFIXME\b")
_FILLABLE = re.compile(r"<([A-Z][A-Z_]*)>")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*")


@dataclass(frozen=True)
class Problem:
    """Something to mend."""

    line: int
    """Counted from 1."""
    where: str
    """Dotted keys, such as `docker.image`; empty for the file as a whole."""
    message: str


@dataclass(frozen=True)
class Document:
    """One document of a file."""

    data: Any
    lines: Mapping[Location, int]
    repeated: tuple[Location, ...]
    """Keys that stand twice in one mapping: YAML would silently take the last."""

    def problem(self, location: Location, message: str) -> Problem:
        """A problem at a location, or at the nearest one above it that the file has."""
        known = location
        while known not in self.lines:
            known = known[:-1]
        dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
        return Problem(self.lines[known], dotted.removeprefix("."), message)

    def get(self, *location: str | int) -> Any:
        """The value there, or None."""
        found = self.data
        for part in location:
            try:
                found = found[part]
            except (KeyError, IndexError, TypeError):
                return None
        return found

    def section(self, *location: str | int) -> dict[str, Any]:
        """The mapping there; empty where there is none."""
        found = self.get(*location)
        return found if isinstance(found, dict) else {}

    def items(self, *location: str | int) -> list[Any]:
        """The list there; empty where there is none."""
        found = self.get(*location)
        return found if isinstance(found, list) else []

    def texts(self) -> Iterator[tuple[Location, str]]:
        """All values that are text, with their locations."""
        return ((at, text) for at in self.lines if isinstance(text := self.get(*at), str))

    def yaml_problems(self) -> Iterator[Problem]:
        """Keys that stand twice, and values that somebody has yet to write."""
        for at in self.repeated:
            yield self.problem(at, "this key stands twice, and YAML takes the last alone: keep one")
        for at, text in self.texts():
            if left := _PLACEHOLDER.search(text):
                name = _FILLABLE.fullmatch(left[0])
                how = f"write it here, or fill it in with --fill {name[1]}=VALUE" if name else "write what belongs here"
                yield self.problem(at, f"{left[0]} is a placeholder: {how}")


def fill(text: str, values: Mapping[str, str]) -> str:
    """Write values in the place of `<NAME>`, everywhere.

    Raises:
        PipelineError: the file has no such name, or the value would change what the YAML around it means.
    """
    known = sorted(set(_FILLABLE.findall(text)))
    for name, value in values.items():
        if name not in known:
            has = f"it has {', '.join(f'<{one}>' for one in known)}" if known else "nothing in it is left to fill in"
            raise PipelineError(f"--fill {name}={value}: the file has no <{name}>; {has}")
        if not _PLAIN.fullmatch(value):
            raise PipelineError(f"--fill {name}={value!r}: expected letters, digits and . _ : / @ + - alone")
        text = text.replace(f"<{name}>", value)
    return text


def read(text: str, path: str) -> list[Document]:
    """The documents of a YAML file.

    Raises:
        PipelineError: it is no YAML, or holds nothing.
    """
    loader = yaml.SafeLoader(text)
    try:
        documents = []
        while loader.check_node():
            node = loader.get_node()
            assert node is not None  # noqa: S101  (there is one)
            lines: dict[Location, int] = {}
            repeated: list[Location] = []
            _note(node, (), node.start_mark.line + 1, lines, repeated)
            # As a schema has it, and as it is sent: keys are text.
            data = json.loads(json.dumps(loader.construct_document(node), default=str))
            documents.append(Document(data, lines, tuple(repeated)))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{path}:{mark.line + 1}" if mark else path
        words = getattr(error, "problem", None) or str(error)
        raise PipelineError(f"{line}: not valid YAML: {words}; look at the indentation and quotes here") from error
    finally:
        loader.dispose()
    if not documents:
        raise PipelineError(f"{path} is empty; expected a cluster file such as ray_cluster.yaml, or a RayJob")
    return documents


def _note(node: yaml.Node, at: Location, line: int, lines: dict[Location, int], repeated: list[Location]) -> None:
    if at in lines and at not in repeated:
        return  # An alias to what is around it.
    lines[at] = line
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, str(key.value))
            if here in lines and key.value != "<<":
                repeated.append(here)
            _note(value, here, key.start_mark.line + 1, lines, repeated)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _note(value, (*at, number), value.start_mark.line + 1, lines, repeated)
