"""Where the running code comes from, and other commits of its repository beside the working tree."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, overload

from pipelines.errors import PipelineError

HOME = Path(__file__).resolve().parents[1]
"""Directory of the running code."""
PACKAGES = ("lumina", "curation", "jobs", "pipelines")
CODE = (*PACKAGES, "pyproject.toml")
"""What of it a run may depend on."""
CLI = "from pipelines.cli import main; main()"
"""`lumina`, as `python -c` takes it from the code on its path."""
SHIPPED = "CODE.json"
"""Beside code that was sent to a cluster: `commit`, and `patch` with the text of what it had besides."""


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
        top = git(HOME, "rev-parse", "--show-toplevel").strip()
    except PipelineError:
        return None
    # Installed into an environment inside somebody else's repository, that one is not ours.
    return HOME if Path(top) == HOME else None


@dataclass(frozen=True)
class Origin:
    """The commit of the running code, and what the working tree had besides."""

    commit: str
    patch: bytes


def origin() -> Origin | None:
    """Where the running code comes from: its repository, or what was noted when it was sent to a cluster.

    A process asks once, when its run begins: what somebody edits or commits after that is not what runs.

    Returns None for code that was installed without a repository.

    Raises:
        PipelineError: git refuses.
    """
    return _origin_of(code_home(), HOME)


def git_state() -> dict[str, Any]:
    """Commit of the code as the run began, and whether it had more than that; empty for code without a repository."""
    found = origin()
    return {} if found is None else {"commit": found.commit, "dirty": bool(found.patch)}


@cache
def _origin_of(home: Path | None, code: Path) -> Origin | None:
    if home is not None:
        return Origin(git(home, "rev-parse", "HEAD").strip(), working_patch(home))
    shipped = code / SHIPPED
    if not shipped.is_file():
        return None
    found = json.loads(shipped.read_text())
    return Origin(found["commit"], base64.b64decode(found["patch"]))


def ship_origin(code: Origin, folder: Path) -> None:
    """Note the origin of code that is sent away without its repository."""
    text = json.dumps({"commit": code.commit, "patch": base64.b64encode(code.patch).decode()})
    (folder / SHIPPED).write_text(text)


def working_patch(home: Path) -> bytes:
    """What the working tree's code has besides its last commit, new files included; the index stays as it is."""
    if not git(home, "status", "--porcelain", "--untracked-files=all", "--", *CODE):
        return b""
    with tempfile.TemporaryDirectory(prefix="lumina-patch-") as folder:
        objects = home / git(home, "rev-parse", "--git-path", "objects").strip()
        (Path(folder) / "objects").mkdir()
        apart = {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": f"{folder}/objects",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects),
        }
        git(home, "read-tree", "HEAD", env=apart)
        git(home, "add", "--all", "--", *CODE, env=apart)
        return git(home, "diff", "--cached", "--binary", "--no-ext-diff", "HEAD", env=apart, raw=True)


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
