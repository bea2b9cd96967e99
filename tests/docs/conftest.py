"""The folders in which the commands of the pages run; each is made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tests.docs.worlds import make_checkpoint, make_compared, make_curated, make_desk


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, manifests and a config; no run."""
    return make_desk(tmp_path_factory.mktemp("docs") / "desk")


@pytest.fixture(scope="session")
def with_checkpoint(desk: Path) -> Path:
    """The desk with an exported checkpoint."""
    make_checkpoint(desk)
    return desk


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two evaluated runs."""
    return make_compared(tmp_path_factory.mktemp("docs") / "compared")


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two runs of curation, and a file of clips."""
    return make_curated(tmp_path_factory.mktemp("docs"))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A folder with the cluster files of the program."""
    for name in ("ray_cluster.yaml", "rayjob.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def compared_copy(compared: Path, tmp_path: Path) -> Path:
    """For commands that change a store."""
    return shutil.copytree(compared, tmp_path / "compared", symlinks=True)


@pytest.fixture
def curated_copy(curated: Path, tmp_path: Path) -> Path:
    """For commands that change a store."""
    return shutil.copytree(curated, tmp_path / "curated", symlinks=True)
