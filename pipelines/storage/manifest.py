"""MANIFEST.json: the record of one finished stage. It exists if and only if the stage is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.storage.seal import seal

MANIFEST_SCHEMA = "lumina.manifest/1"


@dataclass(frozen=True)
class OutputFile:
    """One file of an attempt."""

    path: str
    """Relative to the attempt directory, with forward slashes."""
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Acceptance:
    """Somebody's word that other code computes the same, so that an output stands for a recipe that never ran."""

    reason: str
    who: str
    """`user@host`."""
    at: str
    """UTC, ISO 8601."""
    fingerprint: str
    """`sha256:<hex>` of the recipe whose output was accepted."""
    code: Mapping[str, Sequence[str | None]]
    """Module -> its digest then and now; None where there was, or is, no such module."""


@dataclass(frozen=True)
class Manifest:
    """What is known of a finished stage. Only `recipe` and `digest` are identity; the rest informs."""

    stage: str
    fingerprint: str
    """`sha256:<hex>` of the canonical JSON of `recipe`, so a reader can check it."""
    attempt: str
    """Name of the attempt directory beside the manifest, or beside that of `aliased_from`."""
    kind: str
    digest: str
    recipe: Mapping[str, Any]
    files: tuple[OutputFile, ...]
    weights: Mapping[str, str] = field(default_factory=dict)
    """For a checkpoint: name -> directory of each set of weights that the digest is over."""
    counts: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluations: tuple[Mapping[str, Any], ...] = ()
    artifacts: tuple[str, ...] = ()
    taken: Mapping[str, int] = field(default_factory=dict)
    """Fingerprint of an earlier output -> number of rows that are its, since they were given the same; see
    `jobs.taken`."""
    tier: Mapping[str, Any] = field(default_factory=dict)
    """How alike another computation has to be; see `pipelines.dag.tier`."""
    env: Mapping[str, Any] = field(default_factory=dict)
    git: Mapping[str, Any] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)
    mlflow: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""
    """Id of the pipeline run that computed it."""
    started: str = ""
    """UTC, ISO 8601."""
    seconds: float = 0.0
    host: str = ""
    aliased_from: str | None = None
    """Fingerprint whose directory holds the attempt, where the output was accepted instead of computed."""
    accepted: tuple[Acceptance, ...] = ()
    """Every acceptance on the way from what was computed to this recipe, the first one first."""
    schema: str = MANIFEST_SCHEMA

    @property
    def accepted_why(self) -> str:
        """Reasons, names and days of the acceptances; empty for what was computed."""
        return "; ".join(f"{one.reason} ({one.who}, {one.at[:10]})" for one in self.accepted)

    def to_json(self) -> str:
        """Indented JSON text with a checksum of itself; see `pipelines.storage.seal`."""
        return seal(json.dumps(asdict(self), indent=1, ensure_ascii=False))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse what `to_json` wrote.

        Raises:
            ValueError: not JSON, not this schema, or a field is missing.
        """
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("schema") != MANIFEST_SCHEMA:
            raise ValueError(f"not a {MANIFEST_SCHEMA} record")
        try:
            data["files"] = tuple(OutputFile(**entry) for entry in data["files"])
            data["evaluations"] = tuple(data.get("evaluations", ()))
            data["artifacts"] = tuple(data.get("artifacts", ()))
            data["accepted"] = tuple(Acceptance(**entry) for entry in data.get("accepted", ()))
            known = {key: value for key, value in data.items() if key in cls.__dataclass_fields__}
            return cls(**known)
        except (TypeError, KeyError) as error:
            raise ValueError(f"a field is missing or malformed: {error}") from error
