"""An empty tracking database and one with a run, to copy: making them takes seconds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.engine.store.store import Store
from pipelines.tracking.uri import default_uri
from tests.pipelines.tracking.observed import toy_training, track


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without experiments of ours but with all tables, to copy."""
    root = tmp_path_factory.mktemp("database")
    MlflowClient(default_uri(Store(root))).search_experiments()
    return root / "mlflow.db"


@pytest.fixture(scope="session")
def _first_run(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Path:
    root = tmp_path_factory.mktemp("first")
    shutil.copy(database, root)
    track(root, toy_training(), run_id="1-first")
    return root


@pytest.fixture
def store(tmp_path: Path, _first_run: Path) -> Store:
    """With the run `1-first` of the toy training, that MLflow has."""
    shutil.copytree(_first_run, tmp_path / "store")
    return Store(tmp_path / "store")
