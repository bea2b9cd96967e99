"""A run's own token is nobody else's and goes with it; a user's is found where Ray finds it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs import ray_head, tokens
from tests.ray_nodes import ROOT

GIVE = "set RAY_AUTH_TOKEN_PATH to a file that holds it, or RAY_AUTH_TOKEN"


def test_the_own_token_is_random_and_gone_with_its_process() -> None:
    ask = "from jobs import tokens; import os; o = tokens.own(); print(o[tokens.FILE], open(o[tokens.FILE]).read())"
    said = [
        subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    ]
    assert len({token for _, token in said}) == 2
    assert all(len(token) == 64 and not Path(path).exists() for path, token in said)
    here = tokens.own()
    assert here is tokens.own()
    assert (here[tokens.MODE], here[tokens.TEXT]) == ("token", "")
    assert os.stat(here[tokens.FILE]).st_mode & 0o777 == 0o600


def test_a_token_of_the_user_is_shown_unless_it_is_switched_off(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("abc\n")
    nothing: dict[str, str] = {"HOME": str(tmp_path)}
    assert tokens.show_to_clusters(nothing) == ""
    assert tokens.MODE not in nothing
    named = nothing | {tokens.FILE: str(file)}
    assert tokens.show_to_clusters(named) == f"RAY_AUTH_TOKEN_PATH ({file})"
    assert named[tokens.MODE] == "token"
    assert tokens.show_to_clusters(named | {tokens.TEXT: "abc"}) == "RAY_AUTH_TOKEN"
    off = named | {tokens.MODE: "disabled"}
    assert tokens.show_to_clusters(off) == ""
    assert off[tokens.MODE] == "disabled"
    (tmp_path / ".ray").mkdir()
    file.rename(tmp_path / ".ray" / "auth_token")
    assert tokens.show_to_clusters(nothing) == str(tmp_path / ".ray" / "auth_token")
    assert nothing[tokens.MODE] == "token"


@pytest.mark.parametrize(("content", "why"), [(None, "No such file or directory"), (" \n", "it is empty")])
def test_a_token_that_cannot_be_read_is_named(tmp_path: Path, content: str | None, why: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(tokens.TokenError) as raised:
        tokens.show_to_clusters({tokens.FILE: str(path)})
    assert str(raised.value).startswith(f"RAY_AUTH_TOKEN_PATH names {path}, which gives no token: {why}; write")


def test_a_refusal_says_which_variable_to_set(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert tokens.refusal(home) == f"wants a token: {GIVE}"
    assert tokens.refusal(home | {tokens.TEXT: "abc"}) == f"wants another token than that of RAY_AUTH_TOKEN: {GIVE}"
    assert "RAY_AUTH_MODE=disabled shows it none: unset that" in tokens.refusal(home | {tokens.MODE: "disabled"})


@contextmanager
def head(wanted: str | None) -> Iterator[str]:
    """A stand-in for a cluster's head that wants a token, or none; gives its address."""
    import grpc

    def answer(request: bytes, context: Any) -> bytes:
        shown = dict(context.invocation_metadata()).get("authorization")
        if wanted is not None and shown != f"Bearer {wanted}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        asked.append(shown)
        return b""

    asked: list[str | None] = []
    handlers = {"GetClusterId": grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", handlers)])
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)
    assert wanted is not None or asked == [None]


def test_a_cluster_is_asked_before_it_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    own: Mapping[str, str] = tokens.own()
    monkeypatch.setenv(tokens.MODE, "token")
    with head(None) as address:
        # And no token goes to one that has none.
        assert ray_head._mode(address) == "disabled"
    with head(Path(own[tokens.FILE]).read_text()) as address:
        assert ray_head._mode(address) == "token"
    with head("another") as address, pytest.raises(ray_head._RefusedError):
        ray_head._mode(address)
    assert ray_head._mode(address) == ray_head._mode("local") == ray_head._mode("ray://nobody:10001") == "token"
