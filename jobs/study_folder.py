"""Study folder: the clips of all arms of one checkpoint, by sampler, so that studies which share an arm make it once.

`clips/<digest of the sampler>/` has the batches of an arm, each with its record (see `jobs.clips`): killed at any time,
the same command goes on. `.study/settings.json` says what all of them share: another checkpoint or other prompts need
another folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.clip_folder import locked
from lumina.faults import machine_errors
from lumina.files import read_json, replace_file
from lumina.flow_matching.schedules import SamplerConfig

_RECORDS, _SETTINGS, _LOCK = ".study", "settings.json", "lock"


class StudyFolderError(ValueError):
    """A folder cannot take a study; the message says why, and what to do."""


@dataclass(frozen=True)
class StudyFolder:
    """The folder, locked: see `open_study`."""

    path: Path
    shared: Mapping[str, Any]

    def place(self, arm: str, sampler: SamplerConfig, own: Mapping[str, Any]) -> tuple[Path, str]:
        """Where the batches of an arm go, and the key of all that its clips depend on; `own` is of its study alone."""
        whole = _digest({**self.shared, **own, "sampler": sampler.model_dump(mode="json")})
        return self.path / "clips" / whole[:16], whole


@contextlib.contextmanager
def open_study(path: Path, shared: Mapping[str, Any]) -> Iterator[StudyFolder]:
    """Take a folder for studies that share all of this, by name, and lock it meanwhile.

    Raises:
        StudyFolderError: it holds another study, or files that are none.
        jobs.clip_folder.ClipFolderError: another command is at it.
    """
    records = path / _RECORDS
    if path.is_dir() and not records.is_dir() and any(path.iterdir()):
        raise StudyFolderError(f"{path} has files that no study made: name another --out, or an empty folder")
    with machine_errors(f"--out {path}"):
        records.mkdir(parents=True, exist_ok=True)
    with locked(path, records / _LOCK):
        file = records / _SETTINGS
        known = read_json(file) if file.is_file() else {}
        for name, value in shared.items():
            if known and known.get(name) != value:
                raise StudyFolderError(
                    f"{path} holds a study of another {name} ({_shown(known.get(name))}, and this is {_shown(value)}): "
                    "name another --out, or delete that folder"
                )
        with machine_errors(f"--out {path}"):
            replace_file(file, json.dumps(dict(shared), ensure_ascii=False).encode(), sync=True)
        yield StudyFolder(path, shared)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
