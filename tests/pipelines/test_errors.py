from __future__ import annotations

import errno
from pathlib import Path

from lumina.faults import MachineError
from pipelines.errors import disk_error_of, disk_problem, failure

# As Ray Data hands it on.
TOLD_BY_RAY = """\x1b[36mray::ReadRange->MapBatches(write)()\x1b[39m (pid=17873, ip=192.0.2.2)
  File "/x/jobs/parts.py", line 3, in write
OSError: [Errno 28] No space left on device: '/store/stages/motion/ab/work/part-0.parquet'

The above exception was the direct cause of the following exception:

ray.exceptions.UserCodeException: UDF failed to process a data block.
"""


def test_a_full_disk_is_told_with_its_file_and_what_to_do() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/store/x")
    assert disk_error_of(full) is full
    assert disk_problem(full, Path("/store")) == (
        "/store/x: No space left on device; free some space, and the same command continues"
    )
    read_only = OSError(errno.EROFS, "Read-only file system")
    assert disk_problem(read_only, Path("/store")).startswith("/store: Read-only file system; allow this user to write")
    assert disk_problem(OSError("odd"), Path("/store")) == "/store: odd"


def test_what_happened_in_a_worker_is_found_in_its_text() -> None:
    found = disk_error_of(RuntimeError(TOLD_BY_RAY))
    assert found is not None
    assert (found.errno, found.filename) == (errno.ENOSPC, "/store/stages/motion/ab/work/part-0.parquet")
    arrow = "OSError: [Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"
    found = disk_error_of(RuntimeError(f"somewhere\n{arrow}\n"))
    assert found is not None
    assert (found.strerror, found.filename) == ("No space left on device", None)


def test_other_errors_are_no_disk_errors() -> None:
    for error in (
        ValueError("x"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"),
        RuntimeError("FileNotFoundError: [Errno 2] No such file or directory: '/x'"),
    ):
        assert disk_error_of(error) is None


def test_a_fault_of_the_machine_is_told_in_its_own_words() -> None:
    assert failure(MachineError("a.mp4: Stale file handle; see"), Path("/store")) == "a.mp4: Stale file handle; see"
    for number, said in (
        (errno.EIO, "Input/output error; see that the disk"),
        (errno.ESTALE, "Stale file handle; see"),
    ):
        text = f"OSError: [Errno {number}] x: '/store/part-0.parquet'"
        assert failure(RuntimeError(text), Path("/store")).startswith(f"/store/part-0.parquet: {said}")
