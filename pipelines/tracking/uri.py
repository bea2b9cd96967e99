"""Tracking URIs: which one a run takes, and how it is shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.engine.store.store import Store
from pipelines.secrets import scrub

VARIABLE = "MLFLOW_TRACKING_URI"
_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Target:
    """Where a run is tracked, and who said so."""

    uri: str
    """Absolute, so that it means the same in another working directory."""
    why: str
    is_own: bool = False
    """It is the store's own database, which moves with the store."""


def default_uri(store: Store) -> str:
    """SQLite database in the store, as an absolute URI: a relative one would follow the working directory."""
    return f"{_SQLITE}{store.root / 'mlflow.db'}"


def artifacts_of(store: Store) -> Path:
    """Where the artifacts of a local database lie."""
    return store.root / "mlflow-artifacts"


def target(store: Store, configured: str | None, environment: Mapping[str, str] = os.environ) -> Target:
    """Where a run is tracked.

    Args:
        store: has a database, if nothing else is named.
        configured: the setting `tracking_uri`, which comes first.
        environment: its `MLFLOW_TRACKING_URI` comes second.
    """
    if configured:
        return Target(_absolute(configured), "by tracking_uri")
    if named := environment.get(VARIABLE):
        return Target(_absolute(named), f"by {VARIABLE}")
    return Target(default_uri(store), f"the store's own: neither tracking_uri nor {VARIABLE} is set", True)


def without_password(uri: str) -> str:
    """The URI without `user:password@`, and without the values of options that are secrets."""
    return scrub(uri)


def with_password(uri: str, environment: Mapping[str, str] = os.environ) -> str:
    """A URI as it was before `without_password`, where `MLFLOW_TRACKING_URI` is the same one: none is written down."""
    named = environment.get(VARIABLE)
    return named if named and without_password(named) == uri else uri


def one_line(error: BaseException) -> str:
    """What an error says first, without passwords."""
    text = str(error).strip().splitlines()
    return scrub(text[0]) if text else type(error).__name__


def database_file(uri: str) -> Path | None:
    """The file of an SQLite database; None of another URI."""
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]) if uri.startswith(_SQLITE) else None


def folder(uri: str) -> Path | None:
    """The folder that a `file:` URI or a path names, MLflow's former kind of store; None of another URI."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(parts.path)
    return None if parts.scheme or uri in ("databricks", "databricks-uc", "uc") else Path(uri)


def _absolute(uri: str) -> str:
    path, where = database_file(uri), folder(uri)
    if path is not None and path.parts:
        return f"{_SQLITE}{path.absolute()}{uri[len(_SQLITE) + len(str(path)) :]}" if not path.is_absolute() else uri
    return uri if where is None else f"file://{where.expanduser().absolute()}"
