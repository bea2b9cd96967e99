"""Where pretrained weights lie: a local directory or a hub id, with one clear error when they do not."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.links import first_that_leads_out
from lumina.tensor_names import misfit


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
        """Turn a loader's OSError into a FileNotFoundError that says what was tried.

        The loaders' own words about tensors, a line for each, are left out: see `check`.
        """
        loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
        levels = [logger.level for logger in loggers]
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        except OSError as error:
            raise FileNotFoundError(
                f"cannot load {self.what} from {self._path!r}: {error}. "
                "Give a local directory, or a hub id and access to the hub"
            ) from error
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

    def check(self, names: Collection[str], info: Mapping[str, Any], *, more_is_fine: bool = False) -> None:
        """Check what a loader says of the tensors: it draws those that it does not find at random.

        Args:
            names: of the network's tensors.
            info: what `output_loading_info` gives, with `ignore_mismatched_sizes`.
            more_is_fine: whether a file may hold more than the network, such as the head of a language model.

        Raises ValueError with one line about those that do not fit.
        """
        missing, unexpected = (sorted(info[f"{kind}_keys"]) for kind in ("missing", "unexpected"))
        shapes = sorted(
            f"{name} {list(got)}: should be {list(wanted)}" for name, got, wanted in info["mismatched_keys"]
        )
        if missing or shapes or (unexpected and not more_is_fine):
            raise ValueError(
                misfit(self._path, self.what, names, missing=missing, unexpected=unexpected, misshapen=shapes)
            )

    @property
    def _path(self) -> str:
        return "/".join(filter(None, (self.name, self.subfolder)))


def locate(source: str | Path, what: str, files: Sequence[str]) -> Place:
    """Find pretrained weights.

    Args:
        source: an existing directory, or a hub id "owner/name" with an optional "/subfolder".
        what: what is loaded, for messages.
        files: glob patterns that a local directory must satisfy.

    Raises FileNotFoundError if the directory lacks a file, or the source is neither a directory nor a hub id;
    ValueError if a link in it leads elsewhere.
    """
    path = Path(source)
    if path.is_dir():
        missing = [pattern for pattern in files if not any(path.glob(pattern))]
        if missing:
            raise FileNotFoundError(f"{path} does not hold {what}: no {', no '.join(missing)}")
        if (link := first_that_leads_out(path)) is not None:
            raise ValueError(f"{link} is a link that leads out of the folder: put a copy in its place")
        return Place(str(path), "", what)
    parts = str(source).split("/")
    if isinstance(source, Path) or path.is_absolute() or parts[0] in ("", ".", "..") or len(parts) < 2:
        raise FileNotFoundError(f"{source} is no directory with {what}, and no hub id (owner/name)")
    return Place("/".join(parts[:2]), "/".join(parts[2:]), what)
