from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.operator import Env, Input, dataset
from curation.schema import (
    AV_ALIGN,
    MOTION,
    PROBE,
    SELECT,
    SOUND,
    TAG,
    Reason,
    Status,
    status_not_ok,
    status_ok,
    to_table,
)
from curation.score_columns import SCORES, schema_of
from curation.selection import SELECT_OPERATOR, SelectConfig
from curation.selection import select as select_table
from tests.curation.in_memory import computed

CLIP: dict[str, Any] = {
    "media": "video", "source": "web", "caption": "a red circle", "width": 64, "height": 64, "fps": 8.0,
    "duration_s": 2.0, "motion_score": 1.0, "extra": '{"aesthetic": "4.5"}', **status_ok(),
}  # fmt: skip


def select(rows: list[dict[str, Any]], config: SelectConfig) -> list[dict[str, Any]]:
    return select_table(rows, config).to_pylist()


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
        ({"max_duration_s": 2}, {"duration_s": 2.1}, "max_duration"),
        ({"max_fps": 8}, {"fps": 60.0}, "max_fps"),
        ({"max_caption_chars": 12}, {"caption": "a red circle moves"}, "max_caption"),
        ({"min_motion": 0}, {"motion_score": None}, "min_motion"),
        ({"scores": {"duration_s": {"max": 3}}}, {"duration_s": 4.0}, "score:duration_s"),
        ({"scores": {"extra.aesthetic": {"min": 4.5}}}, {"extra": '{"aesthetic": "4.4"}'}, "score:extra.aesthetic"),
    ],
)
def test_each_rule_removes_what_it_names_and_nothing_else(policy: dict, change: dict, rule: str) -> None:
    config = SelectConfig(**policy)
    kept, removed = select(_rows(1) + _rows(1, **change), config)
    assert kept["keep"]
    assert kept["status"] == "ok"
    assert not removed["keep"]
    reason = rule.partition(":")[0]
    assert (removed["status"], removed["reason"], removed["reason_stage"]) == ("filtered", reason, "select")
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


def test_a_source_has_its_own_rules_over_the_general_ones() -> None:
    config = SelectConfig(
        min_fps=10, min_area=4096, scores={"duration_s": {"max": 1}, "height": {"min": 64}},
        sources={"web": {"min_fps": None, "scores": {"duration_s": None}}, "phone": {"min_area": 5000}},
    )  # fmt: skip
    web, phone, other = select([*_rows(1), *_rows(1, source="phone"), *_rows(1, source="other")], config)
    assert web["keep"]
    assert phone["failed_rules"] == ["min_fps", "min_area", "score:duration_s"]
    assert other["failed_rules"] == ["min_fps", "score:duration_s"]
    assert select(_rows(1, height=63), config)[0]["failed_rules"] == ["min_area", "score:height"]


def test_null_and_not_given_are_two_policies_that_survive_a_dump() -> None:
    silent = SelectConfig(min_fps=10, sources={"web": {}})
    off = SelectConfig(min_fps=10, sources={"web": {"min_fps": None}})
    assert silent.policy_id != off.policy_id
    for config in (silent, off):
        again = SelectConfig.model_validate(config.model_dump(mode="json"))
        assert again.policy_id == config.policy_id
        assert select(_rows(1), again)[0]["keep"] == select(_rows(1), config)[0]["keep"]
    assert SelectConfig().policy_id == SelectConfig(min_fps=None).policy_id


def test_a_latents_set_takes_the_rows_that_pass_its_rules() -> None:
    sets = {"images": ("image",), "small": ("video",), "large": ("video",)}
    config = SelectConfig(
        min_fps=8, sets={"large": {"min_area": 5000}, "small": {"min_caption_chars": 5}}, encoded=sets
    )
    both, small, none = select(
        [*_rows(1, width=100), *_rows(1), *_rows(1, caption="red")], config
    )  # fmt: skip
    assert both["stages"] == ["large", "small"]
    assert both["stage_failed"] is None
    assert (small["keep"], small["status"], small["stages"]) == (True, "ok", ["small"])
    assert json.loads(small["stage_failed"]) == {
        "large": {"reason": "min_area", "rules": ["min_area"], "detail": "area 4096 below 5000"}
    }
    assert (none["keep"], none["stages"], none["reason"]) == (False, [], "min_area")
    assert none["failed_rules"] == ["min_area@large", "min_caption@small"]
    assert none["detail"] == "large: area 4096 below 5000; small: caption characters 3 below 5"
    [slow] = select(_rows(1, fps=1.0), config)
    assert (slow["failed_rules"], slow["stages"], slow["stage_failed"]) == (["min_fps"], [], None)
    [image] = select(_rows(1, media="image", fps=None), config)
    assert image["stages"] == ["images"]
    [lost] = select(_rows(1, media="image"), SelectConfig(sets={"large": {}}, encoded={"large": ("video",)}))
    assert (lost["reason"], lost["detail"]) == ("other_media", "no latents set encodes images")
    assert select(_rows(1), SelectConfig())[0]["stages"] is None


