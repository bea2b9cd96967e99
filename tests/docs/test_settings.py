"""YAML blocks are settings that load, dotted names are keys of the config, and links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from pipelines import cli
from pipelines.config import PipelineConfig, load_config
from pipelines.load import CONFIGS, ConfigError
from tests.docs.pages import PAGES, Block, blocks, inline, prose

SETTINGS = blocks("yaml")


def merged(base: Any, over: Any) -> Any:
    """`over` laid over `base`, mapping by mapping; another kind of thing replaces what was there."""
    if not isinstance(base, Mapping) or not isinstance(over, Mapping) or over.get("kind") != base.get("kind"):
        return over
    # A score is of the figures of one suite.
    return {**base, **{key: value if key == "score" else merged(base.get(key), value) for key, value in over.items()}}


def written(block: Block, folder: Path) -> Path:
    """The shipped config `folder` with the settings of a block; of a video-to-audio one, with what that must have."""
    base = {} if _is_sound(block) else yaml.safe_load((CONFIGS / "folder.yaml").read_text(encoding="utf-8"))
    base = base or {"name": "sounds", "data": {}}
    path = folder / "edited.yaml"
    path.write_text(yaml.safe_dump(merged(base, yaml.safe_load(block.text)), sort_keys=False), encoding="utf-8")
    return path


def _is_sound(block: Block) -> bool:
    return bool(yaml.safe_load(block.text).get("pipeline") == "video_to_audio")


@pytest.mark.parametrize("block", SETTINGS, ids=[block.where for block in SETTINGS])
def test_settings_load(block: Block, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    paths = (CONFIGS / ("v2a.yaml" if _is_sound(block) else "folder.yaml"), written(block, tmp_path))
    before, after = (load_config(str(path), ["data.manifest=clips.csv"]) for path in paths)
    assert after != before, f"{block.where} changes nothing"


def test_the_settings_for_one_gpu_fit_on_it(tmp_path: Path) -> None:
    [block] = [one for one in SETTINGS if one.page.name == "one_gpu.md"]
    path = str(written(block, tmp_path))
    # Twenty steps take five seconds there, and a checkpoint has 28 GB.
    assert load_config(path, ["data.manifest=clips.csv"]).runtime.checkpoint_every is None
    done = CliRunner().invoke(cli.app, ["cost", path, "--cluster", "1xH100"])
    assert done.exit_code == 0, done.output
    assert "Add these settings" not in done.output, done.output


def test_overrides_in_sentences_load(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    for page in PAGES:
        for where, code in inline(page):
            # A brightness is a setting of an edited program: test_code.py.
            if code.startswith("-o ") and "=" in code and "key.path=value" not in code and "brightness" not in code:
                overrides = [word for word in shlex.split(code) if word != "-o"]
                try:
                    load_config("folder", ["data.manifest=clips.csv", *overrides])
                except ConfigError as error:
                    pytest.fail(f"{where} {code}: {error}")


def test_dotted_names_are_keys() -> None:
    sections = set(PipelineConfig.model_fields)
    seen = 0
    for page in PAGES:
        for where, code in inline(page):
            key = re.fullmatch(r"([a-z_]+(?:\.[a-z0-9_]+)+)(?:[:=].*)?", code)
            if (
                key
                and key[1].split(".")[0] in sections
                and not key[1].endswith((".py", ".yaml", ".json", ".jsonl", ".csv"))
            ):
                assert _is_key(PipelineConfig, key[1].split(".")), f"{where}: there is no setting {key[1]}"
                seen += 1
    assert seen > 25


def _is_key(annotation: Any, parts: list[str]) -> bool:
    """Whether a path of keys leads somewhere; keys of mappings and positions of lists may be any."""
    if not parts:
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(parts[0])
        return field is not None and _is_key(field.annotation, parts[1:])
    below = [one for one in get_args(annotation) if not isinstance(one, str)]
    origin = getattr(annotation, "__origin__", None)
    keyed = origin is not None and isinstance(origin, type) and issubclass(origin, Mapping | tuple | list)
    return any(_is_key(one, parts[1:] if keyed else parts) for one in below)


_LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]*)(?:#([^)\s]+))?\)")


def test_links_lead_somewhere() -> None:
    seen = 0
    for page in PAGES:
        for match in _LINK.finditer(prose(page)):
            target, anchor = match[1], match[2]
            if target.startswith("https://"):
                continue
            path = (page.parent / target).resolve() if target else page
            assert path.is_file(), f"{page.name}: {match[0]}"
            if anchor:
                titles = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
                assert anchor in anchors, f"{page.name}: {match[0]}; there are {sorted(anchors)}"
            seen += 1
    assert seen > 30


def test_every_page_is_in_the_index_and_the_readme_stays_short() -> None:
    index = (PAGES[0].parent / "docs" / "README.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert page.name == "README.md" or f"({page.name})" in index, page.name
    assert len(PAGES[0].read_text(encoding="utf-8").split("\n")) <= 200
