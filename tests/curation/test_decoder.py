from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from curation.backends import probe, read
from curation.decode_limits import DecodeLimits
from curation.decoder import Decoder
from curation.schema import Reason, RowError
from lumina.faults import MachineError
from lumina.video import write_h264
from tests.ray_nodes import processes

HOSTILE = (sys.executable, "-m", "tests.curation.hostile_child")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_h264(path, np.stack([np.full((32, 48, 3), 20 * t, np.uint8) for t in range(12)]), fps=8, crf=5)
    return path


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    made = Decoder(DecodeLimits(timeout_s=8.0, memory_bytes=400 << 20), HOSTILE)
    yield made
    made.close()


def children() -> set[int]:
    """Those that decode: others may be of tests before, and end at any time."""
    return {child.pid for child in processes(os.getpid(), "_child")}


def test_the_child_finds_what_the_backends_find(clip: Path, decoder: Decoder) -> None:
    found = decoder.probe(clip, "video", 0.5, 1.5)
    assert found == probe(clip, "video", 0.5, 1.5)
    times = [0.5, 0.875, 0.875]
    frames, expected = decoder.frames(clip, "video", found.track, times), read(clip, "video", found.track, times)
    np.testing.assert_array_equal(frames.pixels, expected.pixels)
    assert frames.stamps_s == expected.stamps_s == (0.5, 0.875, 0.875)
    with pytest.raises(RowError, match="has not been probed") as caught:
        decoder.frames(clip, "video", None, times)
    assert caught.value.reason == Reason.DECODE_ERROR


@pytest.mark.parametrize(
    ("name", "reason", "detail"),
    [
        ("hang", Reason.DECODE_TIMEOUT, "no answer within 8 s"),
        ("crash", Reason.DECODE_CRASHED, "died of SIGSEGV"),
        ("grow", Reason.DECODE_MEMORY, "more than 0.390625 GiB"),
    ],
)
def test_a_decoder_that_misbehaves_is_replaced(
    clip: Path, decoder: Decoder, tmp_path: Path, name: str, reason: Reason, detail: str
) -> None:
    bad = tmp_path / f"{name}.mp4"
    shutil.copy(clip, bad)
    before = children()
    assert decoder.probe(clip, "video").frames_decodable == 12
    with pytest.raises(RowError, match=detail) as caught:
        decoder.probe(bad, "video")
    assert caught.value.reason == reason
    assert children() == before
    assert decoder.probe(clip, "video").frames_decodable == 12
    decoder.close()
    assert children() == before


def test_what_native_code_prints_disturbs_nothing(clip: Path, decoder: Decoder, tmp_path: Path) -> None:
    shutil.copy(clip, tmp_path / "print.mp4")
    assert decoder.probe(tmp_path / "print.mp4", "video").frames_decodable == 12


