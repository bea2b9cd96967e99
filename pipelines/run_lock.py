"""Lock of a run, kept in its record to compute it again: the config, the code, the packages and the machine.

    "lock": {"command": ..., "config": {...}, "code": {"commit": ..., "patch": ...}, "environment": {...}}

A patch lies in the store as `patches/<sha256>.patch`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints

from curation.manifests import media_root
from lumina.files import place_of
from lumina.vbench.suite_config import VBenchSuite
from pipelines.base_config import BaseConfig
from pipelines.config import PipelineConfig
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.engine.store.typed import Fingerprint, Text, Whole, checked, plain
from pipelines.errors import GoneError, StoreError
from pipelines.git import origin
from pipelines.tracking.uri import without_password

Commit = Annotated[Text, StringConstraints(pattern="^[0-9a-f]{40,64}$")]
"""Of a commit, nothing that `git` could take for an option or a name."""


@dataclass(frozen=True)
class Code:
    """The code that ran."""

    commit: Commit | None
    """None when it ran outside its repository."""
    patch: Fingerprint | None = None
    """SHA-256 of what the working tree had besides, new files included; None if nothing."""


@dataclass(frozen=True)
class Environment:
    """The machine and the installed packages of the driver."""

    python: Text
    platform: Text
    cpus: Whole | None
    gpus: tuple[Text, ...] = ()
    packages: Mapping[Text, Text] = field(default_factory=dict)
    """Distribution -> version, sorted by name."""


@dataclass(frozen=True)
class Lock:
    """All that was recorded to compute a run again."""

    command: Text
    config: Mapping[Text, Any]
    code: Code
    environment: Environment

    @property
    def workers(self) -> int:
        """World size of training."""
        return int(self.config["runtime"]["train_workers"])


@dataclass(frozen=True)
class _Runtime:
    train_workers: Whole


@dataclass(frozen=True)
class _Config:
    """What is relied upon of a recorded config before the code that wrote it reads it."""

    runtime: _Runtime
    tracking_uri: Text | None = None


def make_lock(settings: BaseConfig, command: str, store: Store) -> Lock:
    """Lock a run that is about to start; keeps the patch in the store.

    Raises:
        StoreError: the patch cannot be written.
    """
    return Lock(command, portable(settings), _code(store), environment())


def lock_record(lock: Lock) -> dict[str, Any]:
    """Plain data for the run's record."""
    record: dict[str, Any] = plain(lock)
    return record


def read_lock(record: RunRecord) -> Lock:
    """The lock in a run's record.

    Raises:
        StoreError: there is none, or it is damaged.
    """
    if not record.lock:
        raise StoreError(
            f"run {record.run} has no lock in its record: it was started by other code than `lumina run`, "
            "so there is nothing to run again"
        )
    try:
        lock = checked(Lock, record.lock)
        checked(_Config, lock.config)
        return lock
    except ValueError as error:
        raise StoreError(f"run {record.run}: the lock in its record is damaged: {error}") from error


def _in_place(path: Path) -> Path:
    """A name without a folder may be that of a program."""
    return path if len(path.parts) == 1 and not path.exists() else place_of(path)


def _place_weights(weights: dict[str, Any]) -> None:
    for name, spec in weights.items():
        if isinstance(spec, str) and Path(spec).expanduser().exists():
            weights[name] = str(place_of(spec))


def portable(settings: BaseConfig) -> dict[str, Any]:
    """The config as plain data that means the same in another working directory, without passwords."""
    config: dict[str, Any] = settings.model_dump(mode="json")
    store = settings.store.removeprefix("file://")
    config["store"] = store if "://" in store else str(Path(store).expanduser().resolve())
    if settings.data.manifest is not None:
        manifest = place_of(settings.data.manifest)
        config["data"]["manifest"] = str(manifest)
        if settings.ingest.media_dir is not None:
            config["ingest"]["media_dir"] = str(place_of(media_root(manifest, settings.ingest)))
    for branch in settings.branches() if isinstance(settings, PipelineConfig) else ():
        held = config["after"][branch.after] if branch.prefix else config
        if isinstance(scores := branch.choose.scores, Path):
            held["choose"]["scores"] = str(place_of(scores))
        elif scores is not None:
            held["choose"]["scores"] = {name: str(place_of(path)) for name, path in scores.items()}
        if isinstance(suite := branch.evaluate.suite, VBenchSuite):
            judged = held["evaluate"]["suite"]
            for name, path in (("prompts", suite.prompts), ("python", suite.python), ("augmented", suite.augmented)):
                judged[name] = None if path is None else str(_in_place(path))
            _place_weights(judged["weights"])
    _place_weights(config["weights"])
    if settings.tracking_uri:
        config["tracking_uri"] = without_password(settings.tracking_uri)
    return config


def environment() -> Environment:
    """This machine, and what is installed for this Python."""
    # Each look at `metadata` parses it.
    about = [one.metadata for one in metadata.distributions()]
    found = {_normal(one["Name"]): one["Version"] for one in about if one["Name"]}
    return Environment(
        platform.python_version(), platform.platform(), os.cpu_count(), _gpus(), dict(sorted(found.items()))
    )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _gpus() -> tuple[str, ...]:
    """Names of the GPUs, as the driver tells them."""
    found = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        match = re.search(r"^Model:\s*(.+)$", path.read_text(errors="replace"), re.MULTILINE)
        if match:
            found.append(match[1].strip())
    return tuple(found)


def _code(store: Store) -> Code:
    found = origin()
    if found is None:
        return Code(None)
    return Code(found.commit, _keep(store, found.patch) if found.patch else None)


def _keep(store: Store, patch: bytes) -> str:
    digest = hashlib.sha256(patch).hexdigest()
    store.objects.put(patch_key(digest), patch, sync=True)
    return digest


def patch_key(patch: str) -> str:
    """Of the patch with this SHA-256 in a store."""
    return f"patches/{patch}.patch"


def read_patch(store: Store, patch: str) -> bytes:
    """A kept patch.

    Raises:
        GoneError: it is gone.
        StoreError: it is damaged, or cannot be read.
    """
    content, name = store.objects.get(patch_key(patch)), store.objects.name(patch_key(patch))
    if content is None:
        raise GoneError(f"the patch {name} is gone")
    if hashlib.sha256(content).hexdigest() != patch:
        raise StoreError(f"the patch {name} is damaged: its SHA-256 is not that of its name")
    return content
