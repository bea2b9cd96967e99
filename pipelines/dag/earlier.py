"""Earlier outputs of a stage, of which rows may be the same although the stage has to run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

from jobs.context import EarlierOutput
from pipelines.dag.fingerprint import Identified
from pipelines.dag.stage import Stage
from pipelines.diff.recipe import by_inputs_alone, recipe_changes
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store

_MOST = 4


def earlier_outputs(store: Store, stage: Stage, found: Identified) -> Iterator[EarlierOutput]:
    """Whole outputs of a curation stage from which nothing but the content of the inputs differs, the newest first.

    One that was accepted for other code is not among them: whoever accepted it spoke of that output alone.
    """
    if stage.operator:
        for manifest in islice(_found(store, stage, found), _MOST):
            yield EarlierOutput(manifest.fingerprint, partial(store.fetch, manifest))


def _found(store: Store, stage: Stage, found: Identified) -> Iterator[Manifest]:
    for manifest in store.manifests(stage.name):
        alike = not manifest.accepted and by_inputs_alone(recipe_changes(manifest.recipe, found.recipe))
        if alike and store.lookup(stage.name, manifest.fingerprint.removeprefix("sha256:")) is not None:
            yield manifest
