"""Suites are balanced, repeatable, and their two halves share nothing."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lumina.evaluation.prompts import Caption, CaptionSuite, ListSuite, ShapesSuite, build


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


def test_prompts_can_leave_the_speed_unsaid() -> None:
    told = build(ShapesSuite(count=30), "report", 0, ()).prompts
    untold = build(ShapesSuite(count=30, speed_told=False), "report", 0, ()).prompts
    assert [(p.prompt_id, p.truth) for p in told] == [(p.prompt_id, p.truth) for p in untold]
    words = ("fast", "quickly", "slowly", "slow pace")
    assert all(any(word in p.caption for word in words) == bool(p.truth and p.truth.speed) for p in told)
    assert not any(word in p.caption for word in words for p in untold)


def _captions(*texts: str, source: str = "web", heldout: bool = False) -> list[Caption]:
    return [Caption(text, source, heldout) for text in texts]


def test_captions_are_sampled_whatever_their_order() -> None:
    captions = _captions(*(f"clip {i}" for i in range(9)))
    choose = build(CaptionSuite(count=3), "choose", 1, captions)
    assert choose == build(CaptionSuite(count=3), "choose", 1, [*reversed(captions), *_captions("clip 3", " ")])
    report = build(CaptionSuite(count=99), "report", 1, captions)
    assert len(choose.prompts) == 3
    assert len(report.prompts) == 4
    assert not {p.caption for p in choose.prompts} & {p.caption for p in report.prompts}
    assert choose.disjoint


def test_a_large_source_does_not_ask_all_the_questions() -> None:
    sizes = {"large": 900, "middle": 30, "small": 3}
    captions = [c for s, n in sizes.items() for c in _captions(*(f"{s} {i}" for i in range(n)), source=s)]
    for split in ("choose", "report"):
        prompts = build(CaptionSuite(count=13), split, 0, captions).prompts  # type: ignore[arg-type]
        seen = Counter(p.stratum for p in prompts)
        assert sum(seen.values()) == 13
        assert abs(seen["large"] - seen["middle"]) <= 1
        assert seen["small"] in (1, 2)
        assert all(p.caption.startswith(str(p.stratum)) for p in prompts)
    assert {p.stratum for p in build(ShapesSuite(count=3), "choose", 0, ()).prompts} == {None}


def test_captions_of_held_out_clips_come_first_and_none_that_was_trained_on_counts_as_such() -> None:
    captions = [
        *_captions(*(f"seen {i}" for i in range(50)), "both"),
        *_captions(*(f"unseen {i}" for i in range(8)), "both", heldout=True),
        *_captions(*(f"phone {i}" for i in range(50)), source="phone"),
    ]
    for split in ("choose", "report"):
        prompts = build(CaptionSuite(count=8), split, 3, captions).prompts  # type: ignore[arg-type]
        assert Counter((p.stratum, p.heldout) for p in prompts) == {("web", True): 4, ("phone", False): 4}
        assert all(p.caption.startswith("unseen") for p in prompts if p.heldout)
    [both] = [p for p in build(CaptionSuite(count=99), "choose", 3, captions).prompts if p.caption == "both"] or [
        p for p in build(CaptionSuite(count=99), "report", 3, captions).prompts if p.caption == "both"
    ]
    assert not both.heldout


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 9))
@settings(deadline=None)
def test_halves_of_captions_are_disjoint_and_alike_in_size(sizes: list[int], seed: int) -> None:
    captions = [c for s, n in enumerate(sizes) for c in _captions(*(f"{s} {i}" for i in range(n)), source=f"s{s}")]
    choose, report = (build(CaptionSuite(count=99), split, seed, captions) for split in ("choose", "report"))
    texts = [{p.caption for p in half.prompts} for half in (choose, report)]
    if sum(sizes) < 4:
        assert texts[0] == texts[1] == {c.text for c in captions}
        assert not choose.disjoint
    else:
        assert not texts[0] & texts[1]
        assert texts[0] | texts[1] == {c.text for c in captions}
        assert abs(len(texts[0]) - len(texts[1])) <= 1


def test_few_captions_serve_both_halves_and_say_so() -> None:
    found = build(CaptionSuite(), "report", 1, _captions("one", "two"))
    assert {p.caption for p in found.prompts} == {"one", "two"}
    assert not found.disjoint
    with pytest.raises(ValueError, match="no selected clip has one"):
        build(CaptionSuite(), "choose", 1, _captions("", "  "))


def test_written_prompts_are_checked() -> None:
    suite = ListSuite(choose=("a cat", "a dog"), report=("a cat",))
    assert not build(suite, "report", 0, ()).disjoint
    with pytest.raises(ValidationError, match="more than once: 'a cat'"):
        ListSuite(choose=("a cat", "a cat"), report=("x",))
    with pytest.raises(ValidationError, match="a prompt is empty"):
        ListSuite(choose=(" ",), report=("x",))
