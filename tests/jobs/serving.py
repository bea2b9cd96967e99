"""A tiny checkpoint, and the video server's application over it in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient
from starlette.types import ASGIApp

from jobs.serve_api import make_app
from jobs.serve_queue import Event, Maker, VideoQueue
from jobs.serve_request import ClipSettings, Limits, Served, read_served
from jobs.serve_worker import ClipMaker, load
from tests.lumina import tiny


def checkpoint(folder: Path) -> Served:
    """A tiny checkpoint, written to `folder`/tiny."""
    tiny.text_to_video().save_pretrained(folder / "tiny")
    return read_served(str(folder / "tiny"))


def real(served: Served) -> Maker:
    """Makes clips with the networks."""
    return ClipMaker(lambda: load(served, "cpu")).make


class Gate:
    """Stands where a clip takes long: nothing is made until `open`."""

    def __init__(self) -> None:
        self.open = False
        self.begun: list[str] = []
        self.stopped: list[str] = []
        self.content = b"clip"

    async def make(self, settings: ClipSettings) -> AsyncGenerator[Event, None]:
        self.begun.append(settings.prompt)
        try:
            yield 1, 4
            while not self.open:
                await asyncio.sleep(0.01)
            if settings.prompt == "bad":
                raise RuntimeError("no luck\nand more")
            yield self.content
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped.append(settings.prompt)
            raise


def application(served: Served, maker: Maker, limits: Limits | None = None) -> ASGIApp:
    """The application with one worker."""
    taken = limits or Limits()
    return make_app(served, taken, lambda: VideoQueue(maker, 1, taken), ["testserver", "127.0.0.1"])


def until(client: TestClient, name: str, *states: str) -> dict[str, Any]:
    """The job once it is in one of the states."""
    while (job := client.get(f"/v1/videos/{name}").json())["status"] not in states:
        assert job["status"] != "failed", job["error"]
        time.sleep(0.01)
    return job
