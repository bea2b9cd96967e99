"""Grid values: one `-o key=a,b,c` taken apart at its commas, but for those inside brackets and quotes."""

from __future__ import annotations

import yaml

from pipelines.errors import PipelineError
from pipelines.yaml_text import load_yaml

_BRACKETS = {"[": "]", "{": "}"}


def grid_values(override: str) -> tuple[str, tuple[str, ...]]:
    """The key of an override, and its values.

    Brackets and quotes that stand where a value begins keep their commas: `a=[1, 2],[3]` has two lists, `a="x, y"` one
    text, without the quotes.

    Raises:
        PipelineError: there is no key, a value is empty, or a bracket or quote is not closed.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise PipelineError(f"-o {override}: expected key=value, or key=a,b,c for an arm of each, e.g. train.2.lr=1e-3")
    values = tuple(_unquoted(value) for value in _split(override, text))
    if "" in values:
        told = "a value is empty" if len(values) > 1 else "there is no value"
        raise PipelineError(f"-o {override}: {told}; expected key=a,b,c, and null for nothing")
    return key, values


def _split(override: str, text: str) -> list[str]:
    found, start, at = [], 0, 0
    closing: list[str] = []
    begins = True
    while at < len(text):
        one = text[at]
        if begins and one in "'\"":
            at = _quote_end(override, text, at)
            begins = False
        elif one in _BRACKETS and (begins or closing):
            closing.append(_BRACKETS[one])
            begins = True
        elif closing and one == closing[-1]:
            closing.pop()
            begins = False
        elif one == "," and not closing:
            found.append(text[start:at].strip())
            start, begins = at + 1, True
        elif not one.isspace():
            begins = bool(closing) and one in ",:"
        at += 1
    if closing:
        raise PipelineError(
            f"-o {override}: {closing[-1]!r} is missing; a text that begins with a bracket goes in quotes"
        )
    return [*found, text[start:].strip()]


def _quote_end(override: str, text: str, at: int) -> int:
    """Where the quote that opens at `at` closes, as in YAML."""
    quote, at = text[at], at + 1
    while at < len(text):
        if quote == '"' and text[at] == "\\":
            at += 1
        elif text[at] == quote:
            if quote != "'" or text[at + 1 : at + 2] != quote:
                return at
            at += 1
        at += 1
    raise PipelineError(f"-o {override}: a quote {quote} is not closed")


def _unquoted(value: str) -> str:
    if value[:1] not in ("'", '"') or _quote_end(value, value, 0) != len(value) - 1:
        return value
    try:
        return str(load_yaml(value))
    except (yaml.YAMLError, ValueError):
        return value
