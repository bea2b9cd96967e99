"""Decode in a child process that can be killed: native decoders hang, crash and grow on files that lie.

A decoder may spin for ever while it holds Python's global lock, where neither a signal handler nor a thread gets a word
in. A child that exceeds its deadline or its memory is killed and replaced, and so is one that died; its
clip leaves with a reason, and the next clip finds a new child.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from curation.confinement import bound_memory, environment
from curation.decode_limits import DecodeLimits
from curation.fitting import Fit
from curation.schema import Reason, RowError, Status
from curation.video_files import Frames, Probe
from lumina.faults import MachineError, machine_errors

log = logging.getLogger(__name__)

LENGTH = struct.Struct(">I")
"""Bytes of a message, before it."""
IDLE_S = 60.0
"""Seconds without a request after which the child ends by itself."""
_WHOLE_FILE = 10
"""What every frame of a file is decoded for may take so many times as long."""
# -P: the folder in which the user stands is no place to take code from.
COMMAND = (sys.executable, "-P", "-m", "curation.decoding_child")
"""Starts a child; modules that it shall import before its first request follow."""
_PIXELS: Mapping[str, np.dtype[Any]] = {"uint8": np.dtype(np.uint8), "float32": np.dtype(np.float32)}
"""Types of pixels that a child may send."""
_POLL_S = 0.05
_START_S = 120.0
_CHUNK = 1 << 20


class Decoder:
    """A long-lived child that decodes for one worker; started at the first call.

    Args:
        limits: of each call.
        command: starts the child; tests put others in its place.
    """

    def __init__(
        self,
        limits: DecodeLimits,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.limits = limits
        self._command = tuple(command)
        self._child: subprocess.Popen[bytes] | None = None
        self._used = 0.0

    def probe(self, path: Path, media: str, start_s: float | None = None, end_s: float | None = None) -> Probe:
        """`curation.backends.probe`; RowError says why the file cannot be used."""
        request = {"call": "probe", "path": str(path), "media": media, "start_s": start_s, "end_s": end_s}
        answer, _ = self._call(request)
        return Probe(**answer["probe"])

    def frames(
        self, path: Path, media: str, track: str | None, times_s: Sequence[float], fit: Fit | None = None
    ) -> Frames:
        """`curation.backends.read`: frames at the ascending `times_s`, each fitted; RowError if they cannot be had."""
        request: dict[str, Any] = {"call": "frames", "path": str(path), "media": media, "track": track}
        request |= {"times_s": list(times_s), "fit": None if fit is None else fit.to_json()}
        answer, data = self._call(request)
        pixels = np.frombuffer(data, _PIXELS[answer["dtype"]]).reshape(answer["shape"])
        return Frames(pixels, tuple(answer["stamps_s"]), (answer["shown"][0], answer["shown"][1]))

    def whole_file(self, function: str, path: Path, settings: Mapping[str, Any]) -> Any:
        """What `function(path, settings)` finds in the whole of a video file, in the time that this takes.

        Args:
            function: `curation.module:name`; it takes and gives JSON. RowError says why the file cannot be used.
        """
        request: dict[str, Any] = {"call": "whole_file", "path": str(path), "media": "video"}
        request |= {"function": function, "settings": dict(settings)}
        answer, _ = self._call(request, self.limits.timeout_s * _WHOLE_FILE)
        return answer["found"]

    def array(self, function: str, path: Path, settings: Mapping[str, Any]) -> tuple[Any, np.ndarray]:
        """As `whole_file`, of a `function` that makes an array too: what it found, and the array (float32 or uint8)."""
        request: dict[str, Any] = {"call": "array", "path": str(path), "media": "video"}
        request |= {"function": function, "settings": dict(settings)}
        answer, data = self._call(request, self.limits.timeout_s * _WHOLE_FILE)
        return answer["found"], np.frombuffer(data, _PIXELS[answer["dtype"]]).reshape(answer["shape"])

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            _end(self._child)
            self._child = None

    def _call(self, request: dict[str, Any], timeout_s: float | None = None) -> tuple[dict[str, Any], bytearray]:
        request = request | {"timeout_s": timeout_s or self.limits.timeout_s}
        try:
            answer, pixels = self._asked(request)
        except RowError as error:
            if error.reason != Reason.DECODE_CRASHED:
                raise
            # Something else may have ended the child, such as the system short of memory: a crash counts if it repeats.
            answer, pixels = self._asked(request)
        self._used = time.monotonic()
        # Native libraries leak: a child that has become large makes room for a new one between two clips.
        if self._child is not None and _resident(self._child.pid) > self.limits.memory_bytes // 2:
            self.close()
        if "fault" in answer:
            raise MachineError(answer["fault"])
        if "reason" in answer:
            raise RowError(Reason(answer["reason"]), answer["detail"], Status(answer["status"]))
        return answer, pixels

    def _asked(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytearray]:
        kept = self._child
        child = self._started()
        answer = _Answer(child, request["timeout_s"], self.limits.memory_bytes)
        try:
            try:
                with _not_begun("the decoding process did not begin"):
                    _send(child, request)
                    answer.read()
            except MachineError:
                # One that served before may be ended between two requests and not be seen to be gone yet.
                if child is not kept:
                    raise
                self.close()
                return self._asked(request)
            return answer.read()
        except BaseException:  # what is left of an answer must not be taken for that to the next request
            self.close()
            raise

    def _started(self) -> subprocess.Popen[bytes]:
        idle_s = time.monotonic() - self._used
        # Well before the child ends by itself, so that none ends while a request is on its way.
        if self._child is not None and self._child.poll() is None and idle_s < IDLE_S / 2:
            return self._child
        self.close()
        root = str(Path(__file__).resolve().parents[1])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        with machine_errors("the decoding process cannot be started"):
            child = subprocess.Popen(  # noqa: S603 - the project's own module
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment(paths),
                # Ctrl-C is the parent's business.
                start_new_session=True,
            )
        weakref.finalize(self, _end, child)
        try:
            with _not_begun("the decoding process did not start"):
                _Answer(child, _START_S, self.limits.memory_bytes).read()
        except MachineError:
            _end(child)
            raise
        bound_memory(child.pid, psutil.Process(child.pid).memory_info().vms, self.limits.memory_bytes)
        self._child, self._used = child, time.monotonic()
        return child


class _Answer:
    """Reads what a child says while it looks at the clock and at the child's memory."""

    def __init__(self, child: subprocess.Popen[bytes], timeout_s: float, memory_bytes: int) -> None:
        self._child, self._timeout_s, self._memory_bytes = child, timeout_s, memory_bytes
        self._deadline = time.monotonic() + timeout_s

    def read(self) -> tuple[dict[str, Any], bytearray]:
        """What it says next, and the pixels behind it; RowError if nothing comes."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout(), selectors.EVENT_READ)
            length = LENGTH.unpack(self._exactly(LENGTH.size, selector))[0]
            answer: dict[str, Any] = json.loads(self._exactly(length, selector))
            count = int(np.prod(answer["shape"])) * _PIXELS[answer["dtype"]].itemsize if "shape" in answer else 0
            if count > self._memory_bytes:
                raise self._too_large()
            return answer, self._exactly(count, selector)

    def _exactly(self, count: int, selector: selectors.BaseSelector) -> bytearray:
        data = bytearray(count)
        view, have = memoryview(data), 0
        while have < count:
            self._wait(selector)
            got = os.readv(self._stdout(), [view[have : have + _CHUNK]])
            if got == 0:
                raise RowError(Reason.DECODE_CRASHED, f"the decoder died of {_cause(self._child)}")
            have += got
        return data

    def _wait(self, selector: selectors.BaseSelector) -> None:
        while not selector.select(_POLL_S):
            if time.monotonic() > self._deadline:
                if _waits_for_disk(self._child.pid):
                    raise MachineError(
                        f"the decoder waits for a disk or a mount, for {self._timeout_s:g} s in all "
                        "(runtime.decode_timeout_s); see that it answers, and the same command continues"
                    )
                detail = f"no answer within {self._timeout_s:g} s (runtime.decode_timeout_s)"
                raise RowError(Reason.DECODE_TIMEOUT, detail)
            if _resident(self._child.pid) > self._memory_bytes:
                raise self._too_large()

    def _too_large(self) -> RowError:
        bound = self._memory_bytes / (1 << 30)
        return RowError(Reason.DECODE_MEMORY, f"the decoder needs more than {bound:g} GiB (runtime.decode_memory_gb)")

    def _stdout(self) -> int:
        if self._child.stdout is None:
            raise RuntimeError("the child has no pipe")
        return self._child.stdout.fileno()


def message(content: Mapping[str, Any]) -> bytes:
    """What goes through the pipe, in either direction: JSON behind its length."""
    text = json.dumps(content).encode()
    return LENGTH.pack(len(text)) + text


def _send(child: subprocess.Popen[bytes], request: dict[str, Any]) -> None:
    if child.stdin is None:
        raise RuntimeError("the child has no pipe")
    try:
        child.stdin.write(message(request))
        child.stdin.flush()
    except BrokenPipeError:
        raise RowError(Reason.DECODE_CRASHED, f"the decoder died of {_cause(child)}") from None


@contextlib.contextmanager
def _not_begun(what: str) -> Iterator[None]:
    """What happens to a child inside says nothing of a clip."""
    try:
        yield
    except RowError as error:
        raise MachineError(
            f"{what}: {error}; where memory is not short, `python -m curation.decoding_child` tells why; mend that, "
            "and the same command continues"
        ) from error


def _waits_for_disk(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_DISK_SLEEP)
    except psutil.NoSuchProcess:
        return False


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _cause(child: subprocess.Popen[bytes]) -> str:
    code = child.wait(timeout=10)
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        log.warning("decoding process %d waits for a file system and cannot be ended", child.pid)
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            # What is buffered for a dead child is of no use any more.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
