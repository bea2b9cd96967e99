"""Which tracking store a run takes, and what is shown of its address."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.engine.store.store import Store
from pipelines.tracking.uri import one_line, target, without_password


def test_the_setting_comes_before_the_variable_and_that_before_the_store(tmp_path: Path) -> None:
    store, named = Store(tmp_path), {"MLFLOW_TRACKING_URI": "http://there:5000"}
    found = [target(store, *given) for given in (("http://here:1", named), (None, named), (None, {}))]
    assert [(one.uri, one.why, one.is_own) for one in found] == [
        ("http://here:1", "by tracking_uri", False),
        ("http://there:5000", "by MLFLOW_TRACKING_URI", False),
        (
            f"sqlite:///{tmp_path}/mlflow.db",
            "the store's own: neither tracking_uri nor MLFLOW_TRACKING_URI is set",
            True,
        ),
    ]
    assert target(store, None, {"MLFLOW_TRACKING_URI": ""}).is_own


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("sqlite:///rel/m.db", "sqlite:///{here}/rel/m.db"),
        ("sqlite:///rel.db?timeout=5", "sqlite:///{here}/rel.db?timeout=5"),
        ("sqlite:////abs/m.db", "sqlite:////abs/m.db"),
        ("sqlite://", "sqlite://"),
        ("./mlruns", "file://{here}/mlruns"),
        ("file:./mlruns", "file://{here}/mlruns"),
        ("file:///abs/mlruns", "file:///abs/mlruns"),
        ("/abs/mlruns", "file:///abs/mlruns"),
        ("postgresql://u:p@db/mlflow", "postgresql://u:p@db/mlflow"),
        ("databricks", "databricks"),
    ],
)
def test_it_means_the_same_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, taken: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert target(Store(tmp_path), given).uri == taken.format(here=tmp_path)


def test_no_password_is_shown() -> None:
    assert without_password("https://me:secret@mlflow:5000/x") == "https://mlflow:5000/x"
    error = OSError("request to http://me:s%40cret@mlflow/api failed\nmore")
    assert one_line(error) == "request to http://mlflow/api failed"
    assert one_line(ValueError("\n")) == "ValueError"
