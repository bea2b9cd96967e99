"""Models and datasets of the Hugging Face hub: which text names one, where the local cache has it. Asks no server."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

PREFIX = "hf:"
"""Before the id of a model; without it a text is a path first, and never a reason to fetch anything."""
DATASETS = "hf://datasets/"
"""Before the id of a dataset, as `huggingface_hub` and `fsspec` write it."""
_PART = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class HubModel:
    """A repository of the hub, or a folder of it."""

    name: str
    """`owner/name`."""
    folder: str
    """Inside the repository; empty for all of it."""
    revision: str

    def __str__(self) -> str:
        """As it is written in a config."""
        at = "" if self.revision == "main" else f"@{self.revision}"
        return f"{PREFIX}{'/'.join(filter(None, (self.name, self.folder)))}{at}"

    @property
    def fetch(self) -> str:
        """The command that fetches it."""
        words = ["hf download", self.name]
        words += [f"--include '{self.folder}/*'"] if self.folder else []
        words += [] if self.revision == "main" else [f"--revision {self.revision}"]
        return " ".join(words)

    @property
    def commit(self) -> str:
        """Of the revision, as the cache knows it."""
        reference = self._repository / "refs" / self.revision
        return reference.read_text(encoding="utf-8").strip() if reference.is_file() else self.revision

    @property
    def snapshot(self) -> Path | None:
        """The folder in the cache; None if it is not there."""
        found = self._repository / "snapshots" / self.commit / self.folder
        return found if found.is_dir() else None

    @property
    def _repository(self) -> Path:
        return cache() / f"models--{self.name.replace('/', '--')}"


def hub_model(text: str) -> HubModel | None:
    """The model that a text names; None if it names none.

    Args:
        text: `owner/name`, with `/folder` and `@revision` where wanted, and with `PREFIX` or without. What begins like
            a path is none, nor what begins with a folder that is here.
    """
    full, _, revision = text.removeprefix(PREFIX).partition("@")
    parts = full.split("/")
    if len(parts) < 2 or not all(map(_PART.fullmatch, [*parts, *(revision or "main").split("/")])):
        return None
    if not text.startswith(PREFIX) and Path(parts[0]).exists():
        return None
    return HubModel("/".join(parts[:2]), "/".join(parts[2:]), revision or "main")


def dataset_path(text: str) -> Path:
    """Where the cache has a dataset, a folder or a file of it: `hf://datasets/owner/name[@revision][/path]`.

    The last part of the path may be a pattern. ValueError if the cache does not have it, with what fetches it.
    """
    owner, _, rest = text.removeprefix(DATASETS).partition("/")
    name, _, path = rest.partition("/")
    name, _, revision = name.partition("@")
    parts = path.split("/") if path else []
    named = [owner, name, *(revision.split("/") if revision else ())]
    is_inside = not any(part in ("", ".", "..") for part in parts)
    if not text.startswith(DATASETS) or not all(map(_PART.fullmatch, named)) or not is_inside:
        raise ValueError(f"{text} names no dataset of the hub; expected {DATASETS}owner/name[@revision][/folder]")
    repository = cache() / f"datasets--{owner}--{name}"
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision or "main"
    snapshot = repository / "snapshots" / commit
    found = snapshot.joinpath(*parts)
    if not snapshot.is_dir() or not found.parent.is_dir():
        words = f"hf download {owner}/{name} --repo-type dataset" + (f" --revision {revision}" if revision else "")
        raise ValueError(f"{text} is not in the Hugging Face cache ({cache()}); fetch it with `{words}`")
    return found


def no_folder(text: str) -> str:
    """What a user is told of a text that is neither a path that exists nor a model in the cache."""
    model = hub_model(text if text.startswith(PREFIX) else PREFIX + text)
    if model is None:
        return f"{text} is no folder; give a path that exists, or a model of the hub as hf:owner/name"
    if text.startswith(PREFIX):
        return f"{text} is not in the Hugging Face cache ({cache()}); fetch it with `{model.fetch}`"
    return f"{text} is no folder; a model of the hub is written {model}"


def cache() -> Path:
    """Where the hub's own tools keep what they fetched."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"])
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"
