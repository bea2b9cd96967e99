from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from curation.schema import status_not_ok, status_ok
from curation.selection import SelectConfig, select

CLIP: dict[str, Any] = {
    "media": "video", "source": "web", "caption": "a red circle", "width": 64, "height": 64, "fps": 8.0,
    "duration_s": 2.0, "motion_score": 1.0, **status_ok(),
}  # fmt: skip


def _rows(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [CLIP | changes | {"clip_id": f"{n:032x}"} for n in range(count)]


@pytest.mark.parametrize(
    ("policy", "change", "rule"),
    [
        ({"min_duration_s": 1}, {"duration_s": 0.9}, "min_duration"),
        ({"min_fps": 8}, {"fps": 7.9}, "min_fps"),
        ({"min_area": 4096}, {"width": 63}, "min_area"),
        ({"min_motion": 0.5}, {"motion_score": 0.4}, "min_motion"),
        ({"max_motion": 5}, {"motion_score": 5.1}, "max_motion"),
        ({"min_caption_chars": 12}, {"caption": " a circle "}, "min_caption"),
    ],
)
def test_each_rule_removes_what_it_names_and_nothing_else(policy: dict, change: dict, rule: str) -> None:
    config = SelectConfig(**policy)
    kept, removed = select(_rows(1) + _rows(1, **change), config)
    assert kept["keep"]
    assert kept["status"] == "ok"
    assert not removed["keep"]
    assert (removed["status"], removed["reason"], removed["reason_stage"]) == ("filtered", rule, "select")
    assert removed["failed_rules"] == [rule]


def test_all_failed_rules_are_listed_and_the_first_is_the_reason() -> None:
    [row] = select(_rows(1, fps=1.0, caption=""), SelectConfig(min_caption_chars=1, min_fps=2))
    assert row["failed_rules"] == ["min_fps", "min_caption"]
    assert row["reason"] == "min_fps"
    assert row["detail"] == "fps 1 below 2; caption characters 0 below 1"


def test_images_have_no_motion_and_earlier_reasons_stay() -> None:
    policy = SelectConfig(min_fps=8, min_motion=1, min_duration_s=1)
    image = _rows(1, media="image", fps=None, duration_s=0.0, motion_score=None)
    broken = _rows(1, width=None, height=None) [0] | status_not_ok("probe", "quarantined", "decode_error", "x")  # type: ignore[arg-type]  # fmt: skip
    kept, aside = select([*image, broken], policy)
    assert kept["keep"]
    assert not aside["keep"]
    assert (aside["reason"], aside["reason_stage"], aside["failed_rules"]) == ("decode_error", "probe", [])


def test_quota_and_split_depend_on_the_clip_alone() -> None:
    config = SelectConfig(max_clips_per_source=5, heldout_fraction=0.25, seed=3)
    rows = select(_rows(400), config)
    assert sum(row["keep"] for row in rows) == 5
    backwards = select(_rows(400)[::-1], config)[::-1]
    assert [row["keep"] for row in backwards] == [row["keep"] for row in rows]
    heldout = [row["split"] == "heldout" for row in rows]
    assert 60 < sum(heldout) < 140
    assert [row["split"] == "heldout" for row in select(_rows(100), config)] == heldout[:100]


def test_the_policy_has_a_name_and_a_range() -> None:
    assert SelectConfig().policy_id != SelectConfig(min_fps=1).policy_id
    with pytest.raises(ValidationError, match="is larger than max_motion"):
        SelectConfig(min_motion=2, max_motion=1)
