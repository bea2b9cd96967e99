"""The fingerprint of a stage: SHA-256 of the canonical JSON of its recipe."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from lumina.config import Config
from lumina.files import place_of, replace_file, sha256_file
from lumina.hub import PREFIX, hub_model, no_folder
from lumina.links import check_links
from pipelines.engine.code_closure import CodeIndex
from pipelines.engine.stage import Stage
from pipelines.errors import PipelineError

log = logging.getLogger(__name__)

RECIPE_SCHEMA = "lumina.recipe/1"
_RACY_NS = 2_000_000_000
_LEAVES = frozenset({str, bool, int, type(None)})


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: keys sorted, no spaces, floats in Python's shortest form.

    Raises:
        PipelineError: for a type that has no agreed form, a key that is no string, or a float that is not finite.
    """
    return json.dumps(_plain(value, "recipe"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Config):
        return _plain(value.model_dump(mode="json"), where)
    if type(value) in _LEAVES:
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise PipelineError(f"{where}: {value} has no canonical form; use a finite number or null")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise PipelineError(f"{where}: key {key!r} is no string")
        return {
            key: child if type(child) in _LEAVES else _plain(child, f"{where}.{key}") for key, child in value.items()
        }
    if type(value) in (list, tuple):
        return [
            child if type(child) in _LEAVES else _plain(child, f"{where}[{index}]") for index, child in enumerate(value)
        ]
    raise PipelineError(f"{where}: a {type(value).__name__} has no canonical form: {value!r}")


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """64 hex digits that name the recipe."""
    return hashlib.sha256(canonical_json(recipe).encode()).hexdigest()


@dataclass
class DigestCache:
    """Content digests of files, remembered by (path, size, modification time) in a JSON file.

    Args:
        path: the JSON file; None remembers nothing beyond this process.
    """

    path: Path | None = None
    _entries: dict[str, list[Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _dirty: bool = False

    def __post_init__(self) -> None:
        if self.path is not None and self.path.is_file():
            # A damaged cache costs time only, so it is dropped.
            with contextlib.suppress(ValueError, OSError):
                self._entries = dict(json.loads(self.path.read_text()))

    def file(self, path: Path) -> str:
        """64 hex digits: SHA-256 of the file's bytes."""
        stat = path.stat()
        key = str(path.resolve())
        with self._lock:
            entry = self._entries.get(key)
        if entry is not None and entry[:2] == [stat.st_size, stat.st_mtime_ns]:
            return str(entry[2])
        digest = sha256_file(path)
        # A file written a moment ago may change again within one tick of its clock.
        if time.time_ns() - stat.st_mtime_ns > _RACY_NS:
            with self._lock:
                self._entries[key] = [stat.st_size, stat.st_mtime_ns, digest]
                self._dirty = True
        return digest

    def save(self) -> None:
        """Write the file if something new was learnt and its directory is there."""
        with self._lock:
            if not self._dirty or self.path is None or not self.path.parent.is_dir():
                return
            text = json.dumps(self._entries)
            self._dirty = False
        # Another user's store may be readable only, and a disk full; the cache is a convenience.
        try:
            replace_file(self.path, text.encode())
        except OSError as error:
            log.debug("%s: not saved: %s", self.path, error)


@dataclass(frozen=True)
class Weights:
    """Pretrained weights as found."""

    identity: str
    """`sha256:<hex>` of local content, or `hub:<id>@<commit>`."""
    location: str
    """Local file or directory that the job is given."""


@dataclass(frozen=True)
class Located:
    """Where weights lie."""

    path: Path
    hub: str = ""
    """`hub:<id>@<commit>`, with the folder inside the repository where there is one; empty for a local path."""


def resolve_weights(spec: str, cache: DigestCache, where: str) -> Weights:
    """Identify weights by content. Arguments and errors are those of `locate_weights`; `cache` remembers digests."""
    found = locate_weights(spec, where)
    return Weights(found.hub or _content(found.path, cache), str(found.path))


def locate_weights(spec: str, where: str) -> Located:
    """Find weights on this machine, without reading them.

    Args:
        spec: local file or directory, or model of the hub, `hf:org/name`, `hf:org/name/folder`, each with an optional
            `@revision`. What is in the hub's cache may do without `hf:`.
        where: names the weights in errors, e.g. `stage encode_latents@1: weights vae`.

    Raises:
        PipelineError: neither a local path nor in the local Hugging Face cache, or a link in it leads elsewhere.
    """
    path = Path(spec).expanduser()
    if not spec.startswith(PREFIX) and path.exists():
        if path.is_dir():
            try:
                check_links(path)
            except ValueError as error:
                raise PipelineError(f"{where}: {error}") from error
        return Located(place_of(path))
    model = hub_model(spec)
    snapshot = model.snapshot if model is not None else None
    if model is None or snapshot is None:
        raise PipelineError(f"{where}: {no_folder(spec)}")
    return Located(snapshot, f"hub:{model.name}@{model.commit}" + (f"/{model.folder}" if model.folder else ""))


def _content(path: Path, cache: DigestCache) -> str:
    if path.is_file():
        return f"sha256:{cache.file(path)}"
    files = sorted(
        (file.relative_to(path).as_posix(), file)
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in file.parts[-1:])
    )
    listing = [[relative, cache.file(file)] for relative, file in files]
    return f"sha256:{hashlib.sha256(canonical_json(listing).encode()).hexdigest()}"


def file_identity(path: Path, cache: DigestCache, where: str) -> str:
    """`sha256:<hex>` of a file's bytes, or `tree:<hex>` of a directory's (relative path, size, mtime_ns)."""
    path = path.expanduser()
    if path.is_file():
        return f"sha256:{cache.file(path)}"
    if not path.is_dir():
        raise PipelineError(f"{where}: no file or directory {str(path)!r}")
    listing = []
    for file in sorted(path.rglob("*")):
        if file.is_file():
            stat = file.stat()
            listing.append([file.relative_to(path).as_posix(), stat.st_size, stat.st_mtime_ns])
    return f"tree:{hashlib.sha256(canonical_json(listing).encode()).hexdigest()}"


def dependency_version(distribution: str) -> str:
    """`major.minor` of an installed distribution, or `absent`."""
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"
    return ".".join(version.split("+")[0].split(".")[:2])


@dataclass(frozen=True)
class Identified:
    """A stage whose inputs are known."""

    recipe: dict[str, Any]
    fingerprint: str
    weights: dict[str, str]
    """Name -> local location of the weights."""


@dataclass
class Identifier:
    """Computes recipes; shares parsed modules and file digests between stages."""

    code: CodeIndex = field(default_factory=CodeIndex)
    cache: DigestCache = field(default_factory=DigestCache)
    _versions: dict[str, str] = field(default_factory=dict)

    def base(self, stage: Stage) -> tuple[dict[str, Any], dict[str, str]]:
        """The recipe without input digests, and the locations of the weights."""
        modules = [reference.partition(":")[0] for reference in (stage.entry, stage.operator) if reference]
        weights = {
            name: resolve_weights(spec, self.cache, f"stage {stage.name}: weights {name}")
            for name, spec in stage.weights.items()
        }
        recipe = {
            "schema": RECIPE_SCHEMA,
            "stage": stage.name,
            "version": stage.version,
            "entry": [stage.entry, stage.operator],
            "code": self.code.closure(modules),
            "config": _plain(stage.config, f"stage {stage.name}: config"),
            "inputs": {},
            "weights": {name: found.identity for name, found in weights.items()},
            "files": {
                name: file_identity(path, self.cache, f"stage {stage.name}: file {name}")
                for name, path in stage.files.items()
            },
            "facts": dict(stage.facts),
            "depends": {name: self._version(name) for name in stage.depends},
        }
        return recipe, {name: found.location for name, found in weights.items()}

    def _version(self, distribution: str) -> str:
        """Looked up once: the system is asked file by file."""
        if distribution not in self._versions:
            self._versions[distribution] = dependency_version(distribution)
        return self._versions[distribution]

    def identify(self, stage: Stage, digests: Mapping[str, str]) -> Identified:
        """Recipe and fingerprint of a stage, given the output digest of every upstream stage by stage name."""
        recipe, locations = self.base(stage)
        recipe["inputs"] = {key: digests[upstream] for key, upstream in stage.inputs.items()}
        return Identified(recipe, fingerprint(recipe), locations)
