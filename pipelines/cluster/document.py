"""A YAML file whose values know their lines, and the values that a shipped file leaves to its user."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from pipelines.errors import PipelineError

Location = tuple[str | int, ...]
"""Keys and positions from the top of a document to a value."""

_PLACEHOLDER = re.compile(
    r"<[A-Za-z][\w .-]*>|\b(?:CHANGE|REPLACE|FILL)[_-]?ME\b|\bYOUR[_-]\w+|\bTODO\b|\bFIXME\b"
    r"|\b[\w.]*example\.(?:com|org|net)\b"
)
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
    repeated: tuple[Problem, ...]
    """Keys that stand twice in one mapping: YAML would silently take the last."""

    def problem(self, location: Location, message: str) -> Problem:
        """A problem at a location, or at the nearest one above it that the file has."""
        known = location
        while known not in self.lines:
            known = known[:-1]
        return Problem(self.lines[known], dotted(location), message)

    def get(self, *location: str | int) -> Any:
        """The value there, or None."""
        found = self.data
        for part in location:
            try:
                found = found[part]
            except (KeyError, IndexError, TypeError):
                return None
        return found

    def section(self, *location: str | int) -> dict[Any, Any]:
        """The mapping there; empty where there is none."""
        found = self.get(*location)
        return found if isinstance(found, dict) else {}

    def items(self, *location: str | int) -> list[Any]:
        """The list there; empty where there is none."""
        found = self.get(*location)
        return found if isinstance(found, list) else []

    def texts(self) -> Iterator[tuple[Location, str]]:
        """All values that are text, in the order of the file."""
        yield from _texts(self.data, ())

    def placeholders(self) -> list[Problem]:
        """Values that somebody has yet to write."""
        found = []
        for location, text in self.texts():
            left = _PLACEHOLDER.search(text)
            if left is not None:
                name = _FILLABLE.fullmatch(left[0])
                how = f"write it here, or fill it in with --fill {name[1]}=VALUE" if name else "write what belongs here"
                found.append(self.problem(location, f"{left[0]} is a placeholder: {how}"))
        return found


def dotted(location: Location) -> str:
    """`available_node_types.gpu.resources`; positions in brackets."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def fill(text: str, values: Mapping[str, str]) -> str:
    """Write values in the place of `<NAME>`, everywhere.

    Raises:
        PipelineError: the file has no such name, or the value would change what the YAML around it means.
    """
    known = sorted(set(_FILLABLE.findall(text)))
    for name, value in values.items():
        if name not in known:
            raise PipelineError(
                f"--fill {name}={value}: the file has no <{name}>; "
                f"{'it has ' + ', '.join(f'<{one}>' for one in known) if known else 'nothing in it is left to fill in'}"
            )
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
            repeated: list[Problem] = []
            _note(node, (), node.start_mark.line + 1, lines, repeated)
            documents.append(Document(loader.construct_document(node), lines, tuple(repeated)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"{path}:{mark.line + 1}" if mark else path
        raise PipelineError(
            f"{line}: not valid YAML: {error.problem}; look at the indentation and quotes here"
        ) from error
    except yaml.YAMLError as error:
        raise PipelineError(f"{path}: not valid YAML: {error}") from error
    finally:
        loader.dispose()
    if not documents:
        raise PipelineError(f"{path} is empty; expected a cluster file such as ray_cluster.yaml, or a RayJob")
    return documents


def _note(node: yaml.Node, at: Location, line: int, lines: dict[Location, int], repeated: list[Problem]) -> None:
    if at in lines:
        return  # An alias to what is around it.
    lines[at] = line
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            here, name = key.start_mark.line + 1, str(key.value)
            if name in seen and name != "<<":
                words = f"this key stands in line {seen[name]} too, and YAML takes the last alone: keep one"
                repeated.append(Problem(here, dotted((*at, name)), words))
            seen[name] = here
            lines.pop((*at, name), None)
            _note(value, (*at, name), here, lines, repeated)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _note(value, (*at, number), value.start_mark.line + 1, lines, repeated)


def _texts(value: Any, at: Location) -> Iterator[tuple[Location, str]]:
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _texts(child, (*at, str(key)))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from _texts(child, (*at, number))
