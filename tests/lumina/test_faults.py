from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pyarrow as pa
import pytest

from curation.operator import map_rows
from curation.schema import INGEST, Reason, RowError
from lumina import faults
from lumina.faults import MachineError, is_of_machine, machine_error, patiently, told_by


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "WAITS_S", (0.0, 0.0))


def _fails(error: Exception, times: int, result: str = "well") -> Callable[[], str]:
    left = [times]

    def function() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return result

    return function


@pytest.mark.parametrize(
    "number",
    [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE,
     errno.ETIMEDOUT, errno.ECONNRESET, errno.EACCES, errno.EAGAIN, errno.ENOTCONN, errno.EHOSTDOWN],
)  # fmt: skip
def test_what_the_machine_refuses_is_told_in_one_line_with_a_cure(number: int) -> None:
    error = OSError(number, os.strerror(number))
    assert is_of_machine(error)
    text = str(machine_error(error, "a.mp4"))
    assert text.startswith(f"a.mp4: {os.strerror(number)}; ")
    assert text.endswith("the same command continues")
    assert "\n" not in text


def test_what_is_the_file_s_is_not_the_machine_s() -> None:
    for number in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG):
        assert not is_of_machine(OSError(number, os.strerror(number)))
    for error in (OSError("image file is truncated"), ValueError("x"), EOFError(), RowError(Reason.DECODE_ERROR, "x")):
        assert not is_of_machine(error)
    assert is_of_machine(MemoryError())


def test_a_refusal_is_tried_again_then_told_with_the_number_of_tries() -> None:
    assert patiently(_fails(OSError(errno.ESTALE, "Stale file handle"), 2), "a.mp4") == "well"
    with pytest.raises(MachineError, match=r"^a\.mp4: Stale file handle; see that .* continues \(tried 3 times\)$"):
        patiently(_fails(OSError(errno.ESTALE, "Stale file handle"), 3), "a.mp4")
    with pytest.raises(ZeroDivisionError):
        patiently(_fails(ZeroDivisionError(), 1), "a.mp4")


def test_there_is_no_further_try_beyond_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter((0.0, 6.0, 12.0, 18.0))
    monkeypatch.setattr(faults, "WAITS_S", (0.0,) * 9)
    monkeypatch.setattr(faults.time, "monotonic", lambda: next(now))
    with pytest.raises(MachineError, match="tried 3 times"):
        patiently(_fails(OSError(errno.EIO, "Input/output error"), 9), "a.mp4")


def _mapped(function: Callable[[], str]) -> list[dict[str, object]]:
    table = pa.Table.from_pylist([{"uri": "a.mp4", "clip_id": "1"}], schema=INGEST)
    found = map_rows(table, INGEST, "probe", lambda row: {"caption": function()})
    return found.select(["caption", "status", "reason"]).to_pylist()


def test_no_row_says_what_the_machine_refused() -> None:
    well = [{"caption": "well", "status": "ok", "reason": None}]
    for error in (OSError(errno.EMFILE, "Too many open files"), MemoryError(), MachineError("the store is away")):
        assert _mapped(_fails(error, 2)) == well
        with pytest.raises(MachineError, match="tried 3 times"):
            _mapped(_fails(error, 3))
    assert _mapped(_fails(ZeroDivisionError("a bug"), 1))[0]["reason"] == "internal_error"
    assert _mapped(_fails(RowError(Reason.DECODE_ERROR, "no"), 1))[0]["reason"] == "decode_error"


def test_a_worker_s_fault_is_found_in_what_ray_hands_on() -> None:
    text = (
        "\x1b[36mray::MapBatches(f)()\x1b[39m (pid=1, ip=192.0.2.2)\n"
        "OSError: [Errno 5] Input/output error\n\nThe above exception was the direct cause\n\n"
        "lumina.faults.MachineError: a.mp4: Input/output error; see that (tried 3 times)\n\nUserCodeException: UDF\n"
    )
    assert str(told_by(RuntimeError(text))) == "a.mp4: Input/output error; see that (tried 3 times)"
    assert told_by(RuntimeError("OSError: [Errno 5]")) is None
