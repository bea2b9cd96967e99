"""The repository that the code runs from, and other commits of it beside the working tree."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, overload

from pipelines.errors import PipelineError

_HOME = Path(__file__).resolve().parents[2]


@overload
def git(home: Path, *arguments: str, env: Mapping[str, str] | None = None, raw: Literal[False] = False) -> str: ...
@overload
def git(home: Path, *arguments: str, env: Mapping[str, str] | None = None, raw: Literal[True]) -> bytes: ...
def git(home: Path, *arguments: str, env: Mapping[str, str] | None = None, raw: bool = False) -> str | bytes:
    """What a git command prints.

    Raises:
        PipelineError: git is not there, or it refuses.
    """
    command = ["git", "-C", str(home), *arguments]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, check=False, timeout=120, env={**os.environ, **(env or {})}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PipelineError(f"git {arguments[0]} in {home} failed: {error}") from error
    if done.returncode != 0:
        raise PipelineError(f"git {arguments[0]} in {home} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout if raw else done.stdout.decode(errors="replace")


def code_home() -> Path | None:
    """Root of the repository that this code is in; None when it was installed without one."""
    try:
        top = git(_HOME, "rev-parse", "--show-toplevel").strip()
    except PipelineError:
        return None
    # Installed into an environment inside somebody else's repository, that one is not ours.
    return _HOME if Path(top) == _HOME else None


@contextmanager
def checked_out(home: Path, commit: str, patch: bytes | None) -> Iterator[Path]:
    """A working tree of its own at `commit`, with `patch` applied; it goes with the block.

    Raises:
        PipelineError: the repository does not have the commit, or the patch does not fit it.
    """
    with tempfile.TemporaryDirectory(prefix="lumina-rerun-") as folder:
        code = Path(folder) / "code"
        git(home, "worktree", "prune")
        git(home, "worktree", "add", "--detach", "--quiet", str(code), commit)
        try:
            if patch is not None:
                file = Path(folder) / "changes.patch"
                file.write_bytes(patch)
                git(code, "apply", "--binary", "--whitespace=nowarn", str(file))
            yield code
        finally:
            git(home, "worktree", "remove", "--force", str(code))


def has_commit(home: Path, commit: str) -> bool:
    """Whether the repository has the commit."""
    try:
        git(home, "cat-file", "-e", f"{commit}^{{commit}}")
    except PipelineError:
        return False
    return True
