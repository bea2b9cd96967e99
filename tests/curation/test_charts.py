from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.charts import Values, bin_edges, histogram, quantile_index, ranking

NUMBERS = st.lists(st.floats(0, 1e6), max_size=40)


def _values(source: str, values: list[float], kept: int = 0) -> Values:
    return Values(source, 0, np.array(values, np.float64), np.arange(len(values)) < kept)


@given(NUMBERS, NUMBERS, st.integers(0, 40))
def test_every_clip_is_in_one_bar_and_every_bar_in_the_drawing(a: list[float], b: list[float], kept: int) -> None:
    chart = histogram("seconds", "s", [_values("a", a, kept), _values("b", b)], (0.0, 0.5, 1.0))
    if not a + b:
        assert chart is None
        return
    assert chart is not None
    assert chart.n == len(a + b)
    assert [panel.source for panel in chart.panels] == [name for name, values in (("a", a), ("b", b)) if values]
    for panel in chart.panels:
        heights = [(bar.kept * panel.n * chart.top / 1e4, bar.aside * panel.n * chart.top / 1e4) for bar in panel.bars]
        assert sum(kept + aside for kept, aside in heights) == pytest.approx(panel.n)
        assert all(bar.kept + bar.aside <= 100 + 1e-6 for bar in panel.bars)
        assert all(-1e-6 <= bar.left <= bar.left + bar.width <= 100 + 1e-6 for bar in panel.bars)
        assert all(-1e-6 <= x <= 100 + 1e-6 for x, _ in panel.marks)
        assert sum(kept for kept, _ in heights) == pytest.approx(min(kept, panel.n) if panel.source == "a" else 0)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40))
def test_edges_are_few_and_cover_the_values(values: list[float]) -> None:
    edges, is_open = bin_edges(np.array(values))
    assert 2 <= len(edges) <= 28
    assert edges[0] <= min(values) + 1e-6
    assert is_open or edges[-1] >= max(values)


def test_a_value_on_an_edge_belongs_above_it() -> None:
    chart = histogram("px", "px", [_values("a", [0.0, 0.3, 0.3, 2.4])])
    assert chart is not None
    [panel] = chart.panels
    assert [bar.title for bar in panel.bars] == [
        "a, 0 to 0.1 px: 1 clips (25.0%), 0 of them kept",
        "a, 0.3 to 0.4 px: 2 clips (50.0%), 0 of them kept",
        "a, 2.4 to 2.5 px: 1 clips (25.0%), 0 of them kept",
    ]


def test_a_few_huge_values_do_not_press_the_others_into_one_bin() -> None:
    chart = histogram("pixels", "px", [_values("a", [n / 100 for n in range(300)] + [5000.0])])
    assert chart is not None
    assert chart.axis.label == "pixels; the last bin holds all from 3.2 on"
    assert len(chart.panels[0].bars) > 10
    assert chart.panels[0].bars[-1].title.startswith("a, 3.2 or more px: 1 clips")


def test_quantiles() -> None:
    assert [quantile_index(5, q) for q in (0, 0.25, 0.5, 0.75, 1)] == [0, 1, 2, 3, 4]
    assert [quantile_index(1, q) for q in (0.05, 0.95)] == [0, 0]


def test_a_ranking_adds_up_and_sums_what_is_rare() -> None:
    names = {"web": {"1x1": 3, "2x2": 1, "9x9": 0}, "phone": dict.fromkeys(("2x2", "3x3", "4x4", "5x5"), 1)}
    chart = ranking("sizes", names, {"phone": 0, "web": 1}, most=2)
    assert chart is not None
    assert [row[:2] for row in chart.rows] == [("1x1", 3), ("2x2", 2), ("3 other sizes", 3)]
    assert chart.n == 8
    assert [(s.left, s.width, s.color) for s in chart.rows[1][2]] == [
        (0, pytest.approx(100 / 3), 0),
        (pytest.approx(100 / 3), pytest.approx(100 / 3), 1),
    ]
    alone = ranking("sizes", names, {"phone": 0, "web": 1}, most=4)
    assert alone is not None
    assert [name for name, _, _ in alone.rows] == ["1x1", "2x2", "3x3", "4x4", "5x5"]
    assert ranking("sizes", {"web": {}}, {"web": 0}) is None
