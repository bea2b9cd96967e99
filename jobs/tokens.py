"""Tokens of Ray clusters: who shows a cluster's token runs commands on it, and nobody else does.

Ray reads `RAY_AUTH_MODE` once in each process, when it is imported there, and looks for the token of its user in
`RAY_AUTH_TOKEN`, in the file that `RAY_AUTH_TOKEN_PATH` names, and in `~/.ray/auth_token`.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping, MutableMapping
from functools import cache
from pathlib import Path

MODE, TEXT, FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
GIVE = f"set {FILE} to a file that holds it, or {TEXT}"


class TokenError(Exception):
    """A token that is named cannot be read; the message says where."""


@cache
def own() -> Mapping[str, str]:
    """Variables by which Ray's processes find a random token that this process makes, the same at each call.

    It lies in memory, and is gone with this process, however that ends. Its path is no secret: the system lets root
    and this user read what is there.
    """
    token = secrets.token_hex(32)
    if sys.platform != "linux":
        return {MODE: "token", TEXT: token}
    descriptor = os.memfd_create("ray-token")
    os.fchmod(descriptor, 0o600)
    os.write(descriptor, token.encode())
    # The first that is looked at is a user's own, for another cluster.
    return {MODE: "token", TEXT: "", FILE: f"/proc/{os.getpid()}/fd/{descriptor}"}


def user_has_one(environment: Mapping[str, str]) -> str:
    """Where Ray finds the token that a user has for clusters; empty if there is none.

    Raises:
        TokenError: the file that `RAY_AUTH_TOKEN_PATH` names is away, or holds nothing.
    """
    if environment.get(TEXT):
        return TEXT
    if named := environment.get(FILE):
        try:
            if Path(named).read_bytes().strip():
                return f"{FILE} ({named})"
            why = "it is empty"
        except OSError as error:
            why = str(error.strerror)
        raise TokenError(f"{FILE} names {named}, which gives no token: {why}; write the cluster's token there")
    path = Path(environment.get("HOME") or Path.home()) / ".ray" / "auth_token"
    return str(path) if path.is_file() else ""


def show_to_clusters(environment: MutableMapping[str, str]) -> str:
    """Have Ray show a cluster the token that a user has, unless `RAY_AUTH_MODE` is set.

    Returns:
        Where the token lies; empty if none is shown.

    Raises:
        TokenError: see `user_has_one`.
    """
    if environment.get(MODE) == "disabled":
        return ""
    found = user_has_one(environment)
    if found:
        environment[MODE] = "token"
    return found


def refusal(environment: Mapping[str, str]) -> str:
    """What to say of a cluster that wants a token, and was shown none, or another."""
    if environment.get(MODE) == "disabled":
        return f"wants a token, and {MODE}=disabled shows it none: unset that, and {GIVE}"
    found = user_has_one(environment)
    if found:
        return f"wants another token than that of {found}: {GIVE}"
    return f"wants a token: {GIVE}"
