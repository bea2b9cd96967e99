"""The drawing of the DAG: boxes do not overlap, arrows point down, what others imply is left out."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.compare.runs import Held, Side
from pipelines.reports.page.stages import draw


def _side(names: list[str]) -> Side:
    held = Held("done", None, None)
    return Side("run", "name", "", None, "", dict.fromkeys(names, held))


@given(st.lists(st.sets(st.integers(0, 30)), min_size=1, max_size=12))
def test_any_graph_is_drawn_from_the_top_down_without_overlap(edges: list[set[int]]) -> None:
    inputs = {f"s{n}": [f"s{one % n}" for one in sorted(reads)] if n else [] for n, reads in enumerate(edges)}
    graph = draw(_side(list(inputs)), inputs)
    at = {node.name: node for node in graph.nodes}
    width, height = graph.box
    for a, b in combinations(graph.nodes, 2):
        assert abs(a.x - b.x) >= width or abs(a.y - b.y) >= height
    for name, reads in inputs.items():
        assert all(at[one].y + height < at[name].y for one in reads)
    assert all(0 <= one.x <= graph.width - width and 0 <= one.y <= graph.height - height for one in graph.nodes)


def test_edges_that_others_imply_are_left_out() -> None:
    inputs = {"a": [], "b": ["a"], "c": ["a", "b"], "d": ["a", "c", "c"]}
    graph = draw(_side(list(inputs)), inputs)
    assert len(graph.edges) == 3


def test_a_long_edge_runs_past_the_boxes() -> None:
    # b's way from a to d, beside b and c, which lie in the layers between.
    inputs = {"a": [], "x": [], "b": ["a"], "c": ["b"], "d": ["c", "x"]}
    graph = draw(_side(list(inputs)), inputs)
    assert len(graph.edges) == 4
    bends = max(edge.count("C") for edge in graph.edges)
    assert bends == 3


def test_nothing_is_drawn_of_nothing() -> None:
    assert draw(_side([]), {}).nodes == ()
