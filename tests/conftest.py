"""Shared fixtures: one Ray cluster for all tests that need one, and the optional folder of golden fixtures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests side by side: those that use Ray on one worker, which starts with them, and each other module on one."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
    for item in items:
        group = "ray" if item.get_closest_marker("ray") else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """The one local Ray cluster that every test marked `ray` shares."""
    import ray

    # GPUs by name only: what is given one here uses none.
    ray.init("local", num_cpus=4, num_gpus=2, resources={"shelf": 1}, include_dashboard=False, log_to_driver=True)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def golden() -> Path:
    """Directory of the released model's numeric fixtures."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"no golden fixtures at {SHARED / 'golden'}")
    return SHARED / "golden"


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """Directory of small real videos with a manifest.csv."""
    if not (SHARED / "clips").is_dir():
        pytest.skip(f"no real clips at {SHARED / 'clips'}")
    return SHARED / "clips"