def test_the_quota_takes_rows_from_all_sets() -> None:
    rows = select(_rows(9), SelectConfig(max_clips_per_source=2, sets={"videos": {"min_fps": 1}}))
    assert [row["stages"] for row in rows if row["keep"]] == [["videos"]] * 2
    assert [row["stages"] for row in rows if not row["keep"]] == [[]] * 7


limits = st.none() | st.integers(1, 8)
clips = st.lists(
    st.builds(
        lambda fps, motion, chars, source, media: CLIP
        | {"fps": float(fps), "motion_score": float(motion), "caption": "x" * chars, "source": source, "media": media},
        st.integers(1, 9), st.integers(0, 9), st.integers(0, 9), st.sampled_from(["web", "phone"]),
        st.sampled_from(["image", "video"]),
    ),
    max_size=12,
).map(lambda rows: [row | {"clip_id": f"{n:032x}"} for n, row in enumerate(rows)])  # fmt: skip


def _loosened(limit: int | None, by: int) -> int | None:
    """A lower limit that lets through at least as much."""
    return None if limit is None or limit <= by else limit - by


@given(rows=clips, fps=limits, motion=limits, chars=limits, of_source=limits, by=st.integers(0, 8))
def test_a_looser_policy_never_keeps_fewer(
    rows: list, fps: int | None, motion: int | None, chars: int | None, of_source: int | None, by: int
) -> None:
    def policy(by: int) -> SelectConfig:
        return SelectConfig(
            min_fps=_loosened(fps, by), scores={"motion_score": {"min": _loosened(motion, by)}},
            sources={"web": {"min_fps": _loosened(of_source, by)}},
            sets={"long": {"min_caption_chars": _loosened(chars, by)}, "any": {"min_motion": _loosened(motion, by)}},
        )  # fmt: skip

    for strict, loose in zip(select(rows, policy(0)), select(rows, policy(by)), strict=True):
        assert loose["keep"] >= strict["keep"]
        assert set(loose["stages"]) >= set(strict["stages"])


