"""Attempts: the directories in which one computation of a stage writes, and what dead ones left."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from lumina.files import sha256_file
from pipelines.engine.store.lease import Lease
from pipelines.engine.store.manifest import Manifest, OutputFile


@dataclass(frozen=True)
class Attempt:
    """The right to compute one fingerprint, and where to write."""

    lease: Lease
    directory: Path
    """The fingerprint's directory."""
    out: Path
    """Empty directory of this attempt."""
    work: Path
    """Scratch of the fingerprint, kept from an attempt that died."""
    resumed: bool
    """Whether `work` holds something of an earlier attempt."""


def directory_name(fingerprint: str) -> str:
    """Of the directory in which a fingerprint's attempts live."""
    return fingerprint[:20]


def list_files(out: Path) -> tuple[OutputFile, ...]:
    """All files under an attempt directory with size and SHA-256, sorted by path."""
    paths = (path for path in sorted(out.rglob("*")) if path.is_file())
    return tuple(OutputFile(path.relative_to(out).as_posix(), path.stat().st_size, sha256_file(path)) for path in paths)


def orphans(directory: Path, kept: Manifest | None) -> list[Path]:
    """What nobody needs, to the holder of the lease: attempts that the manifest does not name, and partial files."""
    others = [path for path in directory.glob("a-*") if kept is None or path.name != kept.attempt]
    return [*others, *directory.glob("*.tmp")]


def remove(path: Path) -> None:
    """Remove a file or a directory, as far as can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
