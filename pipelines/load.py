"""Read a config: a shipped name or a YAML path, dotted overrides, and errors that say what to type instead."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeGuard, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from curation.texts import TextError, decode
from pipelines.errors import PipelineError, did_you_mean
from pipelines.yaml_text import YamlLimitError, load_yaml

CONFIGS = Path(__file__).parent / "configs"

KIND = "pipeline"
"""The key at the top that says which model a config trains, and so which sections it has."""

M = TypeVar("M", bound=BaseModel)

_FORMS = ("literal[", "dict[")
"""How pydantic names the forms of a setting that takes words or a mapping."""


class ConfigError(PipelineError):
    """A config that cannot be used; the message lists every mistake, one a line."""


def shipped() -> list[str]:
    """Names of the configs that come with the project."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def load(
    models: Mapping[str, type[M]],
    name_or_path: str,
    overrides: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> M:
    """Read `name_or_path`, apply `key.path=value` overrides in order, and check everything by the model of its kind.

    The kind is the value of the key `pipeline`, by default the first of `models`.

    The value for a key whose field is text (a path, a word of a choice) is that text as it is; where the field may also
    be None, `null` or nothing means that. Other values are YAML.

    `defaults` are sections that take the place of those that are missing or empty.

    Raises:
        ConfigError: no such config, broken YAML, an override that is none, or values that the model refuses.
    """
    path = _find(name_or_path)
    try:
        data = load_yaml(decode(path.read_bytes())) or {}
    except (TextError, YamlLimitError) as error:
        raise ConfigError(f"{path}, line {error.line}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # the latter of 2026-13-01
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of settings at the top, got {type(data).__name__}")
    data = _own(data)
    model = _model(models, data, name_or_path, overrides)
    for override in overrides:
        _override(model, data, override)
    data |= {key: section for key, section in (defaults or {}).items() if not data.get(key)}
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = [item for item in error.errors() if not _other_form(item)] or error.errors()
        lines = [_explain(model, data, item) for item in found if not any(_repeats(item, other) for other in found)]
        if len(lines) == 1:
            raise ConfigError(f"{name_or_path}: {lines[0]}") from error
        raise ConfigError("\n  ".join([f"{name_or_path}: {len(lines)} settings to mend", *lines])) from error


def _model(models: Mapping[str, type[M]], data: Mapping[str, Any], name: str, overrides: Sequence[str]) -> type[M]:
    """The model of a config's kind: that decides which overrides there are, so it is known before them."""
    given = [text for key, _, text in (one.partition("=") for one in overrides) if key == KIND]
    kind = given[-1] if given else str(data.get(KIND, next(iter(models))))
    if kind not in models:
        hint = did_you_mean(kind, models)
        told = filter(None, [f"{KIND}: there is no {kind!r}", f"there are: {', '.join(models)}", hint])
        raise ConfigError(f"{name}: {'; '.join(told)}")
    return models[kind]


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; give a YAML file or one of: {', '.join(shipped())}")
        return path
    if name_or_path not in shipped():
        hint = did_you_mean(name_or_path, shipped(), "or give the path of a YAML file")
        raise ConfigError(f"no config is named {name_or_path!r}; there are: {', '.join(shipped())}; {hint}")
    return CONFIGS / f"{name_or_path}.yaml"


def _own(value: Any) -> Any:
    """A copy in which nothing is shared (a YAML alias is: an override would change it at its anchor too).

    Keys are text, so that `train: {1: ...}` and `train: {"1": ...}` are the same.
    """
    if isinstance(value, dict):
        return {str(key): _own(child) for key, child in value.items()}
    return [_own(child) for child in value] if isinstance(value, list) else value


def _override(model: type[BaseModel], data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r}: expected key=value, e.g. train.2.steps=100")
    parts = key.split(".")
    value = _read(_kinds(model, data, parts), override, text)
    node: Any = data
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


def _kinds(model: type[BaseModel], data: Any, parts: Sequence[str]) -> list[Any]:
    """What may stand at a key, as annotations without unions; nothing for a key that there is not."""
    here: list[Any] = [model]
    for part in parts:
        here = [below for kind in here for below in _below(kind, part)]
        if isinstance(data, list):
            data = data[int(part)] if part.isdigit() and int(part) < len(data) else None
        else:
            data = data.get(part) if isinstance(data, dict) else None
        if isinstance(data, dict):
            # A section that names its kind is of no other.
            here = [
                kind
                for kind in here
                if not _is_model(kind) or all(data.get(name, tag) == tag for name, tag in _tags(kind).items())
            ] or here
    return here


def _below(kind: Any, part: str) -> list[Any]:
    """What may stand at a key, or in a place of a list, of something of this kind."""
    if kind is Any:  # settings of an operator that the config names
        return [Any]
    if _is_model(kind):
        field = kind.model_fields.get(part)
        return [] if field is None else list(_expand(field.annotation))
    inside = typing.get_args(kind)[1 if _is_mapping(kind) else 0 :]
    return [below for argument in inside if argument is not ... for below in _expand(argument)]


def _read(kinds: Sequence[Any], override: str, text: str) -> Any:
    """The value of an override: of a key for text the text itself, else YAML."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"override {override!a}: the value is not UTF-8") from error
    others = [kind for kind in kinds if not _is_text(kind) and kind not in (types.NoneType, Any)]
    takes_text = any(map(_is_text, kinds))
    written = text.lstrip().startswith(("{", "["))
    if takes_text and not (others and (written or not all(map(_is_section, others)))):
        return None if types.NoneType in kinds and text in ("", "null") else text
    try:
        # YAML 1.1 reads 1e-4 as text; the field's own type turns it into a number afterwards.
        value = _own(load_yaml(text))
        comment = _has_comment(text)
    except YamlLimitError as error:
        raise ConfigError(f"override {override!r:.80}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        if (takes_text and not written) or not others:
            return text  # where there is no such key, that is the mistake
        wanted = " or ".join(dict.fromkeys(map(_describe, others)))
        problem = getattr(error, "problem", None) or str(error)
        advice = "; text inside goes in quotes" if any(map(_is_section, others)) else ""
        raise ConfigError(
            f"override {override!r}: expected {wanted}, which {text!r} is not: as YAML, {problem}{advice}"
        ) from error
    if takes_text and not isinstance(value, (bool, int, float, dict, list, types.NoneType)):
        return text
    if comment:
        raise ConfigError(f"override {override!r}: in YAML # begins a comment: put the text in quotes, or leave it out")
    return value


def _has_comment(text: str) -> bool:
    """Whether YAML would leave out a part of it."""
    end = 0
    for token in yaml.scan(text):
        if "#" in text[end : token.start_mark.index]:
            return True
        end = token.end_mark.index
    return False


def _is_text(kind: Any) -> bool:
    if typing.get_origin(kind) is typing.Literal:
        return all(isinstance(word, str) for word in typing.get_args(kind))
    return isinstance(kind, type) and issubclass(kind, (str, PurePath))


def _is_model(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _is_mapping(kind: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_section(kind: Any) -> bool:
    return _is_mapping(kind) or typing.get_origin(kind) in (tuple, list) or _is_model(kind)


def _describe(kind: Any) -> str:
    if _is_mapping(kind) or _is_model(kind):
        return "a section like {key: value}"
    if typing.get_origin(kind) in (tuple, list):
        return "a list like [a, b]"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a value")


def _index(node: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(f"override {override!r}: {part!r} is no position of a list of {len(node)}")
    return int(part)


def _other_form(item: Any) -> bool:
    """Whether the item is about words, or about a mapping, where a setting takes either and the other was given."""
    form = str(item["loc"][-1]) if item["loc"] else ""
    return form.startswith(_FORMS) and form.startswith("dict[") != isinstance(item["input"], dict)


def _repeats(item: Any, other: Any) -> bool:
    """Whether `item` is `other` again: a section that several others share is checked with each of them."""
    short, long = other["loc"], item["loc"]
    return (
        0 < len(short) < len(long)
        and long[-len(short) :] == short
        and (item["type"], item["msg"], item["input"]) == (other["type"], other["msg"], other["input"])
    )


def _explain(model: type[BaseModel], data: Any, item: Any) -> str:
    unknown = item["type"] == "extra_forbidden"
    path = _written(model, data, item["loc"][:-1] if unknown else item["loc"])
    owners = set(filter(_is_model, _kinds(model, data, path)))
    if unknown:
        key = str(item["loc"][-1])
        known = {name for owner in owners for name in owner.model_fields}
        tags = {name: tag for owner in owners for name, tag in _tags(owner).items()}
        # The kind was given, and understood.
        hint = did_you_mean(key, known - tags.keys(), f"known here: {', '.join(sorted(known)) or 'none'}", 0.5)
        written = _at(data, path)
        where = "".join(
            f" where {name} is {tag!r}" for name, tag in tags.items() if len(owners) == 1 and name in written
        )
        return f"{'.'.join([*path, key])}: unknown key{where}; {hint}"
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return _explain_kind(path, owners, item["ctx"])
    message = item["msg"].removeprefix("Value error, ")
    got = "" if item["type"] in ("missing", "value_error") else f"; got {item['input']!r}"
    return f"{'.'.join(path)}: {message}{got}" if path else f"{message}{got}"


def _at(data: Any, path: Sequence[str]) -> Any:
    """What a user wrote at a path of keys and of places in lists; nothing for a section that is filled in."""
    for part in path:
        data = data[int(part)] if isinstance(data, list) else data.get(part, {})
    return data


def _explain_kind(path: Sequence[str], owners: set[type[BaseModel]], context: Mapping[str, Any]) -> str:
    """A section of several kinds names none of them, or one that there is not."""
    name = context["discriminator"].strip("'")
    key, known = ".".join([*path, name]), sorted(_tags(owner)[name] for owner in owners if name in _tags(owner))
    if "tag" not in context:
        return f"{key}: missing; there are: {', '.join(known)}"
    hint = did_you_mean(context["tag"], known)
    return "; ".join(filter(None, [f"{key}: there is no {context['tag']!r}", f"there are: {', '.join(known)}", hint]))


def _written(model: type[BaseModel], data: Any, location: Sequence[Any]) -> list[str]:
    """The keys that a user wrote to get to a location, in which pydantic also names the members of unions."""
    path: list[str] = []
    for part in map(str, location):
        if not part.startswith((*_FORMS, "[key]")) and _kinds(model, data, [*path, part]):
            path.append(part)
    return path


def _tags(model: type[BaseModel]) -> dict[str, Any]:
    """The fields of a model that have one value only, which tells it from other kinds."""
    found = {name: typing.get_args(field.annotation) for name, field in model.model_fields.items()}
    return {
        name: values[0]
        for name, values in found.items()
        if len(values) == 1 and typing.get_origin(model.model_fields[name].annotation) is typing.Literal
    }


def _expand(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _expand(argument)
    elif origin is typing.Annotated:
        yield from _expand(typing.get_args(annotation)[0])
    else:
        yield annotation
