"""Scores on the page: each that was measured, by source, with the limits that hold there and clips of both ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from curation.charts import Values, histogram
from curation.operator import Input
from curation.page_scores import read_scores
from curation.schema import CAPTION, to_table
from curation.score_columns import SCORES
from tests.curation.test_page import EVIL, SLOW, Reader, clip, page

NAMES = [f"{n:02}" for n in range(40)]
ROWS = [clip(name, ("phone", "web")[n % 2], **(SLOW if n == 39 else {})) for n, name in enumerate(NAMES)]
SHARP = pa.table({"sharpness": pa.array([float(n) for n in range(40)])})


def test_each_source_has_a_panel_with_the_limits_that_hold_for_it() -> None:
    limits = {
        "every": {"min": 10, "max": 30},
        "sources": {"web": {"min": 20}, "gone": None},
        "sets": {"videos": {"max": 35}, "far": {"max": 900}},
    }
    html = page(ROWS, scores=SHARP, limits={"sharpness": limits}).html
    read = Reader(html)
    shown = read.text[read.text.index("What the scorers measured") :]
    assert "phone n = 20 · min 10, max 30: 55% within; set far: max 900: 100% within; set videos: max 35:" in shown
    assert "web n = 20 · min 20: 50% within;" in shown
    # What lies beyond the axis is said and not drawn.
    assert (html.count('<line class="limit"'), html.count('<line class="limit set"')) == (3, 2)
    assert "#scores" in read.links
    assert "variance of the Laplacian of luma" in shown


def test_the_ends_are_shown_and_lead_to_their_clips() -> None:
    read = Reader(page(ROWS, scores=SHARP, clips_per_source=0, clips_per_reason=0, clips_per_score=2).html)
    assert "Lowest 0 · phone 1 · web Highest 39 · web set aside 38 · phone" in read.text
    assert "The clips of the pictures 4 clips" in read.text
    leads = [link for link in read.links if link.startswith("#clip-")]
    assert leads == ["#clip-00", "#clip-01", "#clip-39", "#clip-38"]
    assert {link.removeprefix("#") for link in leads} <= read.ids
    assert "Set aside: motion 0.1 below 0.5 The clip 39." in read.text
    none = Reader(page(ROWS, scores=SHARP, clips_per_score=0).html)
    assert "sharpness" in none.text
    assert "Lowest" not in none.text


def test_values_that_many_share_are_counted_and_one_value_for_all_has_no_ends() -> None:
    area = pa.array([0.0] * 37 + [0.25, None, float("nan")])
    read = Reader(page(ROWS, scores=pa.table({"text_area": area, "flat": pa.array([-0.5] * 40)})).html)
    assert "Lowest 37 clips have 0" in read.text
    assert "Highest 0.25 · web" in read.text
    assert "nan ·" not in read.text
    assert "flat" in read.text
    assert read.text.count("Lowest") == 1


def test_names_from_outside_are_text_and_no_scores_leave_the_page_as_it_was() -> None:
    rows = [clip("a", EVIL), clip("b", EVIL, caption=EVIL)]
    scores = pa.table({"<b>mine</b>": pa.array([-1.0, 2.0])})
    read = Reader(page(rows, scores=scores, limits={"<b>mine</b>": {"sets": {EVIL: {"min": 0}}}}).html)
    assert not {"script", "b>mine"} & set(read.tags)
    assert f"set {EVIL}: min 0: 50% within" in read.text
    assert "<b>mine</b>" in read.text
    plain = page(rows).html
    assert page(rows, limits={"sharpness": {"every": {"min": 1}}}, clips_per_score=1).html == plain
    assert "score" not in plain.replace("motion score", "")


def test_columns_that_nothing_measured_are_left_out_and_clips_must_be_the_run_s(tmp_path: Path) -> None:
    def write(key: str, table: pa.Table) -> Input:
        (tmp_path / key / "data").mkdir(parents=True)
        pq.write_table(table, tmp_path / key / "data" / "part.parquet")
        return Input(tmp_path / key)

    rows = [{"clip_id": name, "luma": 0.5, "frames_scored": 8} for name in ("b", "a")]
    rows[1]["luma"] = 0.25
    scores = write("scores", pa.Table.from_pylist(rows, SCORES))
    own = write("score@own", pa.table({"clip_id": ["a", "b"], "beauty": [1, 2], "word": ["x", "y"]}))
    ids = pa.chunked_array([["a", "b"]])
    inputs = {"scores": scores, "score@own": own, "motion": Input(tmp_path / "not read")}
    found = read_scores(inputs, ids)
    assert found is not None
    assert found.to_pydict() == {"beauty": [1, 2], "luma": [0.25, 0.5]}
    assert read_scores({"motion": scores}, ids) is None
    with pytest.raises(ValueError, match="score@own has 2 rows and select 3, or their clip ids differ"):
        read_scores(inputs, pa.chunked_array([["a", "b", "c"]]))


def test_how_captions_agree_is_shown_with_its_limits_and_both_captions_of_the_ends(tmp_path: Path) -> None:
    ids = ["a", "b", "c", "d"]
    new = ["A red circle moves left.", "A blue square stays still.", None, "A green star rises."]
    told = [{"clip_id": name, "caption": "The red circle moves left.", "caption_new": one}
            for name, one in zip(ids, new, strict=True)]  # fmt: skip
    (tmp_path / "data").mkdir()
    pq.write_table(to_table(told[::-1], CAPTION), tmp_path / "data" / "part.parquet")
    found = read_scores({"caption": Input(tmp_path)}, pa.chunked_array([ids]))
    assert found is not None
    # Nobody counted tokens.
    assert found.to_pydict() == {"caption_agreement": [1, 0, None, 0]}
    rows = [clip(name, "web", caption="The red circle moves left.") for name in ids]
    limits = {"caption_agreement": {"every": {"min": 0.3}}}
    read = Reader(page(rows, scores=found, limits=limits, captions=ds.dataset(tmp_path / "data")).html)
    assert "web n = 3 · min 0.3: 33% within" in read.text
    assert "Lowest 0 · web 0 · web 1 · web" in read.text
    assert "The model's: A green star rises." in read.text


@pytest.mark.parametrize("values", [[-0.3, -0.3], [-30.0, -20.0], [-1.0, 1.0], [0.0, 0.0]])
def test_bins_cover_values_below_zero(values: list[float]) -> None:
    chart = histogram("", "", [Values("a", 0, np.array(values), np.ones(2, bool))])
    assert chart is not None
    assert chart.axis.low <= min(values) <= max(values) <= chart.axis.high
    for value in values:
        assert any(bar.left - 1e-6 <= chart.axis.at(value) <= bar.left + bar.width for bar in chart.panels[0].bars)
