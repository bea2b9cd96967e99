"""Row reuse: earlier outputs of a stage, of which rows may be the same although the stage has to run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

from pipelines.engine.call import ReuseCandidate
from pipelines.engine.fingerprint import Identified
from pipelines.engine.recipe_diff import by_inputs_alone, recipe_changes
from pipelines.engine.stage import Stage
from pipelines.engine.store.store import Store

_MOST = 4


def reuse_candidates(store: Store, stage: Stage, found: Identified) -> Iterator[ReuseCandidate]:
    """Whole outputs of a curation stage from which nothing but the content of the inputs differs, the newest first."""
    if stage.operator:
        alike = (
            store.lookup(stage.name, manifest.fingerprint)
            for manifest in store.manifests(stage.name)
            if by_inputs_alone(recipe_changes(manifest.recipe, found.recipe))
        )
        for whole in islice(filter(None, alike), _MOST):
            yield ReuseCandidate(whole.fingerprint, partial(store.fetch, whole))
