"""Stage outputs as MLflow datasets: named, identified and located, without reading a row of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from mlflow.entities import Dataset, DatasetInput, InputTag

_DIGEST_CHARS = 32
_SOURCES = {"file": "local", "s3": "s3", "gs": "gs"}
"""URI scheme -> MLflow's name of such a source."""


def short_digest(digest: str) -> str:
    """What MLflow has of a digest, to search for by `dataset.digest`: the first 32 hex digits; it takes 36 at most."""
    return digest.rpartition(":")[2][:_DIGEST_CHARS]


def dataset_input(dataset: Mapping[str, Any], context: str, keys: str) -> DatasetInput:
    """A run's use of a stage's output.

    Args:
        dataset: `name` of the stage, whole `digest`, `uri` of the output, `profile`: what else is known.
        context: `input` or `output`.
        keys: names under which the run's stage reads it.
    """
    digest, uri = dataset["digest"], dataset["uri"]
    entity = Dataset(
        name=dataset["name"],
        digest=short_digest(digest),
        source_type=_SOURCES.get(urlsplit(uri).scheme, "lumina"),
        source=json.dumps({"uri": uri or f"lumina:{digest}"}),
        profile=json.dumps(dataset["profile"]),
    )
    tags = {"mlflow.data.context": context, "lumina.key": keys, "lumina.digest": digest, "lumina.uri": uri}
    return DatasetInput(entity, [InputTag(key, value) for key, value in tags.items() if value])
