"""Read a config: a shipped name or a YAML path, dotted overrides, and errors that say what to type instead."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipelines.errors import PipelineError

CONFIGS = Path(__file__).parent / "configs"

M = TypeVar("M", bound=BaseModel)


class ConfigError(PipelineError):
    """A config that cannot be used; the message lists every mistake, one a line."""


def shipped() -> list[str]:
    """Names of the configs that come with the project."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def load(model: type[M], name_or_path: str, overrides: Sequence[str] = ()) -> M:
    """Read `name_or_path`, apply `key.path=value` overrides in order, and check everything.

    Raises:
        ConfigError: no such config, broken YAML, an override that is none, or values that the model refuses.
    """
    path = _find(name_or_path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of settings at the top, got {type(data).__name__}")
    for override in overrides:
        _override(model, data, override)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_explain(model, data, item) for item in error.errors()]
        raise ConfigError("\n".join([f"{name_or_path}: {len(lines)} setting(s) to mend", *lines])) from error


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; give a YAML file or one of: {', '.join(shipped())}")
        return path
    if name_or_path not in shipped():
        near = difflib.get_close_matches(name_or_path, shipped(), 1)
        hint = f"did you mean {near[0]!r}?" if near else "or give the path of a YAML file"
        raise ConfigError(f"no config is named {name_or_path!r}; there are: {', '.join(shipped())}; {hint}")
    return CONFIGS / f"{name_or_path}.yaml"


def _override(model: type[BaseModel], data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r}: expected key=value, e.g. train.2.steps=100")
    try:
        # YAML 1.1 reads 1e-4 as text; the field's own type turns it into a number afterwards.
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from error
    node: Any = data
    parts = key.split(".")
    for depth, part in enumerate(parts[:-1]):
        if isinstance(node, list):
            node = node[_index(node, part, override)]
        else:
            if not isinstance(node.get(part), (dict, list)):
                node[part] = {}
            node = node[part]
        if not isinstance(node, (dict, list)):
            raise ConfigError(f"override {override!r}: {'.'.join(parts[: depth + 1])} is no section")
    if isinstance(node, list):
        node[_index(node, parts[-1], override)] = value
    else:
        node[parts[-1]] = value


def _index(node: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(f"override {override!r}: {part!r} is no position of a list of {len(node)}")
    return int(part)


def _explain(model: type[BaseModel], data: Mapping[str, Any], item: Any) -> str:
    location = [str(part) for part in item["loc"] if not _is_tag(part)]
    where = ".".join(location) or "config"
    if item["type"] == "extra_forbidden":
        known = sorted({name for owner in _models_at(model, item["loc"][:-1]) for name in owner.model_fields})
        near = difflib.get_close_matches(location[-1], known, 1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"  {where}: unknown key; {hint}"
    message = item["msg"].removeprefix("Value error, ")
    got = "" if item["type"] in ("missing", "value_error") else f"; got {item['input']!r}"
    return f"  {where}: {message}{got}"


def _is_tag(part: object) -> bool:
    return isinstance(part, str) and (part.startswith("function-") or part == "[key]")


def _models_at(model: type[BaseModel], location: Sequence[Any]) -> set[type[BaseModel]]:
    """The models that may stand at a location; unions are followed on all sides."""
    here: list[Any] = [model]
    for part in location:
        below: list[Any] = []
        for annotation in here:
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                field = annotation.model_fields.get(str(part))
                below += list(_expand(field.annotation)) if field is not None else []
            else:
                below += [inner for argument in typing.get_args(annotation) for inner in _expand(argument)]
        # A part that names a member of a union (its tag) moves nowhere.
        here = below or here
    return {a for a in here if isinstance(a, type) and issubclass(a, BaseModel)}


def _expand(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _expand(argument)
    elif origin is typing.Annotated:
        yield from _expand(typing.get_args(annotation)[0])
    else:
        yield annotation
