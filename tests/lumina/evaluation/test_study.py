"""Arms are what a table of the paper has, and a study finds the planted difference and no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from lumina.evaluation.study import SCORE, Statistics, analyse, arm_cost
from lumina.evaluation.study_arms import StudyConfig, check_patches, paper_schedule, samplers, standard_arms
from lumina.evaluation.subsets import contrasts
from lumina.flow_matching.schedules import SamplerConfig
from lumina.models.config import NextDiTConfig
from lumina.randomness import generator

FINE, MIDDLE, COARSE = (1, 2, 2), (2, 2, 2), (2, 4, 4)
COLOUR, FLICKER = "shapes/colour_acc", "offline/temporal_flicker"


def test_the_arms_of_table_2_are_each_scale_alone_all_combined_and_the_own_schedule() -> None:
    base = SamplerConfig(patches=((0.0, MIDDLE), (0.1, FINE)))
    arms = samplers(standard_arms("schedules", base, [FINE, MIDDLE, COARSE]), base)
    assert list(arms) == ["1x2x2", "2x2x2", "2x4x4", "combined", "own"]
    assert arms["combined"].patches == ((0.0, COARSE), (0.075, MIDDLE), (0.3, FINE))
    assert arms["own"] == base
    # The own schedule is there once, whatever it is called.
    assert list(samplers(standard_arms("schedules", SamplerConfig(), [FINE]), SamplerConfig())) == ["1x2x2"]
    assert paper_schedule([FINE, MIDDLE]) == ((0.0, MIDDLE), (0.3, FINE))


def test_the_arms_of_table_3_are_pairs_of_motion_constant_and_scheduled() -> None:
    arms = samplers(standard_arms("motion", SamplerConfig(steps=7), [FINE]), SamplerConfig(steps=7))
    assert [one.negative_score(0.5, 8.0) for name, one in arms.items() if name.startswith("8/")] == [8.0, 2.0, 8.0]
    assert [one.negative_score(0.01, 8.0) for name, one in arms.items() if name.startswith("8/")] == [8.0, 2.0, 2.0]
    assert {one.steps for one in arms.values()} == {7}


def test_the_finest_scale_alone_costs_one_and_a_coarse_one_little() -> None:
    network = NextDiTConfig(dim=64, n_layers=2, n_heads=4, multiple_of=32, cap_feat_dim=24)
    base = SamplerConfig(steps=10, patches=((0.0, MIDDLE), (0.5, FINE)))
    arms = samplers(standard_arms("schedules", base, [FINE, MIDDLE, COARSE]), base)
    cost = {name: arm_cost(network, (4, 8, 8), one, base, 16) for name, one in arms.items()}
    assert cost["1x2x2"].relative == 1
    assert cost["1x2x2"].evaluations == {"1x2x2": 20}
    assert cost["2x4x4"].relative < cost["2x2x2"].relative < cost["own"].relative < 1
    with pytest.raises(ValueError, match="no patch size"):
        arm_cost(network, (4, 8, 8), SamplerConfig(patches=((0.0, (4, 4, 4)),)), base, 16)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"arms": {"a": {"stesp": 3}}}, "there is no 'stesp' in a sampler"),
        ({"arms": {"a": {}}, "reference": "b"}, "reference is 'b'"),
        ({"metrics": ("shapes/beauty",)}, "unknown metric 'shapes/beauty'"),
        ({"score": {"shapes/beauty": 1.0}}, "score names the unknown metric"),
        ({"score": {COLOUR: 0.0}}, "is zero"),
        ({"score": {COLOUR: 1.0, FLICKER: 1.0}}, "unlike units"),
    ],
)
def test_a_mistake_in_a_study_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        StudyConfig.model_validate(given)


def test_arms_that_cannot_be_or_are_the_same_are_named() -> None:
    with pytest.raises(ValueError, match=r"arm 'b': patches: a schedule starts at t = 0"):
        samplers({"b": {"patches": ((0.5, FINE),)}}, SamplerConfig())
    with pytest.raises(ValueError, match="'a' and 'b' are the same settings"):
        samplers({"a": {}, "b": {"steps": 25}}, SamplerConfig())
    with pytest.raises(ValueError, match=r"arm 'a' samples at patch size \(2, 4, 4\), which the model lacks"):
        check_patches({"a": SamplerConfig(patches=((0.0, COARSE),))}, [FINE], "the model")


def _rows(prompts: int) -> list[dict[str, Any]]:
    """Arm `worse` is wrong on more prompts; `same` has the values of `best`."""
    rows = []
    for number in range(prompts):
        draw = float(generator(0, "study", number).random())
        for arm, rate in (("best", 0.9), ("same", 0.9), ("worse", 0.4)):
            row = {"arm": arm, "prompt_id": f"p{number:02d}", "sample": 0, COLOUR: float(draw < rate), FLICKER: draw}
            rows.append(row)
    return rows


def test_a_planted_difference_is_significant_and_equal_arms_are_not() -> None:
    found = analyse(_rows(40), (COLOUR, FLICKER), {COLOUR: 1.0}, "best", Statistics(resamples=500))
    assert "difference" not in found["best"]
    worse, same = found["worse"]["difference"], found["same"]["difference"]
    assert worse[COLOUR]["significant"]
    assert worse[COLOUR]["value"] < 0
    assert worse[COLOUR] == worse[SCORE]
    assert not same[COLOUR]["significant"]
    assert not worse[FLICKER]["significant"]
    assert same[FLICKER]["p"] == 1
    # Rows in another order are the same study.
    again = analyse(_rows(40)[::-1], (COLOUR, FLICKER), {COLOUR: 1.0}, "best", Statistics(resamples=500))
    assert {arm: again[arm]["metrics"] for arm in found} == {arm: found[arm]["metrics"] for arm in found}


def test_contrasts_with_a_reference_hold_at_the_stated_rate_for_all_groups_at_once() -> None:
    prompts, wrong, trials = 30, 0, 300
    for trial in range(trials):
        rng = generator(0, "contrasts", trial)
        values = rng.normal(size=(5, prompts)) + rng.normal(size=(1, prompts))
        counts = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=300)
        found = contrasts(list("abcde"), values.mean(1), values @ counts.T / prompts, prompts, "a")
        assert [one.group for one in found] == list("bcde")
        wrong += any(one.significant for one in found)
        assert all(one.significant == (one.p < 0.05) or abs(one.p - 0.05) < 0.02 for one in found)
    assert wrong / trials <= 0.08
    with pytest.raises(ValueError, match="no group 'z'"):
        contrasts(["a"], np.zeros(1), np.zeros((1, 9)), 3, "z")
