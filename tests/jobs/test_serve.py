"""The video server on Ray Serve: over HTTP the bytes of `lumina generate`; a cancelled clip frees its replica."""

from __future__ import annotations

import importlib.util
import json
import shlex
import socket
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from typer.testing import CliRunner

from jobs import serve
from jobs.serve_request import Limits
from pipelines import cli
from tests.jobs.serving import checkpoint


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


@pytest.mark.ray
def test_the_whole_way(ray_cluster: None, tmp_path: Path) -> None:
    import torch

    server = serve.Server("127.0.0.1", free_port(), 1, "cpu", torch.get_num_threads())

    def ask(method: str, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{server.address}{path}", data, {"content-type": "application/json"}, method=method)  # noqa: S310
        with urlopen(request, timeout=60) as answer:  # noqa: S310  (our own)
            return bytes(answer.read())

    def make(**fields: Any) -> Any:
        return json.loads(ask("POST", "/v1/videos", {"prompt": "a red circle"} | fields))

    def until(name: str, *states: str) -> Any:
        while (job := json.loads(ask("GET", f"/v1/videos/{name}")))["status"] not in states:
            assert job["status"] != "failed", job["error"]
            time.sleep(0.05)
        return job

    with serve.serving(server, checkpoint(tmp_path), Limits()):
        with (
            pytest.raises(serve.ServeError, match="the cluster serves something already"),
            serve.serving(server, checkpoint(tmp_path / "other"), Limits()),
        ):
            pass
        assert b"<title>tiny: text to video</title>" in ask("GET", "/")
        long = make(steps=100)["id"]
        until(long, "in_progress")
        assert json.loads(ask("DELETE", f"/v1/videos/{long}"))["deleted"]
        job = until(make(seed=3, steps=2)["id"], "completed")
        content = ask("GET", f"/v1/videos/{job['id']}/content")
    words = [*shlex.split(job["command"])[1:], "--out", str(tmp_path / "clip.mp4")]
    ran = CliRunner().invoke(cli.app, words)
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "clip.mp4").read_bytes() == content


def test_addresses_and_names() -> None:
    for host, address, names in (
        ("127.0.0.1", "http://127.0.0.1:8000", {"localhost", "127.0.0.1", "::1"}),
        ("::1", "http://[::1]:8000", {"localhost", "127.0.0.1", "::1"}),
        ("0.0.0.0", "http://127.0.0.1:8000", set()),  # noqa: S104  (a text)
        ("192.0.2.1", "http://192.0.2.1:8000", set()),
    ):
        server = serve.Server(host, 8000, 1, "cpu")
        assert (server.address, set(server.names)) == (address, names)


def test_the_last_error_of_a_traceback_is_told() -> None:
    traceback = (
        "Traceback (most recent call last):\n  File ...\nlumina.x.PartError: no part\n\nRayTaskError(PartError): x"
    )
    assert serve._reason(traceback) == "PartError: no part"
    assert serve._reason("no room\nat all") == "at all"


def test_without_its_packages_the_error_says_what_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "watchfiles" else name)
    with pytest.raises(serve.ServeError, match=r"Ray Serve lacks watchfiles: `pip install 'lumina-video\[serve\]'`"):
        serve.check_packages()
