"""Where pretrained weights lie: a local directory or a hub id, with one clear error when they do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Arguments of a `from_pretrained` call."""

    name: str
    """Local directory or hub repository."""
    subfolder: str
    """Folder inside the repository, or empty."""
    what: str
    """What is loaded, for messages."""

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn a loader's OSError into a FileNotFoundError that says what was tried."""
        try:
            yield
        except OSError as error:
            raise FileNotFoundError(
                f"cannot load {self.what} from {'/'.join(filter(None, (self.name, self.subfolder)))!r}: {error}. "
                "Give a local directory, or a hub id and access to the hub"
            ) from error


def locate(source: str | Path, what: str, files: Sequence[str]) -> Place:
    """Find pretrained weights.

    Args:
        source: an existing directory, or a hub id "owner/name" with an optional "/subfolder".
        what: what is loaded, for messages.
        files: glob patterns that a local directory must satisfy.

    Raises FileNotFoundError if the directory lacks a file, or the source is neither a directory nor a hub id.
    """
    path = Path(source)
    if path.is_dir():
        missing = [pattern for pattern in files if not any(path.glob(pattern))]
        if missing:
            raise FileNotFoundError(f"{path} does not hold {what}: no {', no '.join(missing)}")
        return Place(str(path), "", what)
    parts = str(source).split("/")
    if isinstance(source, Path) or path.is_absolute() or parts[0] in ("", ".", "..") or len(parts) < 2:
        raise FileNotFoundError(f"{source} is no directory with {what}, and no hub id (owner/name)")
    return Place("/".join(parts[:2]), "/".join(parts[2:]), what)
