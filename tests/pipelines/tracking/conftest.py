"""An empty tracking database: making one takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.engine.store.store import Store
from pipelines.tracking.uri import default_uri


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without experiments of ours but with all tables, to copy."""
    root = tmp_path_factory.mktemp("database")
    MlflowClient(default_uri(Store(root))).search_experiments()
    return root / "mlflow.db"
