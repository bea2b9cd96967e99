"""The decoding child, with files whose names say how their decoder misbehaves."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from pathlib import Path

from curation import decoding_child
from curation.video_files import Probe

_probe = decoding_child.probe


def probe(path: Path, media: str, start_s: float | None, end_s: float | None) -> Probe:
    if path.stem.startswith("hang"):
        ctypes.PyDLL(None).sleep(1000)  # holds Python's global lock
    if path.stem.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.stem.startswith("grow"):
        held = []
        while True:
            held.append(bytearray(os.urandom(1 << 20)) * 8)
    if path.stem.startswith("files"):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, most[1]))
        try:
            return _probe(path, media, start_s, end_s)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, most)
    if path.stem.startswith("print"):
        os.write(1, b"what native libraries like to say")
    return _probe(path, media, start_s, end_s)


decoding_child.probe = probe

if __name__ == "__main__":
    decoding_child.main()
