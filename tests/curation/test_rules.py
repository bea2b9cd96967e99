from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.rules import Rules, SourceRules, failed_rules, reason_of, score_columns
from curation.schema import MOTION, Reason
from tests.curation.test_selection import CLIP


@pytest.mark.parametrize(
    ("cell", "detail"),
    [
        ('{"beauty": ""}', "extra.beauty is missing"),
        ("{}", "extra.beauty is missing"),
        ('{"beauty": null}', "extra.beauty is missing"),
        ('{"beauty": "good"}', "extra.beauty 'good' is no finite number"),
        ('{"beauty": true}', "extra.beauty True is no finite number"),
        ('{"beauty": "nan"}', "extra.beauty 'nan' is no finite number"),
        ('{"beauty": "-3"}', "extra.beauty -3 below 0"),
        ('{"beauty": 1e7}', "extra.beauty 10000000 above 5"),
    ],
)
def test_a_cell_that_is_no_number_fails_and_says_so(cell: str, detail: str) -> None:
    rules = Rules(scores={"extra.beauty": {"min": 0, "max": 5}})  # type: ignore[dict-item]
    [failure] = failed_rules(CLIP | {"extra": cell}, rules)
    assert (failure.rule, failure.reason, failure.detail) == ("score:extra.beauty", Reason.SCORE, detail)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
@pytest.mark.parametrize("limits", [{"min": -1e9}, {"max": 1e9}, {"min": -1, "max": 1}])
def test_what_is_no_number_passes_no_limit(value: float | None, limits: dict[str, float]) -> None:
    rules = Rules.model_validate({"scores": {"brightness": limits}})
    [failure] = failed_rules(CLIP | {"brightness": value}, rules)
    assert failure.reason is Reason.SCORE
    assert failure.detail == ("brightness is missing" if value is None else f"brightness {value} is no finite number")


def test_scores_of_time_and_motion_do_not_concern_images() -> None:
    rules = Rules.model_validate(
        {"scores": {name: {"min": 1} for name in ("fps", "flow_mag_mean", "camera_pan", "width")}}
    )
    image = CLIP | {"media": "image", "fps": None, "flow_mag_mean": None, "camera_pan": None, "width": 0}
    assert [failure.rule for failure in failed_rules(image, rules)] == ["score:width"]


@given(value=st.floats(-10, 10), low=st.none() | st.floats(-10, 10), high=st.none() | st.floats(-10, 10))
def test_a_score_passes_if_and_only_if_it_lies_in_its_range(
    value: float, low: float | None, high: float | None
) -> None:
    if low is not None and high is not None and low > high:
        with pytest.raises(ValidationError, match="is larger than max"):
            Rules.model_validate({"scores": {"width": {"min": low, "max": high}}})
        return
    rules = Rules.model_validate({"scores": {"width": {"min": low, "max": high}}})
    passes = (low is None or value >= low) and (high is None or value <= high)
    assert (not failed_rules(CLIP | {"width": value}, rules)) == passes


def test_a_source_replaces_what_it_gives_alone() -> None:
    general = Rules.model_validate(
        {"min_fps": 8, "max_fps": 60, "scores": {"a": {"min": 1, "max": 2}, "b": {"min": 1}}}
    )
    own = SourceRules.model_validate({"min_fps": None, "scores": {"a": {"max": 3}, "b": None}})
    assert own.model_dump() == {"min_fps": None, "scores": {"a": {"min": None, "max": 3}, "b": None}}
    merged = own.over(general)
    assert (merged.min_fps, merged.max_fps) == (None, 60)
    assert merged.model_dump()["scores"] == {"a": {"min": None, "max": 3}, "b": None}
    assert SourceRules().over(general) == general


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"min_duration_s": 2, "max_duration_s": 1}, "min_duration_s 2 is larger than max_duration_s 1"),
        ({"min_caption_chars": 2, "max_caption_chars": 1}, "is larger than max_caption_chars"),
        ({"min_fps": float("nan")}, "finite number"),
        ({"scores": {"fps": {"max": float("inf")}}}, "finite number"),
        ({"scores": {"fps": {"least": 1}}}, "least"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(rules: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Rules(**rules)


def test_names_of_rules_and_scores() -> None:
    assert [reason_of(name) for name in ("min_fps", "min_fps@videos", "score:extra.a:b@c")] == [
        Reason.MIN_FPS, Reason.MIN_FPS, Reason.SCORE
    ]  # fmt: skip
    assert score_columns(MOTION, pa.schema({"z": pa.int64(), "text": pa.string()})) == (
        "flow_abs_mean", "flow_mag_mean", "flow_mag_p90", "samples_shown", "z"
    )  # fmt: skip
