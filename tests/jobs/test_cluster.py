"""Nodes that do not see the store are found before anything is given to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cluster import blind_nodes


@pytest.mark.ray
def test_nodes_that_do_not_see_a_file_are_named(tmp_path: Path, ray_cluster: None) -> None:
    import ray

    [node] = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
    assert blind_nodes(tmp_path) == []
    assert blind_nodes(tmp_path / "elsewhere") == [node]