@given(rows=clips, fps=limits, chars=limits, quota=limits)
def test_every_row_is_kept_or_has_a_rule_and_says_of_every_set_which(
    rows: list, fps: int | None, chars: int | None, quota: int | None
) -> None:
    sets = {"images": ("image",), "videos": ("video",), "both": ("image", "video")}
    stages = {"videos": {"min_motion": 4}, "both": {"min_caption_chars": 3}}
    config = SelectConfig(
        min_fps=fps, max_caption_chars=chars, max_clips_per_source=quota, sets=stages, encoded=sets
    )  # fmt: skip
    for row in select(rows, config):
        assert row["keep"] == (row["status"] == "ok") == (not row["failed_rules"]) == bool(row["stages"])
        failed = json.loads(row["stage_failed"] or "{}")
        if row["keep"]:
            assert set(row["stages"]) | set(failed) == {name for name in sets if row["media"] in sets[name]}
            assert not set(row["stages"]) & set(failed)
        else:
            assert row["reason"] in set(Reason)
            assert row["detail"]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"max_fps": 5, "sources": {"web": {"min_fps": 6}}}, "sources.web: min_fps 6 is larger than max_fps 5"),
        ({"sets": {"videos": {}}, "encoded": {"images": ("image",)}}, "the latents sets are images"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(policy: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SelectConfig(**policy)


def _inputs(root: Path, extra: str = '{"aesthetic": "4.5"}') -> dict[str, Input]:
    rows = _rows(2, extra=extra)
    tables = {
        "clips": to_table(rows, PROBE),
        "motion": to_table((row | {"flow_abs_mean": 1.0, "flow_mag_mean": n} for n, row in enumerate(rows)), MOTION),
        "tag": to_table(rows, TAG),
    }
    for name, table in tables.items():
        (root / name / "data").mkdir(parents=True)
        pq.write_table(table, root / name / "data" / "part.parquet")
    return {name: Input(root / name) for name in tables}


def test_scores_come_from_the_tables_and_the_manifest(tmp_path: Path) -> None:
    config = SelectConfig(
        scores={"flow_mag_mean": {"min": 1}}, sources={"web": {"scores": {"extra.aesthetic": {"min": 4}}}}
    )
    inputs = _inputs(tmp_path)
    table = computed(SELECT_OPERATOR, inputs, config, Env(""))
    assert table.schema == SELECT
    assert table["keep"].to_pylist() == [False, True]
    assert table["detail"].to_pylist() == ["flow_mag_mean 0 below 1", None]
    (tmp_path / "out").mkdir()
    pq.write_table(table, tmp_path / "out" / "part.parquet")
    assert SELECT_OPERATOR.report(dataset(tmp_path / "out"), config, tmp_path).metrics == {
        "failed/score": 1, "failed/score/web": 1, "kept": 1, "kept/video/web": 1, "removed/score": 1,
        "removed/score/web": 1,
    }  # fmt: skip
    scored = to_table((row | {"frames_shown": 3 - n} for n, row in enumerate(_rows(2))), PROBE)
    scored = scored.select(["clip_id", "frames_shown", *status_ok()]).rename_columns({"frames_shown": "brightness"})
    (tmp_path / "score" / "data").mkdir(parents=True)
    pq.write_table(scored, tmp_path / "score" / "data" / "part.parquet")
    further = SelectConfig(scores={"brightness": {"min": 3}})
    table = computed(SELECT_OPERATOR, {**inputs, "score@light": Input(tmp_path / "score")}, further, Env(""))
    assert table["detail"].to_pylist() == [None, "brightness 2 below 3"]
    with pytest.raises(ValueError, match="names 'brightness', which is no score"):
        SELECT_OPERATOR.check(inputs, further)


def test_a_scorer_s_own_table_counts_where_the_stage_of_all_has_it_off(tmp_path: Path) -> None:
    inputs = _inputs(tmp_path)
    tables = {
        "scores": (SCORES, [{"sharpness": 30.0, "text_area": None}, {"sharpness": 10.0, "text_area": None}]),
        "score@text": (schema_of(["text"]), [{"text_area": 0.2}, {"text_area": 0.0}]),
    }
    for name, (schema, rows) in tables.items():
        scored = to_table((row | more for row, more in zip(_rows(2), rows, strict=True)), schema)
        (tmp_path / name / "data").mkdir(parents=True)
        pq.write_table(scored, tmp_path / name / "data" / "part.parquet")
        inputs[name] = Input(tmp_path / name)
    config = SelectConfig(scores={"sharpness": {"min": 20}, "text_area": {"max": 0.1}})
    SELECT_OPERATOR.check(inputs, config)
    table = computed(SELECT_OPERATOR, inputs, config, Env(""))
    assert table["detail"].to_pylist() == ["text_area 0.2 above 0.1", "sharpness 10 below 20"]
    # A table has 0.2 in 32 bits, which is above 0.2.
    exact = SelectConfig(scores={"text_area": {"min": 0, "max": 0.2}})
    assert computed(SELECT_OPERATOR, inputs, exact, Env(""))["detail"].to_pylist() == [None, None]


def test_a_score_with_the_name_of_a_group_moves_no_clip_across_the_split(tmp_path: Path) -> None:
    inputs = _inputs(tmp_path)
    tables = {
        "clips": to_table(_rows(40), PROBE),
        "motion": to_table((row | {"flow_abs_mean": 1.0} for row in _rows(40)), MOTION),
        "tag": to_table(_rows(40), TAG),
    }
    for name, table in tables.items():
        pq.write_table(table, inputs[name].path / "data" / "part.parquet")
    config = SelectConfig(heldout_fraction=0.5)
    split = computed(SELECT_OPERATOR, inputs, config, Env(""))["split"].to_pylist()
    assert set(split) == {"train", "heldout"}
    scored = pa.table(
        {name: [row[name] for row in _rows(40)] for name in ("clip_id", *status_ok())}
        | {"semantic": [0.5] * 40, "family": [1] * 40}
    ).cast(
        pa.schema(
            [(name, pa.string()) for name in ("clip_id", *status_ok())]
            + [("semantic", pa.float32()), ("family", pa.int32())]
        )
    )
    (tmp_path / "score@mine" / "data").mkdir(parents=True)
    pq.write_table(scored, tmp_path / "score@mine" / "data" / "part.parquet")
    inputs["score@mine"] = Input(tmp_path / "score@mine")
    assert computed(SELECT_OPERATOR, inputs, config, Env(""))["split"].to_pylist() == split
    named = config.model_copy(update={"scores": SelectConfig(scores={"semantic": {"min": 0.6}}).scores})
    table = computed(SELECT_OPERATOR, inputs, named, Env(""))
    assert table["split"].to_pylist() == split
    assert set(table["detail"].to_pylist()) == {"semantic 0.5 below 0.6"}


def test_a_copy_of_what_motion_found_broken_leaves_with_it(tmp_path: Path) -> None:
    inputs = _inputs(tmp_path)
    copy = status_not_ok("ingest", Status.FILTERED, Reason.DUPLICATE_CONTENT, "same")
    first, other = (row | {"sha256": "aa"} for row in _rows(2))
    broken = status_not_ok("motion", Status.QUARANTINED, Reason.DECODE_ERROR, "frame 7")
    tables = {"clips": (first, PROBE), "motion": (first | broken, MOTION), "tag": (first, TAG)}
    for name, (row, schema) in tables.items():
        pq.write_table(to_table([row, other | copy], schema), inputs[name].path / "data" / "part.parquet")
    found = computed(SELECT_OPERATOR, inputs, SelectConfig(), Env("")).to_pylist()
    assert [{name: row[name] for name in broken} for row in found] == [broken, broken]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"scores": {"flow_mag_men": {}}}, "select.scores names 'flow_mag_men'.*'flow_mag_mean'\\? there are .*width"),
        ({"sources": {"web": {"scores": {"aesthetic": {}}}}}, "select.sources.web.scores .*mean 'extra.aesthetic'"),
        (
            {"sets": {"v": {"scores": {"xyz": {}}}}},
            "select.sets.v.scores names 'xyz'.*there are duration_s, extra.aesthetic",
        ),
        ({"scores": {"codec": {}}}, "is no score of any clip"),
    ],
)
def test_a_score_that_no_row_has_is_an_error_that_names_the_nearest(tmp_path: Path, policy: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SELECT_OPERATOR.check(_inputs(tmp_path), SelectConfig(**policy))


def test_clips_are_selected_without_motion_and_tags(tmp_path: Path) -> None:
    inputs = {"clips": _inputs(tmp_path)["clips"]}
    quiet = status_not_ok("sound", Status.FILTERED, Reason.SILENT, "its peak is at -80 dBFS")
    rows = [{**row, "av_align": 0.5 * n} for n, row in enumerate(_rows(2))]
    tables = {"score@av_align": (rows, AV_ALIGN), "score@sound": (rows, SOUND)}
    config = SelectConfig(
        sets={"aligned": {"scores": {"av_align": {"min": 0.2}}}}, encoded={"all": ("video",), "aligned": ("video",)}
    )

    def selected(second: dict[str, Any]) -> list[dict[str, Any]]:
        for name, (scored, schema) in tables.items():
            (tmp_path / name / "data").mkdir(parents=True, exist_ok=True)
            last = scored[1] | (second if name == "score@sound" else {})
            pq.write_table(to_table([scored[0], last], schema), tmp_path / name / "data" / "part.parquet")
        given = {**inputs, **{name: Input(tmp_path / name) for name in tables}}
        return computed(SELECT_OPERATOR, given, config, Env("")).to_pylist()

    first, second = selected({})
    assert (first["stages"], second["stages"]) == (["all"], ["aligned", "all"])
    assert json.loads(first["stage_failed"])["aligned"]["rules"] == ["score:av_align"]
    assert (second["motion_score"], second["system_prompt_id"]) == (None, None)
    assert [(row["keep"], row["reason"], row["reason_stage"]) for row in selected(quiet)] == [
        (True, None, None),
        (False, "silent", "sound"),
    ]


@pytest.mark.parametrize(
    ("policy", "setting"),
    [
        ({"min_motion": 1}, "select.min_motion"),
        ({"sources": {"web": {"max_motion": 1}}}, "select.sources.web.max_motion"),
        ({"sets": {"aligned": {"scores": {"flow_abs_mean": {}}}}}, "select.sets.aligned.scores.flow_abs_mean"),
    ],
)
def test_a_rule_about_motion_needs_a_stage_that_measures_it(tmp_path: Path, policy: dict, setting: str) -> None:
    inputs = _inputs(tmp_path)
    SELECT_OPERATOR.check(inputs, SelectConfig(**policy))
    with pytest.raises(ValueError, match=f"{setting} is about motion, but there is no motion stage"):
        SELECT_OPERATOR.check({"clips": inputs["clips"]}, SelectConfig(**policy))
