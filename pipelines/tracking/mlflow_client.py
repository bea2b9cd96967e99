"""A client for what MLflow holds. It waits for no server: what does not answer is said to be away."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from mlflow import MlflowClient

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

CONNECT_S = 3.0
REQUEST_S = 10
"""Seconds that a server may take for one answer."""


class TrackerAwayError(Exception):
    """The tracking database is not there, or the server does not answer; the message says which."""


def is_away(uri: str) -> str | None:
    """Why a tracking store cannot be asked, found out within seconds; None when it seems to be there.

    Args:
        uri: `sqlite:///<absolute path>`, or the address of a server.
    """
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///"))
        return None if path.is_file() else f"{path} is not there"
    address = urlsplit(uri)
    if address.scheme not in ("http", "https") or not address.hostname:
        return f"{uri} is neither a database nor a server that can be asked"
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=CONNECT_S).close()
    except OSError as error:
        return f"{uri} does not answer ({error})"
    return None


def check_answers(uri: str) -> None:
    """Find out within seconds whether a tracking store can be written to; a database need not be there yet.

    Raises:
        TrackerAwayError: the server does not answer, or what is there is no database. MLflow itself would try for
            minutes.
    """
    if uri.startswith(("http://", "https://")) and (reason := is_away(uri)):
        raise TrackerAwayError(reason)
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and path.exists():
        try:
            with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", CONNECT_S, uri=True)) as found:
                found.execute("PRAGMA schema_version")
        except sqlite3.Error as error:
            raise TrackerAwayError(f"{path}: {error}") from error


@contextmanager
def answering(uri: str) -> Iterator[MlflowClient]:
    """A client for a tracking store that is there, for the length of the block.

    Args:
        uri: tracking URI.

    Raises:
        TrackerAwayError: it cannot be asked, or what the block asks fails.
    """
    if reason := is_away(uri):
        raise TrackerAwayError(reason)
    # Read by MLflow at each request; its own defaults would wait for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_S))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    try:
        from mlflow import MlflowClient

        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except TrackerAwayError:
        raise
    except Exception as error:  # a database that is none fails in ways of its own
        text = str(error).strip().splitlines()
        raise TrackerAwayError(f"{uri}: {type(error).__name__}: {text[0] if text else ''}") from error
