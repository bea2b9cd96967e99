"""Prompt files of VBench, right and wrong ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lumina.vbench.prompts import find_prompts, read_prompts

_ENTRIES: list[dict[str, Any]] = [
    {"prompt_en": "a red car", "dimension": ["color"], "auxiliary_info": {"color": {"color": "red"}}},
    {
        "prompt_en": "alley",
        "dimension": ["scene", "background_consistency"],
        "auxiliary_info": {"scene": {"scene": {"scene": "alley"}}},
    },
    {"prompt_en": "a stop sign", "dimension": ["temporal_flickering"]},
    {
        "prompt_en": "a cup on the left of a bowl",
        "dimension": ["spatial_relationship"],
        "auxiliary_info": {
            "spatial_relationship": {
                "spatial_relationship": {"object_a": "cup", "object_b": "bowl", "relationship": "on the left of"}
            }
        },
    },
    {
        "prompt_en": "alley",
        "dimension": ["appearance_style"],
        "auxiliary_info": {"appearance_style": {"appearance_style": "oil painting"}},
    },
]


def _write(folder: Path, content: Any) -> Path:
    path = folder / "VBench_full_info.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_prompts_of_chosen_dimensions(tmp_path: Path) -> None:
    path = _write(tmp_path, _ENTRIES)
    found = read_prompts(path)
    assert [prompt.text for prompt in found] == ["a red car", "alley", "a stop sign", "a cup on the left of a bowl"]
    # The file holds "alley" twice: one prompt with the dimensions of both.
    assert found[1].dimensions == ("background_consistency", "scene", "appearance_style")
    assert found[1].auxiliary == {"scene": {"scene": "alley"}, "appearance_style": {"appearance_style": "oil painting"}}
    assert found[3].auxiliary["spatial_relationship"]["object_b"] == "bowl"
    [one] = read_prompts(path, ["scene"])
    assert (one.text, one.dimensions, set(one.auxiliary)) == ("alley", ("scene",), {"scene"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "VBench_full_info.json"),
        ({"prompts": []}, "expected a list of prompts"),
        ([], "expected a list of prompts"),
        ([{"prompt": "a"}], "entry 1: expected an object with the text prompt_en"),
        ([{"prompt_en": "a"}], "entry 1: expected a list of dimensions"),
        ([{"prompt_en": "a", "dimension": ["colour"]}], "entry 1: unknown dimension 'colour'"),
        ([{"prompt_en": "a", "dimension": ["color"]}], "entry 1: auxiliary_info does not tell color its color"),
        (
            [{"prompt_en": "a", "dimension": ["color"], "auxiliary_info": {"color": {"color": 3}}}],
            "does not tell color its color",
        ),
        ([{"prompt_en": "a", "dimension": ["scene"], "auxiliary_info": ["x"]}], "auxiliary_info is no object"),
    ],
)
def test_wrong_files_are_named_with_the_entry(tmp_path: Path, content: Any, message: str) -> None:
    path = _write(tmp_path, content)
    with pytest.raises(ValueError, match=r"VBench_full_info\.json") as caught:
        read_prompts(path)
    assert message in str(caught.value)


def test_a_dimension_without_a_prompt_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no prompt for human_action"):
        read_prompts(_write(tmp_path, _ENTRIES), ["color", "human_action"])


def test_a_file_that_is_not_there_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no file"):
        find_prompts(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match="wheel of vbench"):
        find_prompts(None)
