"""Row reuse: earlier outputs of a stage, of which rows may be the same although the stage has to run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

from pipelines.engine.call import ReuseCandidate
from pipelines.engine.fingerprint import Identified
from pipelines.engine.recipe_diff import by_inputs_alone, recipe_changes
from pipelines.engine.stage import Stage
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.store import Store

_MOST = 4


def reuse_candidates(store: Store, stage: Stage, found: Identified) -> Iterator[ReuseCandidate]:
    """Whole outputs of a curation stage from which nothing but the content of the inputs differs, the newest first."""
    if stage.operator:
        for manifest in islice(_found(store, stage, found), _MOST):
            yield ReuseCandidate(manifest.fingerprint, partial(store.fetch, manifest))


def _found(store: Store, stage: Stage, found: Identified) -> Iterator[Manifest]:
    for manifest in store.manifests(stage.name):
        alike = by_inputs_alone(recipe_changes(manifest.recipe, found.recipe))
        if alike and store.lookup(stage.name, manifest.fingerprint) is not None:
            yield manifest
