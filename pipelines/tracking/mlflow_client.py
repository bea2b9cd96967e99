"""MLflow's availability: whether a tracking store is away, refuses or is broken, found out without waiting for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from pipelines.tracking.uri import database_file, folder, one_line, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALLOW_FOLDERS = "MLFLOW_ALLOW_FILE_STORE"
CONNECT_S = 3.0
REQUEST_S = 10
"""Seconds that a server may take for one answer."""


_REFUSED = range(400, 500)
_LATER = (408, 409, 429, 499)
"""Answers of that range that say: try again."""


class TrackerError(Exception):
    """Nothing can be written to the tracking store now; the message says why."""

    state, when = "", "once that is mended, by the next run or `lumina track`"
    """What MLflow does, and when it has the records, in words."""


class TrackerAwayError(TrackerError):
    """The tracking database is not there, or the server does not answer: it may later."""

    state, when = "is away", "when MLflow is back"


class TrackerRefusedError(TrackerError):
    """The tracking store answers, and takes nothing: somebody has to change that."""

    state = "takes no records"


class TrackerFaultError(TrackerError):
    """What this machine would write to, or by, is broken, full or missing."""

    state = "cannot be used from here"


def sorted_error(error: Exception, uri: str) -> TrackerError:
    """Whether a tracking store is away, refuses, or cannot be used from here.

    Args:
        error: what a call of MLflow's client raised.
        uri: the tracking store.
    """
    if isinstance(error, TrackerError):
        return error
    said = one_line(error)
    told = said if said == type(error).__name__ else f"{type(error).__name__}: {said}"
    status = getattr(error, "get_http_status_code", int)()
    if status in _REFUSED and status not in _LATER:
        hint = "; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of somebody who may write there"
        return TrackerRefusedError(f"{told}{hint if status in (401, 403) else ''}")
    if isinstance(error, ImportError):
        return TrackerFaultError(f"{told}: {without_password(uri)} needs a package that is not installed")
    local = database_file(uri) is not None or folder(uri) is not None
    if local and "database is locked" not in str(error):
        return TrackerFaultError(told)
    return TrackerAwayError(told)


def check_answers(uri: str) -> None:
    """Find out within seconds whether a tracking store can be written to; a database need not be there yet.

    Raises:
        TrackerAwayError: the server does not answer. MLflow itself would try for minutes.
        TrackerRefusedError: it is a folder, which MLflow takes no more.
        TrackerFaultError: what is there is no database.
    """
    path, where, address = database_file(uri), folder(uri), urlsplit(uri)
    if address.scheme in ("http", "https"):
        try:
            port = address.port or (443 if address.scheme == "https" else 80)
            socket.create_connection((address.hostname or "", port), timeout=CONNECT_S).close()
        except (OSError, ValueError) as error:
            raise TrackerAwayError(f"{without_password(uri)} does not answer ({error})") from error
    if where is not None and os.environ.get(ALLOW_FOLDERS, "").lower() not in ("true", "1"):
        raise TrackerRefusedError(
            f"MLflow keeps nothing in folders any more: name a database, such as sqlite:///{where / 'mlflow.db'}; "
            f"`mlflow migrate-filestore` moves what is there, or set {ALLOW_FOLDERS}=true"
        )
    if uri.startswith("sqlite:") and (path is None or not path.parts):
        raise TrackerFaultError(f"{uri} names no file, so nothing would be kept: expected sqlite:////<path>/mlflow.db")
    if path is not None and path.exists():
        try:
            with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", CONNECT_S, uri=True)) as found:
                found.execute("PRAGMA schema_version")
        except sqlite3.Error as error:
            kind = TrackerAwayError if "locked" in str(error) else TrackerFaultError
            raise kind(f"{path}: {error}") from error


@contextmanager
def first_touch(uri: str) -> Iterator[None]:
    """Let one process at a time create or migrate a SQLite database: two at once break it."""
    path = database_file(uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not path.exists():
            _create(path)
        yield


def _create(path: Path) -> None:
    """Put a database with all its tables in its place at once: MLflow makes them in many transactions, and cannot go on
    with half of them."""
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    partial = path.with_name(f"{path.name}.partial")
    for left in (partial, partial.with_name(f"{partial.name}-journal")):
        left.unlink(missing_ok=True)
    SqlAlchemyStore(f"sqlite:///{partial}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()
    partial.replace(path)


@contextmanager
def answering(uri: str) -> Iterator[MlflowClient]:
    """A client for a tracking store that is there, for the length of the block.

    Args:
        uri: tracking URI.

    Raises:
        TrackerAwayError: it cannot be asked, or what the block asks fails.
    """
    path = database_file(uri)
    if path is not None and not path.is_file():
        raise TrackerAwayError(f"{path} is not there")
    # Read by MLflow at each request; its own defaults would wait for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_S))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    try:
        check_answers(uri)
        from mlflow import MlflowClient

        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except TrackerAwayError:
        raise
    except TrackerError as error:
        raise TrackerAwayError(str(error)) from error
    except Exception as error:  # a database that is none fails in ways of its own
        raise TrackerAwayError(f"{without_password(uri)}: {type(error).__name__}: {one_line(error)}") from error
