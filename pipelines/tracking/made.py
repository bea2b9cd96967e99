"""Outputs as MLflow has them: what their manifests say as datasets, metrics and evaluations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from mlflow.entities import Dataset, DatasetInput, InputTag

from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.store import Store
from pipelines.tracking.mlflow_names import dataset_digest, safe_name

_SOURCES = {"file": "local", "s3": "s3", "gs": "gs"}
"""URI scheme -> MLflow's name of such a source of data."""


@dataclass(frozen=True)
class Made:
    """What a stage made."""

    manifest: Manifest
    path: Path

    @classmethod
    def read(cls, store: Store, stage: str, fingerprint: str, output: str) -> Self:
        """The output in the directory `output` of a fingerprint.

        Raises:
            OSError, ValueError: its manifest is gone, or of another output.
            StoreError: the store does not answer.
        """
        text = store.record_text(stage, fingerprint)
        record = store.directory(stage, fingerprint) / "MANIFEST.json"
        if text is None:
            raise FileNotFoundError(f"{record} is gone")
        manifest = Manifest.from_sealed(text)
        if (manifest.stage, manifest.fingerprint, manifest.attempt) != (stage, fingerprint, output):
            raise ValueError(f"{record} is of another output")
        return cls(manifest, store.output(manifest))

    @property
    def stage(self) -> str:
        """Its name."""
        return self.manifest.stage

    @property
    def digest(self) -> str:
        """Of the content."""
        return self.manifest.digest

    @property
    def uri(self) -> str:
        """Where it is."""
        return self.path.as_uri()

    @property
    def record(self) -> str:
        """File with its manifest."""
        return str(self.path.parent / "MANIFEST.json")

    @property
    def profile(self) -> dict[str, Any]:
        """What a dataset says of itself."""
        return {"digest": self.digest, "kind": self.manifest.kind, **self.manifest.counts}

    @property
    def metrics(self) -> dict[str, float]:
        """Time, rows by status and reason, and what the stage measured."""
        made = self.manifest
        found = {"seconds": made.seconds, **made.metrics, **{f"rows/{key}": n for key, n in made.counts.items()}}
        if made.taken:
            found["rows/taken"] = sum(made.taken.values())
        return {safe_name(key): value for key, value in found.items()}

    @property
    def times_ms(self) -> tuple[int, int]:
        """When the work began and ended: not when MLflow is told."""
        began = int(datetime.fromisoformat(self.manifest.started).timestamp() * 1000)
        return began, began + int(self.manifest.seconds * 1000)

    def file(self, name: str) -> Path:
        """A file that the manifest lists. FileNotFoundError if it is gone, or a link to elsewhere."""
        path = self.path / name
        listed = any(file.path == name for file in self.manifest.files)
        if not listed or not path.is_file() or path.resolve() != self.path.resolve() / name:
            raise FileNotFoundError(f"{path} is no longer there")
        return path


def dataset(stage: str, digest: str, made: Made | None, context: str, keys: str) -> DatasetInput:
    """A run's use of an output, as `input` or `output`, without a look at its rows.

    Args:
        stage: that made it.
        digest: of its content.
        made: the output, if this run was asked for it.
        context: `input` or `output`.
        keys: names under which it is used.
    """
    uri = made.uri if made else ""
    entity = Dataset(
        name=stage,
        digest=dataset_digest(digest),
        source_type=_SOURCES.get(urlsplit(uri).scheme, "lumina"),
        source=json.dumps({"uri": uri or f"lumina:{digest}"}),
        profile=json.dumps(made.profile if made else {}),
    )
    tags: Mapping[str, str] = {
        "mlflow.data.context": context, "lumina.key": keys, "lumina.digest": digest, "lumina.uri": uri
    }  # fmt: skip
    return DatasetInput(entity, [InputTag(key, value) for key, value in tags.items() if value])
