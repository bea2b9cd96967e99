"""A file system that is really full, and one that is really read-only, under the command line."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.context import JobContext, JobResult
from pipelines.engine.stage import Pipeline
from tests.pipelines.toy import diamond, stage

COMMAND = """
import os, subprocess, sys
from pipelines import cli, text_to_video
from pipelines.commands import run, runs
from pipelines.engine import runner
from pipelines.tracking import tracker
from tests.pipelines.engine.store.test_full_disk import pipeline
from tests.pipelines.test_cli import Untracked
from tests.pipelines.toy import identifier
text_to_video.build = lambda settings: pipeline()
tracker.MlflowTracking = Untracked
runner.Identifier = lambda cache: identifier()
whole = runner.run
runner.run = lambda *given, **named: whole(*given, **named | {"start_cluster": lambda: None})  # no stage needs Ray
disk = sys.argv[1]
store, runs = f"{disk}/store", f"{disk}/store/runs"

def mount(words, place):
    subprocess.run(["mount", *words.split(), place], check=True)

def go(*words):
    sys.argv = ["lumina", *words, "--store", store]
    if not (command := os.fork()):
        cli.main()
        sys.exit()
    print(f"exit code {os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])}", flush=True)

run = ("run", "demo", "-o", "min_free_gb=0")
mount("-t tmpfs -o size=2m none", disk)
go(*run)
print("--- more space", flush=True)
mount("-o remount,size=64m", disk)
go(*run)
print("--- records cannot be written", flush=True)
mount("-t tmpfs -o ro none", runs)
go(*run)
subprocess.run(["umount", runs], check=True)
print("--- read-only, with nothing to do", flush=True)
mount("-o remount,ro", disk)
go(*run)
print("--- read-only, and looked at", flush=True)
go("verify", "--deep")
"""


def large(ctx: JobContext) -> JobResult:
    """Write 3 MB."""
    content = b"x" * 1_000_000
    for number in range(3):
        (ctx.out / f"{number}.bin").write_bytes(content)
    return JobResult("files", f"sha256:{hashlib.sha256(content * 3).hexdigest()}")


def pipeline() -> Pipeline:
    """a -> (b, c) -> d, and a stage with a larger output, which comes last: it leaves no space to others."""
    big = replace(stage("big", inputs=("d",)), entry="tests.pipelines.engine.store.test_full_disk:large")
    return Pipeline("full", (*diamond().stages, big))


def in_own_mounts(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script as root of a namespace where it may mount."""
    return subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, "sh", *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Where a script may mount a small disk."""
    path = tmp_path / "disk"
    path.mkdir()
    try:
        done = in_own_mounts('mount -t tmpfs none "$1"', str(path))
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr}")
    return path


def test_a_full_disk_names_stage_and_file_and_the_same_command_goes_on(disk: Path) -> None:
    done = in_own_mounts('"$2" -c "$3" "$1"', str(disk), sys.executable, COMMAND)
    full, more, unrecorded, read_only, looked = done.stdout.split("\n--- ", 4)
    assert "exit code 1" in full, done.stdout + done.stderr
    told = [line for line in full.splitlines() if line.startswith("big failed:")]
    assert len(told) == 1, full + done.stderr
    assert "No space left on device; free some space, and the same command continues" in told[0]
    assert f"{disk}/store/stages/big" in told[0]
    assert full.count("✓ done") >= 4, full
    assert "exit code 0" in more, more
    assert "exit code 1" in unrecorded
    assert unrecorded.count("✓ cached") == 5, unrecorded
    assert "the run has no record: run " in unrecorded
    assert f"{disk}/store/runs/" in unrecorded
    assert "exit code 1" in read_only
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: store")]
    assert len(errors) == 1
    assert "Read-only file system" in errors[0]
    assert "exit code 0" in looked, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
