"""Suites are balanced, repeatable, and their two halves share nothing."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lumina.evaluation.prompts import CaptionSuite, ListSuite, ShapesSuite, build


@settings(max_examples=15)
@given(st.integers(0, 1000), st.integers(2, 100))
def test_shapes_halves_are_disjoint_and_distinct(seed: int, count: int) -> None:
    choose = build(ShapesSuite(count=count), "choose", seed, ()).prompts
    report = build(ShapesSuite(count=count), "report", seed, ()).prompts
    assert len({p.prompt_id for p in choose}) == len({p.prompt_id for p in report}) == count
    assert not {p.truth for p in choose} & {p.truth for p in report}
    assert not {p.caption for p in choose} & {p.caption for p in report}
    assert choose == build(ShapesSuite(count=count), "choose", seed, ()).prompts


@pytest.mark.parametrize("split", ["choose", "report"])
def test_shapes_are_spread_evenly_and_captions_tell_the_truth(split: str) -> None:
    prompts = build(ShapesSuite(count=30), split, 0, ()).prompts  # type: ignore[arg-type]
    for attribute, number in (("color", 6), ("kind", 3), ("direction", 5)):
        seen = Counter(getattr(p.truth, attribute) for p in prompts)
        assert len(seen) == number
        assert max(seen.values()) <= 30 / number + 2, seen
    for prompt in prompts:
        assert prompt.truth is not None
        assert f"{prompt.truth.color} {prompt.truth.kind}" in prompt.caption
        assert (prompt.truth.speed == 0) == (prompt.truth.direction == "still")
    assert len({p.truth.speed for p in prompts if p.truth}) == 3


def test_captions_are_sampled_whatever_their_order() -> None:
    captions = [f"clip {i}" for i in range(9)]
    choose = build(CaptionSuite(count=3), "choose", 1, captions)
    assert choose == build(CaptionSuite(count=3), "choose", 1, [*reversed(captions), "clip 3", " "])
    report = build(CaptionSuite(count=99), "report", 1, captions)
    assert len(choose.prompts) == 3
    assert len(report.prompts) == 4
    assert not {p.caption for p in choose.prompts} & {p.caption for p in report.prompts}
    assert choose.disjoint


def test_few_captions_serve_both_halves_and_say_so() -> None:
    found = build(CaptionSuite(), "report", 1, ["one", "two"])
    assert {p.caption for p in found.prompts} == {"one", "two"}
    assert not found.disjoint
    with pytest.raises(ValueError, match="no selected clip has one"):
        build(CaptionSuite(), "choose", 1, ["", "  "])


def test_written_prompts_are_checked() -> None:
    suite = ListSuite(choose=("a cat", "a dog"), report=("a cat",))
    assert not build(suite, "report", 0, ()).disjoint
    with pytest.raises(ValidationError, match="more than once: 'a cat'"):
        ListSuite(choose=("a cat", "a cat"), report=("x",))
    with pytest.raises(ValidationError, match="a prompt is empty"):
        ListSuite(choose=(" ",), report=("x",))
