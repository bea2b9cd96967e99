"""Job package, sent to a cluster for a run: the code, the config as it was resolved, and where the code comes from."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from pipelines.base_config import BaseConfig
from pipelines.commands.options import run_words
from pipelines.engine.fingerprint import canonical_json
from pipelines.errors import PipelineError
from pipelines.git import CLI, HOME, PACKAGES, Origin, origin, ship_origin
from pipelines.run_lock import portable
from pipelines.tracking.uri import without_password

_CONFIG = "config.yaml"


@dataclass(frozen=True)
class Package:
    """A run that is ready to be sent."""

    name: str
    """`lumina-<run>-<fingerprint>`: the same for the same code, config and target."""
    folder: Path
    command: str
    """Runs it there, for a shell."""
    metadata: Mapping[str, str]
    shared: tuple[str, ...]
    """Paths of this machine that the config names: the cluster has to see them too."""


def make_package(
    settings: BaseConfig,
    folder: Path,
    until: str | None,
    told: str,
    python: str = "python",
    recompute: Sequence[str] = (),
) -> Package:
    """Put everything into `folder`.

    Args:
        settings: the resolved config.
        folder: empty directory.
        until: last stage that is wanted.
        told: the command by which the user goes on after a failure.
        python: interpreter on the cluster.
        recompute: stages that are computed again though only code has changed; the name is the same with them.

    Raises:
        PipelineError: the config cannot work on another machine, or holds a password.
    """
    _check(settings)
    config = portable(settings)
    config["runtime"]["ray_address"] = "auto"
    code = ship_code(folder)
    (folder / _CONFIG).write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    identity = {"code": code_identity(folder, code), "config": config, "until": until}
    fingerprint = hashlib.sha256(canonical_json(identity).encode()).hexdigest()
    words = [python, "-c", CLI, "run", _CONFIG, *run_words(until, recompute)]
    command = shlex.join([*words, "--continue-with", told])
    metadata = {
        "run": settings.name,
        "fingerprint": fingerprint,
        "store": str(config["store"]),
        "commit": code.commit if code else "",
        "changes": str(bool(code and code.patch)).lower(),
        "recompute": " ".join(recompute),
    }
    return Package(f"lumina-{settings.name}-{fingerprint[:8]}", folder, command, metadata, _shared(config))


def ship_code(folder: Path) -> Origin | None:
    """Put the code of this process into a folder; returns where it comes from, if that is known."""
    code = origin()
    for package in PACKAGES:
        shutil.copytree(HOME / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    if code is not None:
        ship_origin(code, folder)
    return code


def code_identity(folder: Path, code: Origin | None) -> str:
    """What identifies the code: its commit and changes, else its content."""
    if code is not None:
        return f"{code.commit} {hashlib.sha256(code.patch).hexdigest()}"
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def _check(settings: BaseConfig) -> None:
    if "://" not in settings.store and not Path(settings.store).is_absolute():
        raise PipelineError(
            f"store {settings.store!r} is relative: on the cluster it would vanish with the job's folder; name an "
            "absolute path that all nodes share, or a bucket, with --store"
        )
    if settings.tracking_uri and without_password(settings.tracking_uri) != settings.tracking_uri:
        raise PipelineError(
            "tracking_uri holds a password, which everybody who sees the cluster's pages could read: give the URI "
            "without it, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the cluster"
        )
    if settings.tracking_uri and not urlsplit(settings.tracking_uri).scheme:
        raise PipelineError(f"tracking_uri {settings.tracking_uri!r}: expected a URI such as http://mlflow:5000")


def _shared(config: Mapping[str, dict[str, str | None]]) -> tuple[str, ...]:
    named = [config["data"].get("manifest"), config["ingest"].get("media_dir"), *config["weights"].values()]
    local = {path for path in named if path and Path(path).is_absolute()}
    store = str(config["store"])
    return (*sorted(local), *([store] if "://" not in store else []))
