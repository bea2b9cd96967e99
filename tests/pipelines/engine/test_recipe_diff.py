"""How differences of recipes are found, and read."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.fingerprint import canonical_json
from pipelines.engine.recipe_diff import ABSENT, by_inputs_alone, recipe_changes, short_pair, summary

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from((0.0, 1.0)) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1), inner, max_size=3),
    max_leaves=8,
)
RECIPES = st.fixed_dictionaries(
    {"config": st.dictionaries(st.text("abc", min_size=1), VALUES), "version": st.integers(1, 2)}
)


@given(RECIPES, RECIPES)
def test_recipes_differ_if_and_only_if_a_change_is_named(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert (recipe_changes(old, new) == ()) == (canonical_json(old) == canonical_json(new))
    assert recipe_changes(old, old) == ()


def texts(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [str(change) for change in recipe_changes(old, new)]


def test_every_part_reads_as_plan_says_it() -> None:
    old = {
        "config": {"fps": 8, "tasks": [{"lr": 0.1}], "gone": 1},
        "code": {"lumina.vae": "1", "lumina.old": "1", "lumina.same": "1"},
        "inputs": {"motion": "rows256-add/1:12:" + "a" * 64},
        "weights": {"vae": "sha256:1"},
        "depends": {"torch": "2.12"},
        "version": 1,
    }
    new = {
        "config": {"fps": 12, "tasks": [{"lr": 0.2}]},
        "code": {"lumina.vae": "2", "lumina.new": "1", "lumina.same": "1"},
        "inputs": {"motion": "rows256-add/1:12:" + "b" * 64},
        "weights": {"vae": "sha256:2"},
        "depends": {"torch": "2.13"},
        "version": 2,
    }
    assert texts(old, new) == [
        "config.fps 8 -> 12",
        f"config.gone 1 -> {ABSENT}",
        "config.tasks[0].lr 0.1 -> 0.2",
        "code lumina.new (added)",
        "code lumina.old (removed)",
        "code lumina.vae",
        "input motion aaaaaaaaaaaa -> bbbbbbbbbbbb",
        "weights.vae sha256:1 -> sha256:2",
        "depends.torch 2.12 -> 2.13",
        "version 1 -> 2",
    ]
    # What somebody set comes before what came or went with a version.
    assert summary(recipe_changes(old, new)).startswith("config.fps 8 -> 12, config.tasks[0].lr 0.1 -> 0.2, and ")


def test_code_counts_as_one_and_inputs_are_named() -> None:
    old, new = ({"code": dict.fromkeys("abcd", value), "inputs": {"x": value}} for value in ("1", "2"))
    assert summary(recipe_changes(old, new)) == "code a and 3 more modules, input x"


def test_inputs_alone() -> None:
    assert by_inputs_alone(recipe_changes({"inputs": {"x": "1"}}, {"inputs": {"x": "2"}}))
    assert not by_inputs_alone(recipe_changes({"inputs": {}}, {"inputs": {"x": "2"}}))
    assert not by_inputs_alone(
        recipe_changes({"inputs": {"x": "1"}, "version": 1}, {"inputs": {"x": "2"}, "version": 2})
    )


def test_long_texts_are_cut_where_they_part() -> None:
    start = "You are a model that makes videos of the very best "
    assert short_pair(f"{start}quality.", f"{start}kind.") == ("…very best quality.", "…very best kind.")
    assert short_pair("short", 7) == ("short", "7")
    assert short_pair("x" * 50, ABSENT) == ("x" * 32 + "…", ABSENT)