@pytest.mark.parametrize("gone", [True, False])
def test_a_child_that_died_between_two_clips_costs_none(
    clip: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    before = children()
    decoder.probe(clip, "video")
    [pid] = children() - before
    os.kill(pid, signal.SIGKILL)
    if gone:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    else:  # its threads still end, so that the system does not call it dead
        monkeypatch.setattr(subprocess.Popen, "poll", lambda _self: None)
    assert decoder.probe(clip, "video").frames_decodable == 12


def test_a_child_that_does_not_start_is_no_row_s_fault(clip: Path) -> None:
    broken = Decoder(DecodeLimits(), (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(MachineError, match=r"did not start: the decoder died of exit status 3; .* command continues"):
        broken.probe(clip, "video")
    starved = Decoder(DecodeLimits(memory_bytes=1 << 20))
    with pytest.raises(MachineError, match=r"did not start: .* more than 0\.000976562 GiB \(runtime.decode_memory_gb"):
        starved.probe(clip, "video")
    nothing = Decoder(DecodeLimits(), (str(clip.with_name("python")),))
    with pytest.raises(MachineError, match="the decoding process cannot be started: No such file"):
        nothing.probe(clip, "video")


def test_a_child_that_dies_before_it_reads_is_no_row_s_fault(clip: Path) -> None:
    greets = "from curation.decoder import message; import os; os.write(1, message({'ready': True})); "
    for end in ("os._exit(1)", "import signal; os.read(0, 1); os.kill(os.getpid(), signal.SIGKILL)"):
        dying = Decoder(DecodeLimits(), (sys.executable, "-c", greets + end))
        with pytest.raises(MachineError, match=r"did not begin: the decoder died of (exit status 1|SIGKILL)"):
            dying.probe(clip, "video")


def test_too_many_open_files_in_the_child_are_no_row_s_fault(clip: Path, decoder: Decoder, tmp_path: Path) -> None:
    for name in ("files.mp4", "files.png"):
        shutil.copy(clip, tmp_path / name)
        with pytest.raises(MachineError, match=r"Too many open files; raise the limit of open files \(ulimit -n\)"):
            decoder.probe(tmp_path / name, "video" if name.endswith("mp4") else "image")


def test_a_child_that_waits_for_a_disk_is_no_row_s_fault(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(clip, tmp_path / "hang.mp4")
    waiting = Decoder(DecodeLimits(timeout_s=0.5), HOSTILE)
    monkeypatch.setattr(psutil.Process, "status", lambda _self: psutil.STATUS_DISK_SLEEP)
    with pytest.raises(MachineError, match=r"the decoder waits for a disk or a mount, for 0.5 s in all"):
        waiting.probe(tmp_path / "hang.mp4", "video")


def test_a_hanging_child_does_not_outlive_its_parent(clip: Path, tmp_path: Path) -> None:
    shutil.copy(clip, tmp_path / "hang.mp4")
    script = (
        "import sys, threading, time, psutil; from pathlib import Path\n"
        "from curation.decode_limits import DecodeLimits\nfrom curation.decoder import Decoder\n"
        f"d = Decoder(DecodeLimits(timeout_s=1), {HOSTILE!r}); d.probe(Path({str(clip)!r}), 'video')\n"
        "print(d._child.pid, flush=True)\n"
        f"threading.Thread(target=d.probe, args=(Path({str(tmp_path / 'hang.mp4')!r}), 'video')).start()\n"
        "time.sleep(0.3); print('asked', flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.stdout.readline()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert child.wait(timeout=20) is None  # ended by the kernel's timer; not ours to reap


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux tells of processes")
def test_the_child_has_no_more_than_it_needs(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "marked-7731")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Who stands in a folder of somebody else's runs no code of it.
    (tmp_path / "json.py").write_text("raise SystemExit('taken from the folder')")
    monkeypatch.chdir(tmp_path)
    before = children()
    made = Decoder(DecodeLimits(memory_bytes=1 << 30))
    try:
        assert made.probe(clip, "video").frames_decodable == 12
        [pid] = children() - before
        process = psutil.Process(pid)
        environment = process.environ()
        assert environment.pop("OMP_NUM_THREADS") == "1"
        known = {"PATH", "PYTHONPATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH"}
        assert {name for name in environment if not name.startswith("MALLOC_")} <= known
        assert "\nNoNewPrivs:\t1\n" in Path(f"/proc/{pid}/status").read_text()
        assert process.rlimit(psutil.RLIMIT_FSIZE) == process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert process.rlimit(psutil.RLIMIT_NOFILE)[1] <= 256
        assert process.rlimit(psutil.RLIMIT_AS)[1] < 64 << 30
    finally:
        made.close()


def test_the_confined_write_no_file(tmp_path: Path) -> None:
    code = f"""
from curation.confinement import confine
confine()
file = open({str(tmp_path / "x")!r}, "w", buffering=1)
try:
    file.write("much\\n")
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "File too large" in done.stdout
    assert (tmp_path / "x").read_bytes() == b""
