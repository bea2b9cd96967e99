"""A cluster is started where nobody else gets at it; nodes that do not see the store are found before they get work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from jobs import cluster
from jobs.cluster import blind_nodes
from jobs.head import _short
from jobs.runtime import RuntimeConfig


@pytest.mark.parametrize("way_in", ["mode", "link", "file"])
def test_ray_gets_no_folder_that_others_can_enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way_in: str) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    path = tmp_path / f"lumina-{os.getuid()}"
    assert cluster._private() == cluster._private() == path
    assert path.stat().st_mode & 0o777 == 0o700
    assert cluster.logs(RuntimeConfig()) == path / "ray" / "session_latest" / "logs"
    if way_in == "mode":
        path.chmod(0o750)
    else:
        path.rename(tmp_path / "elsewhere")
        path.symlink_to("elsewhere") if way_in == "link" else path.touch()
    with pytest.raises(cluster.ClusterError, match=f"^{path} .*set RAY_TMPDIR to a folder of yours"):
        cluster._private()


@pytest.mark.ray
def test_nodes_that_do_not_see_a_file_are_named(tmp_path: Path, ray_cluster: None) -> None:
    import ray

    [node] = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
    assert blind_nodes(tmp_path) == []
    assert blind_nodes(tmp_path / "elsewhere") == [node]


def test_a_full_temporary_folder_is_named_where_ray_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5 << 20))
    assert cluster._why(RuntimeConfig(), TimeoutError()) == (
        f"Ray did not start within 180 s: {tmp_path} has 5 MiB free, and Ray's sockets and logs lie there: free some, "
        "or set RAY_TMPDIR to another folder"
    )


def test_a_log_that_ray_quotes_is_named_and_not_quoted() -> None:
    assert _short("RuntimeError: no\n  luck") == "RuntimeError: no luck"
    quoted = "\n".join(["Exception: The last 20 lines of /tmp/dashboard.log (it has the error): ", *["INFO x"] * 60])
    assert _short(quoted) == "Exception: The last 20 lines of /tmp/dashboard.log (it has the error)"
    assert _short("x" * 1000) == "x" * 300
