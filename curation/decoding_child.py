"""The child process of `curation.decoder`: answers one request after another until its input ends.

Requests and answers are JSON, each behind its length in 4 bytes; before the answer to a request goes a word that it was
read, and pixels follow as raw bytes. Nothing is
pickled: the parent must not trust a process whose native code has read a hostile file.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from curation.backends import load_backends, probe, read
from curation.confinement import confine
from curation.decoder import IDLE_S, LENGTH, message
from curation.fitting import Fit
from curation.schema import Reason, RowError, Status
from lumina.faults import MachineError, is_of_machine, machine_error

_GRACE_S = 5.0
_PACKAGES = ("curation.", "lumina.")


def main() -> None:
    """Serve requests from standard input; answers go to what was standard output."""
    # Native libraries print where they like: only this descriptor leads to the parent.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = os.fdopen(0, "rb", buffering=0)
    load_backends()
    for module in sys.argv[1:]:
        importlib.import_module(module)
    confine()
    _send(answers, {"ready": True})
    while select.select([requests], [], [], IDLE_S)[0] and (request := _receive(requests)) is not None:
        # The kernel ends this process even where native code hangs for ever and the parent is no more.
        signal.setitimer(signal.ITIMER_REAL, request["timeout_s"] + _GRACE_S)
        _send(answers, {"begun": True})
        answer, pixels = _answer(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(answers, answer, pixels)


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
    path, media = Path(request["path"]), request["media"]
    try:
        if request["call"] == "probe":
            return {"probe": asdict(probe(path, media, request["start_s"], request["end_s"]))}, None
        if request["call"] == "whole_file":
            return {"found": _function(request["function"])(path, request["settings"])}, None
        if request["call"] == "array":
            found, array = _function(request["function"])(path, request["settings"])
            array = np.ascontiguousarray(array)
            return {"found": found, "shape": array.shape, "dtype": str(array.dtype)}, array
        asked = request["fit"]
        fit = None if asked is None else Fit(_function(asked["function"]), (asked["size"][0], asked["size"][1]))
        frames = read(path, media, request["track"], request["times_s"], fit)
        pixels = np.ascontiguousarray(frames.pixels)
        told = {"shape": pixels.shape, "dtype": str(pixels.dtype), "stamps_s": frames.stamps_s, "shown": frames.shown}
        return told, pixels
    except RowError as error:
        return {"status": error.status, "reason": error.reason, "detail": str(error)}, None
    except MachineError as error:
        return {"fault": str(error)}, None
    except MemoryError:
        detail = "the decoder could not get the memory it asked for"
        return {"status": Status.QUARANTINED, "reason": Reason.DECODE_MEMORY, "detail": detail}, None
    except Exception as error:  # noqa: BLE001 - told to the parent, which sets the row aside
        if is_of_machine(error):
            return {"fault": str(machine_error(error))}, None
        detail = f"{type(error).__name__}: {error}"
        return {"status": Status.QUARANTINED, "reason": Reason.INTERNAL_ERROR, "detail": detail}, None


def _function(reference: str) -> Callable[..., Any]:
    """A function of our own that the parent names: what this module imported itself would count as code of all stages
    that decode."""
    module, _, name = reference.partition(":")
    if not module.startswith(_PACKAGES):
        raise ValueError(f"{reference!r} is none of the functions of {' and '.join(_PACKAGES)}")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _receive(stream: BinaryIO) -> dict[str, Any] | None:
    head = _exactly(stream, LENGTH.size)
    body = _exactly(stream, LENGTH.unpack(head)[0]) if head else b""
    if not body:
        return None
    found: dict[str, Any] = json.loads(body)
    return found


def _exactly(stream: BinaryIO, count: int) -> bytes:
    """Read so many bytes; nothing if the stream ends before."""
    data = b""
    while len(data) < count:
        more = stream.read(count - len(data))
        if not more:
            return b""
        data += more
    return data


def _send(stream: BinaryIO, answer: dict[str, Any], pixels: np.ndarray | None = None) -> None:
    try:
        stream.write(message(answer))
        if pixels is not None:
            stream.write(pixels.data)
        stream.flush()
    except BrokenPipeError:
        os._exit(0)  # the parent is gone


if __name__ == "__main__":
    main()
