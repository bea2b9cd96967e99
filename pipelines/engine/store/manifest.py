"""MANIFEST.json: the record of one finished stage. It exists if and only if the stage is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator

from pipelines.engine.store.checksum import is_whole, seal
from pipelines.engine.store.typed import Below, Fingerprint, Name, Number, Text, Whole, checked, parse, plain

MANIFEST_SCHEMA = "lumina.manifest/1"


@dataclass(frozen=True)
class OutputFile:
    """One file of an attempt."""

    path: Below
    """Relative to the attempt directory, with forward slashes."""
    bytes: Whole
    sha256: Text


@dataclass(frozen=True)
class _Evaluation:
    """What is relied upon of an evaluation; see `jobs.context.Evaluation`."""

    name: Text
    params: Mapping[Text, Text | Number]
    metrics: Mapping[Text, Number]
    artifacts: tuple[Below, ...]


@dataclass(frozen=True)
class _Recipe:
    """What is relied upon of a recipe; see `pipelines.engine.fingerprint`."""

    code: Mapping[Text, Text] = field(default_factory=dict)
    inputs: Mapping[Text, Text] = field(default_factory=dict)


def _like(kind: type) -> AfterValidator:
    """Holds plain data to a kind, and leaves it as it is."""

    def check(data: Mapping[str, Any]) -> Mapping[str, Any]:
        checked(kind, data)
        return data

    return AfterValidator(check)


@dataclass(frozen=True)
class Manifest:
    """What is known of a finished stage. Only `recipe` and `digest` are identity; the rest informs."""

    stage: Name
    fingerprint: Fingerprint
    """SHA-256 of the canonical JSON of `recipe`, so a reader can check it."""
    attempt: Name
    """Name of the attempt directory beside the manifest."""
    kind: Text
    digest: Text
    recipe: Annotated[Mapping[Text, Any], _like(_Recipe)]
    files: tuple[OutputFile, ...]
    weights: Mapping[Text, Below] = field(default_factory=dict)
    """For a checkpoint: name -> directory of each set of weights that the digest is over."""
    counts: Mapping[Text, Whole] = field(default_factory=dict)
    metrics: Mapping[Text, Number] = field(default_factory=dict)
    evaluations: tuple[Annotated[Mapping[Text, Any], _like(_Evaluation)], ...] = ()
    artifacts: tuple[Below, ...] = ()
    taken: Mapping[Text, Whole] = field(default_factory=dict)
    """Fingerprint of an earlier output -> number of rows that are its, since they were given the same; see
    `jobs.row_reuse`."""
    tier: Mapping[Text, Any] = field(default_factory=dict)
    """How alike another computation has to be; see `pipelines.engine.tolerance`."""
    env: Mapping[Text, Any] = field(default_factory=dict)
    git: Mapping[Text, Any] = field(default_factory=dict)
    runtime: Mapping[Text, Any] = field(default_factory=dict)
    mlflow: Mapping[Text, Text] = field(default_factory=dict)
    run: Text = ""
    """Id of the pipeline run that computed it."""
    started: Text = ""
    """UTC, ISO 8601."""
    seconds: Number = 0.0
    host: Text = ""
    schema: Text = MANIFEST_SCHEMA

    def to_json(self) -> str:
        """Indented JSON text with a checksum of itself; see `pipelines.engine.store.checksum`."""
        return seal(json.dumps(plain(self), indent=1, ensure_ascii=False))

    def problem(self, stage: str, fingerprint: str, sizes: Mapping[str, int | None]) -> str | None:
        """Why a stage cannot use the output; None if it can.

        Args:
            stage: its name.
            fingerprint: 64 hex digits.
            sizes: bytes of what is there, by its path relative to the output; None for what is no file.
        """
        if self.fingerprint != fingerprint:
            return f"the record is of fingerprint {self.fingerprint}"
        if self.stage != stage:
            return f"the record is of stage {self.stage}"
        for file in self.files:
            size = sizes.get(file.path)
            if size is None:
                return f"{file.path} is missing"
            if size != file.bytes:
                return f"{file.path} has {size} bytes, {file.bytes} expected"
        return None

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse what `to_json` wrote, whether or not its checksum is right; see `pipelines.engine.store.checksum`.

        Raises:
            ValueError: not JSON, not this schema, a field is missing or of another type, or a path leaves the output.
        """
        data = parse(text)
        if not isinstance(data, dict) or data.get("schema") != MANIFEST_SCHEMA:
            raise ValueError(f"not a {MANIFEST_SCHEMA} record")
        return checked(cls, data)

    @classmethod
    def from_sealed(cls, text: str) -> Manifest:
        """Parse what `to_json` wrote and nobody has changed since.

        Raises:
            ValueError: as `from_json`, or the checksum is another one.
        """
        if not is_whole(text):
            raise ValueError("its checksum is not that of what it says: it was edited, or written by something else")
        return cls.from_json(text)
