"""Shared fixtures: one Ray cluster for all tests that need one, and the optional folder of golden fixtures."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from jobs import tokens

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Every cluster of the tests has tokens, as those of the product; before anything imports Ray.
os.environ |= tokens.own()
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

# No property is about time, and a machine under load takes any.
settings.register_profile("loaded", deadline=None)
settings.load_profile("loaded")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with tests that use Ray come first: they take longest, and other workers have the rest meanwhile."""
    slow = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def interruptible() -> None:
    """Ctrl-C raises KeyboardInterrupt in a test, whatever handler an earlier one has left; `make test &` has none."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """The one local Ray cluster that all tests of a worker share."""
    import ray

    # GPUs by name only: what is given one here uses none.
    ray.init("local", num_cpus=4, num_gpus=2, resources={"shelf": 1}, include_dashboard=False, log_to_driver=True)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium that this machine has: playwright's own would have to be downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium on the PATH, and CHROMIUM names none")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


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


@pytest.fixture(scope="session")
def faulty() -> Path:
    """Directory of small inputs that showed faults; its README has the right values."""
    if not (SHARED / "inputs").is_dir():
        pytest.skip(f"no inputs at {SHARED / 'inputs'}")
    return SHARED / "inputs"
