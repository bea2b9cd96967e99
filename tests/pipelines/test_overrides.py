"""`-o KEY=TEXT`: whatever is typed for a key whose field is text is what the config holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from pipelines.config import PIPELINES, load_config
from pipelines.load import CONFIGS, _override, _own, shipped

SECTIONS = ["split={detector: content}", "runtime.ray_address=auto", "data.manifest=clips.csv"]
OPTIONAL = ["tag.template", "export.source", "ingest.media_dir", "store_cache", "tracking_uri", "weights.transformer"]
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)


def texts(value: object, *path: str) -> Iterator[str]:
    """Keys of all that is text in a config; as they are looked for in values, they owe nothing to annotations."""
    if isinstance(value, (str, Path)):
        yield ".".join(path)
    elif isinstance(value, BaseModel):
        for name, child in value:
            yield from texts(child, *path, name)
    elif isinstance(value, Mapping):
        for name, child in value.items():
            yield from texts(child, *path, name)
    elif isinstance(value, tuple):
        for index, child in enumerate(value):
            yield from texts(child, *path, str(index))


def keys(config: str) -> list[str]:
    rendered = config in ("demo", "sound")
    found = load_config(config, [] if rendered else SECTIONS, needs_clips=rendered)
    optional = [key for key in OPTIONAL if key.split(".")[0] in type(found).model_fields]
    if found.pipeline != "text_to_video":
        optional = [key for key in optional if not key.startswith("export.")]
    return [*optional, *texts(found)]


def put(config: str, override: str) -> object:
    """What is at the key after an override, before any check."""
    data = _own(yaml.safe_load((CONFIGS / f"{config}.yaml").read_text()))
    _override(PIPELINES[data.get("pipeline", "text_to_video")], data, override)
    for part in override.partition("=")[0].split("."):
        data = data[int(part)] if isinstance(data, list) else data[part]
    return data


def standing(config: str) -> list[str]:
    """Keys of text, without positions in lists that are not written out."""
    data = _own(yaml.safe_load((CONFIGS / f"{config}.yaml").read_text()))
    found = []
    for key in keys(config):
        node, parts = data, key.split(".")
        for part in parts[:-1]:
            if isinstance(node, str):  # a preset's name, for a whole section
                break
            node = node[int(part)] if isinstance(node, list) else (node or {}).get(part)
        if isinstance(node, list) or not (isinstance(node, str) or parts[-1].isdigit()):
            found.append(key)
    return found


def test_texts_are_found_everywhere() -> None:
    found = standing("demo")
    assert {"tag.system_prompts.web", "name", "store", "weights.vae", "train.3.latents.1", "motion.estimator"} < set(
        found
    )
    assert "train.3.tasks.2.media" in found
    assert "evaluate.suite.kind" in found
    assert "data.manifest" in standing("folder")
    assert "split.detector" in standing("folder")


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([(name, key) for name in shipped() for key in standing(name)]), TEXT)
def test_any_text_comes_back_unchanged(where: tuple[str, str], text: str) -> None:
    config, key = where
    if text not in ("", "null"):
        assert put(config, f"{key}={text}") == text


@settings(max_examples=60)
@given(TEXT.filter(lambda text: text.strip() not in ("", "null")))
def test_the_checked_config_holds_it_too(text: str) -> None:
    found = load_config(
        "folder",
        [f"{key}={text}" for key in ("data.manifest", "tag.system_prompts.web", "store", "ingest.default_source")],
    )
    assert (found.tag.system_prompts["web"], found.store, found.ingest.default_source) == (text,) * 3
    assert found.data.manifest == Path(text)


@pytest.mark.parametrize(
    "override", ["evaluate.metrics=[fvd, x]", "train.1.latents=[a, b]", "tag.system_prompts={a: b}"]
)
def test_lists_and_sections_of_text_are_yaml(override: str) -> None:
    assert put("demo", override) in (["fvd", "x"], ["a", "b"], {"a": "b"})
