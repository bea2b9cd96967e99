"""The memory of this machine, as far as it decides whether Ray starts."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import psutil

_SHARED = Path("/dev/shm")  # noqa: S108  (where Ray puts objects)
_LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Files of control groups of versions 2 and 1, below `/sys/fs/cgroup`: what a container may take, and takes."""
_USERS = 3


def available_bytes(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """What can still be taken, by this machine or by the container that this is."""
    free = int(psutil.virtual_memory().available)
    for limit, usage in _LIMITS:
        if (groups / limit).is_file():
            most = (groups / limit).read_text(encoding="utf-8").strip()
            if most != "max":
                free = min(free, max(0, int(most) - int((groups / usage).read_text(encoding="utf-8"))))
    return free


def memory_told(need: int, objects: int) -> str:
    """Whether memory is short, what there is, what Ray needs, who has the rest, and what to do.

    Args:
        need: bytes that a local cluster takes at least, those of the objects included.
        objects: bytes that it takes for objects.
    """
    free = available_bytes()
    short = free < need
    said = f"{_gib(free)} are available, and Ray needs about {_gib(need)}"
    if _SHARED.is_dir():
        shared = shutil.disk_usage(_SHARED)
        short = short or shared.free < objects
        said += f"; {_SHARED} has {_gib(shared.free)} free of {_gib(shared.total)}, and objects need {_gib(objects)}"
    addresses = resource.getrlimit(resource.RLIMIT_AS)[0]
    if addresses != resource.RLIM_INFINITY:
        short = True
        said += (
            f"; `ulimit -v` allows a process {_gib(addresses)} of addresses, of which Ray takes many times its memory"
        )
    if users := _largest():
        said += f"; most is used by {', '.join(users)}"
    return f"memory is short: {said}. Free some" if short else f"memory is not short: {said}. Look into Ray's logs"


def _largest() -> list[str]:
    """The processes that hold most."""
    held = [
        (int(process.info["memory_info"].rss), process.pid, str(process.info["name"]))
        for process in psutil.process_iter(["name", "memory_info"])
        if process.info["memory_info"] is not None  # those of others may not be asked
    ]
    return [f"{name} (process {pid}, {_gib(size)})" for size, pid, name in sorted(held, reverse=True)[:_USERS]]


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
