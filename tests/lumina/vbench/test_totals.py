"""Tables 1 and 4 of the paper, gaps, and intervals of totals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lumina.vbench.clip_score import ClipScore
from lumina.vbench.dimensions import DIMENSIONS
from lumina.vbench.intervals import Judged, figures
from lumina.vbench.published import MULTI_SCALE, UNEXPLAINED, Published, published
from lumina.vbench.totals import MissingDimensionsError, group_score, totals

_BOUND = 0.0136
"""Points that rounding Table 4 and Table 1 to .01 can make."""


@pytest.mark.parametrize("row", published(), ids=lambda row: row.model)
def test_table_4_gives_table_1(row: Published) -> None:
    own, printed = row.corrected().derived(), row.printed
    assert own.quality == pytest.approx(printed.quality, abs=_BOUND)
    assert own.total == pytest.approx(printed.total, abs=_BOUND)
    if row.model in UNEXPLAINED:
        assert own.semantic - printed.semantic == pytest.approx(-0.049, abs=0.001)
    else:
        assert own.semantic == pytest.approx(printed.semantic, abs=_BOUND)


def test_the_multi_scale_row_needs_its_styles_exchanged() -> None:
    [row] = [row for row in published() if row.model == MULTI_SCALE]
    assert row.derived().semantic - row.printed.semantic == pytest.approx(0.173, abs=0.001)
    assert (row.corrected().scores["appearance_style"], row.corrected().scores["temporal_style"]) == (23.42, 25.47)


@pytest.mark.parametrize(("gap", "group"), [("color", "semantic"), ("dynamic_degree", "quality")])
@pytest.mark.parametrize("absent", [True, False])
def test_a_gap_has_no_total(gap: str, group: str, absent: bool) -> None:
    scores = dict.fromkeys(DIMENSIONS, 0.5)
    if absent:
        del scores[gap]
    else:
        scores[gap] = math.nan
    with pytest.raises(MissingDimensionsError, match=f"no {group} score without {gap}:"):
        totals(scores)
    other = "quality" if group == "semantic" else "semantic"
    assert 0 < group_score(scores, other) < 1  # type: ignore[arg-type]


def test_scores_at_the_ends_are_normalised_to_0_and_1() -> None:
    lowest = totals({name: one.least for name, one in DIMENSIONS.items()})
    highest = totals({name: one.greatest for name, one in DIMENSIONS.items()})
    assert (lowest.quality, lowest.semantic, lowest.total) == (0.0, 0.0, 0.0)
    assert (highest.quality, highest.semantic, highest.total) == pytest.approx((1.0, 1.0, 1.0))


def _judged(dimension: str, prompts: int, mean: float, samples: int = 3) -> list[Judged]:
    rng = np.random.default_rng(len(dimension))
    return [
        Judged(f"{dimension} {number}", ClipScore(float(rng.random() < mean), 1))
        for number in range(prompts)
        for _ in range(samples)
    ]


def test_totals_and_dimensions_have_intervals_over_prompts() -> None:
    judged = {name: _judged(name, 40, 0.6) for name in DIMENSIONS}
    strata = {clip.prompt: name for name, clips in judged.items() for clip in clips}
    found = figures(judged, strata, seed=1, resamples=2000)
    assert list(found) == [*DIMENSIONS, "quality", "semantic", "total"]
    whole = totals({name: found[name].value for name in DIMENSIONS})
    assert (found["quality"].value, found["total"].value) == pytest.approx((whole.quality, whole.total))
    for name in ("color", "semantic", "total"):
        ends = found[name].interval(0.95)
        assert ends.low < found[name].value < ends.high
    # Bernoulli of 40 prompts with three clips each: about sqrt(.24 / 120).
    assert found["color"].draws.std() == pytest.approx(math.sqrt(0.24 / 120), rel=0.3)
    assert (found["color"].prompts, found["color"].clips) == (40, 120)
    # The nine semantic dimensions average out.
    assert found["semantic"].draws.std() < found["color"].draws.std()


def test_without_a_dimension_its_group_and_the_total_have_no_figure() -> None:
    judged = {name: _judged(name, 4, 0.5) for name in DIMENSIONS if name != "scene"}
    strata = {clip.prompt: name for name, clips in judged.items() for clip in clips}
    assert list(figures(judged, strata, 0, 100))[-1] == "quality"


def test_long_clips_weigh_more_in_every_resample() -> None:
    judged = {"subject_consistency": [Judged("long", ClipScore(90.0, 100)), Judged("short", ClipScore(0.0, 1))]}
    found = figures(judged, {"long": "", "short": ""}, 0, 500)["subject_consistency"]
    assert found.value == pytest.approx(90 / 101)
    assert set(np.round(found.draws, 6)) == {0.0, 0.9, round(90 / 101, 6)}


def test_three_samples_of_five_give_the_figure_of_those_three() -> None:
    clips = [Judged(f"p{number}", ClipScore(number / 7, 1)) for number in range(5) for _ in range(5)]
    strata = {f"p{number}": "" for number in range(5)}
    three = [clip for number, clip in enumerate(clips) if number % 5 < 3]
    many, few = (figures({"color": found}, strata, 0, 200)["color"] for found in (clips, three))
    assert few.value == pytest.approx(many.value)
    assert np.allclose(few.draws, many.draws)
