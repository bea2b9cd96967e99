"""Scores of new captions: how well what a model says of a clip fits its frames, by CLIP or SigLIP.

Rows in: probed clips and their new captions. Rows out: the same ids with the cosines. The scorer `caption_match` of the
stage `scores` is of the captions that the clips have; a clip without a new one has no such score.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curation.decode import READ_COLUMNS
from curation.operator import Env, Halves, Input, Operator, Report, RowsFunction, quantile_report
from curation.schema import STATUS_COLUMNS
from curation.score_columns import SCORERS, schema_of
from curation.scores import CAPTION_MATCH_OPERATOR, ScoresConfig

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_NEW = {name: name.replace("caption_match", "caption_match_new") for name in SCORERS["caption_match"]}
_SCORED = schema_of(["caption_match"])
NEW_CAPTION_MATCH = pa.schema([field.with_name(_NEW.get(field.name, field.name)) for field in _SCORED])
"""Columns `caption_match_new` and `caption_match_new_min`, as `curation.score_columns` says of those without `new`."""


def _plan(inputs: Mapping[str, Input], _config: ScoresConfig, _env: Env) -> pa.Table:
    clips = inputs["clips"].rows(["clip_id", *READ_COLUMNS, "fps", *STATUS_COLUMNS]).sort_by("clip_id")
    told = inputs["caption"].rows(["clip_id", "caption_new"]).sort_by("clip_id")
    if not told["clip_id"].equals(clips["clip_id"]):
        raise ValueError(f"caption has {len(told)} rows and probe {len(clips)}, or their clip ids differ")
    return clips.append_column("caption", told["caption_new"])


def _make(config: ScoresConfig, env: Env) -> RowsFunction:
    match = None if CAPTION_MATCH_OPERATOR.map is None else CAPTION_MATCH_OPERATOR.map(config, env)
    if not isinstance(match, Halves):
        raise TypeError(f"{CAPTION_MATCH_OPERATOR.name} does not score in two halves")

    def score(loaded: Any) -> pa.Table:
        return match.compute(loaded).select(_SCORED.names).rename_columns(NEW_CAPTION_MATCH.names)

    return Halves(match.load, score)


def _report(dataset: ds.Dataset, _config: ScoresConfig, _out: Path) -> Report:
    return quantile_report(dataset, *_NEW.values())


NEW_CAPTION_MATCH_OPERATOR = Operator(
    name="caption_match_new",
    config=ScoresConfig,
    schema=NEW_CAPTION_MATCH,
    reads_media=True,
    tier="tolerance",
    inputs=("clips", "caption"),
    plan=_plan,
    map=_make,
    passthrough_columns=("uri",),
    runs_network=CAPTION_MATCH_OPERATOR.runs_network,
    weights=CAPTION_MATCH_OPERATOR.weights,
    depends=CAPTION_MATCH_OPERATOR.depends,
    report=_report,
)
"""Reads the inputs `clips` (`probe`) and `caption`; weights `caption_match.weights`."""
