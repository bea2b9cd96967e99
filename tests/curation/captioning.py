"""A server that captions: OpenAI's chat completions over real HTTP, by measuring the frames that it is sent."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from lumina.shapes import MeasuredShape, measure
from lumina.shapes.captions import _STAYS, _TO

Reply = tuple[int, dict[str, str], bytes]
SAID = {"still": _STAYS, **_TO}


@dataclass
class Captioner:
    """What the server says, and what it has seen."""

    reply: Callable[[dict[str, Any], int], Reply | None] = lambda _body, _number: None
    """Called with each request and its number, from 0; None for a caption."""
    url: str = ""
    requests: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    """Headers and bodies."""
    succeeded: Counter[str] = field(default_factory=Counter)
    """Requests that had a caption for an answer, by what they asked."""
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def chat(text: Any, **changes: Any) -> Reply:
    """A completion with this text; keywords change the choice, or the whole with `top`."""
    top = changes.pop("top", {})
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} | changes
    whole = {"model": "shapes-vl-7b", "system_fingerprint": "fp_1", "choices": [choice], "usage": {"total_tokens": 10}}
    return 200, {"Content-Type": "application/json"}, json.dumps(whole | top).encode()


def seen(body: dict[str, Any]) -> tuple[np.ndarray, list[float], str]:
    """Frames [T, H, W, 3] of a request, their times in seconds, and the prompt."""
    *shown, prompt = body["messages"][0]["content"]
    times = [float(re.fullmatch(r"([\d.]+) s:", part["text"])[1]) for part in shown[::2]]  # type: ignore[index]
    urls = [part["image_url"]["url"].removeprefix("data:image/jpeg;base64,") for part in shown[1::2]]
    frames = np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(url)))) for url in urls])
    return frames, times, prompt["text"]


def _motion(shape: MeasuredShape) -> str:
    return " stands still" if shape.direction == "still" else f" moves {shape.direction} {shape.speed}"


def described(body: dict[str, Any]) -> str:
    """A true sentence about the shapes in the frames."""
    frames, times, _ = seen(body)
    found = measure(frames, 1 / (times[1] - times[0]) if len(times) > 1 else 1.0).shapes
    told = [f"a {one.color} {one.kind}{_motion(one) if len(times) > 1 else ''}" for one in found]
    ground = "dark" if np.median(frames) < 128 else "light"
    return " and ".join(told or ["nothing is there to be seen"]).capitalize() + f" on a {ground} background."


def is_right(caption: str, scene: Sequence[Mapping[str, str]], image: bool = False) -> bool:
    """Whether a caption tells each shape of a scene with its colour, its kind and where it moves, and no other."""
    clauses = caption.lower().replace(" while ", " and ").split(" and ")
    return len(clauses) == len(scene) and all(
        any(
            f"{one['color']} {one['kind']}" in clause
            and (image or any(f" {said}" in clause for said in SAID[one["direction"]]))
            for clause in clauses
        )
        for one in scene
    )


@contextmanager
def served(captioner: Captioner) -> Iterator[Captioner]:
    """Serve it on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with captioner.lock:
                number = len(captioner.requests)
                captioner.requests.append((dict(self.headers) | {"port": str(self.client_address[1])}, body))
                captioner.at_once += 1
                captioner.most_at_once = max(captioner.most_at_once, captioner.at_once)
            try:
                answer = captioner.reply(body, number)
                if answer is None:
                    answer = chat(described(body))
                    with captioner.lock:
                        captioner.succeeded[json.dumps(body["messages"])] += 1
            finally:
                with captioner.lock:
                    captioner.at_once -= 1
            status, headers, data = answer
            with suppress(OSError):  # who asked may be gone
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(data))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Who asked may be gone."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    captioner.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield captioner
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
