"""What a JSON schema says against a document, in words that tell what to write."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pipelines.cluster.document import Document, Location, Problem

_KINDS = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
_KINDS |= {"object": "a mapping", "array": "a list", "null": "nothing"}


def schema_problems(document: Document, schema: Mapping[str, Any]) -> Iterator[Problem]:
    """All that the schema refuses, each at its line."""
    from jsonschema import validators

    validator = validators.validator_for(schema)(schema)
    for error in sorted(validator.iter_errors(document.data), key=lambda error: list(map(str, error.absolute_path))):
        yield from _explain(document, tuple(error.absolute_path), error)


def unknown_key(key: str, known: Collection[str]) -> str:
    """What to say of a key that nobody reads."""
    near = difflib.get_close_matches(key, known, 1, cutoff=0.6)
    return f"unknown key; did you mean {near[0]}?" if near else f"unknown key; known here: {', '.join(sorted(known))}"


def _explain(document: Document, at: Location, error: Any) -> Iterator[Problem]:
    rule, limit, value = error.validator, error.validator_value, error.instance
    if rule == "additionalProperties" and limit is False:
        known = error.schema.get("properties", {})
        for key in value:
            if key not in known:
                yield document.problem((*at, str(key)), unknown_key(str(key), known))
    elif rule == "required":
        # One error for each key that is missing; the message alone says which.
        missing = next(key for key in limit if key not in value and repr(key) in error.message)
        yield document.problem(at, f"{missing} is missing: add it below")
    elif rule == "type":
        kinds = [limit] if isinstance(limit, str) else list(limit)
        expected = " or ".join(_KINDS.get(kind, kind) for kind in kinds)
        yield document.problem(at, f"expected {expected}, got {_shown(value)}{_hint(kinds, value)}")
    elif rule in ("enum", "const"):
        words = [str(one) for one in (limit if rule == "enum" else [limit])]
        near = difflib.get_close_matches(str(value), words, 1)
        hint = f"; did you mean {near[0]}?" if near and len(words) > 1 else ""
        yield document.problem(at, f"expected {' or '.join(words)}, got {_shown(value)}{hint}")
    elif rule in ("minimum", "maximum"):
        yield document.problem(at, f"expected {'at least' if rule == 'minimum' else 'at most'} {limit}, got {value}")
    else:
        yield document.problem(at, error.message)


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return f"the number {value}"


def _hint(kinds: list[str], value: Any) -> str:
    if isinstance(value, str) and value.strip().isdigit() and {"integer", "number"} & set(kinds):
        return f": write {value.strip()} without quotes"
    if kinds == ["string"] and isinstance(value, int | float):
        return f': write "{str(value).lower()}" in quotes'
    return ""
