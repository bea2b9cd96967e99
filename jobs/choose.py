"""Stage `choose`: which sources to fine-tune on, from the evaluations of their system prompts.

The rule (which figures, which weights, what on a tie) is in the config, so it stands before the numbers are known; it
is written into `selection.json` beside the numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from jobs.context import InputRef, JobContext, JobResult
from lumina.config import Config
from lumina.evaluation.metrics import METRICS, composite
from lumina.evaluation.subsets import Comparison, Difference, Interval, compare
from lumina.evaluation.summary import Results, estimates, interval_json, pivot

FILE = "selection.json"
_READ = ("video@", "image@")


class ChooseConfig(Config):
    """The rule by which sources are chosen."""

    score: dict[str, float] = Field(
        default={"shapes/colour_acc": 1.0, "shapes/shape_acc": 1.0, "shapes/direction_acc": 1.0}, min_length=1
    )
    """Metric to weight; sources are compared by the weighted mean. A negative weight is for a metric to keep low."""
    sources: tuple[str, ...] | None = Field(default=None, min_length=1)
    """A person's decision: these sources are fine-tuned on, whatever the scores; the first one's prompt is the default
    of the exported model. None goes by the score."""
    reason: str | None = None
    """Why, in a sentence; for `sources`."""
    on_tie: Literal["best", "union"] = "best"
    """When several sources are not significantly worse than the best: take the best alone, or all of them."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence of each interval, and of all differences together."""
    resamples: int = Field(default=10_000, ge=100)
    """Bootstrap resamples of the prompts."""
    seed: int = 0
    """Seed of the bootstrap."""

    @model_validator(mode="after")
    def _decided(self) -> Self:
        if self.sources is not None and len(set(self.sources)) < len(self.sources):
            raise ValueError(f"sources names one twice: {', '.join(self.sources)}")
        if (self.sources is None) != (not (self.reason or "").strip()):
            raise ValueError(
                "sources and reason go together: a decision by hand says why, and what it says is recorded"
            )
        return self

    @field_validator("score")
    @classmethod
    def _known(cls, score: dict[str, float]) -> dict[str, float]:
        for name, weight in score.items():
            if name not in METRICS:
                raise ValueError(f"unknown metric {name!r}; there are {', '.join(sorted(METRICS))}")
            if weight == 0:
                raise ValueError(f"the weight of {name!r} is zero: leave the metric out")
        return score


def run(ctx: JobContext) -> JobResult:
    """Compare the inputs `evaluate@<source>` and write `selection.json` (config: ChooseConfig).

    A source that has no clip of the medium to train on in any of the optional inputs `video@<name>` or `image@<name>`
    (latents that the fine-tuning reads) is left out.

    Raises:
        ValueError: no evaluation, evaluations of different prompts, one that lacks a metric of the score, or no source
            with clips.
    """
    config: ChooseConfig = ctx.config
    inputs = {key.partition("@")[2]: ref for key, ref in ctx.inputs.items() if key.startswith("evaluate@")}
    if not inputs:
        raise ValueError(f"{ctx.stage} has no input evaluate@<source>, only {sorted(ctx.inputs)}")
    trainable = _trainable(ctx)
    left_out = [] if trainable is None else sorted(set(inputs) - trainable)
    if len(left_out) == len(inputs):
        read = ", ".join(ref.stage for key, ref in sorted(ctx.inputs.items()) if key.startswith(_READ))
        raise ValueError(
            f"{ctx.stage}: none of the sources {', '.join(left_out)} has a clip to fine-tune on in {read}: "
            "`lumina selection` tells which rules set them aside"
        )
    results = {source: _read(ref, config) for source, ref in sorted(inputs.items()) if source not in left_out}
    selection = select(results, config, left_out)
    # Newlines at the end of lines only, keys sorted: the file's bytes are its identity.
    text = json.dumps(selection, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    (ctx.out / FILE).write_text(text, encoding="utf-8")
    best = next(row for row in selection["table"] if row["source"] == selection["chosen"])
    return JobResult(
        kind="files",
        digest=f"sha256:{hashlib.sha256(text.encode()).hexdigest()}",
        counts={"in": len(inputs), "ok": len(results), **({"filtered/no_clips": len(left_out)} if left_out else {})},
        metrics={"choose/score": best["score"]["value"], "choose/best_set_size": len(selection["best_set"])},
        artifacts=(FILE,),
    )


def _read(ref: InputRef, config: ChooseConfig) -> Results:
    import pyarrow.dataset

    path = Path(ref.path)
    measured = json.loads((path / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    absent = sorted(set(config.score) - set(measured))
    if absent:
        raise ValueError(
            f"{ref.stage} did not measure {', '.join(absent)}, which the score needs; "
            f"it measured {', '.join(sorted(measured))}: change choose.score or evaluate.metrics"
        )
    rows = pyarrow.dataset.dataset(path / "data").to_table().to_pylist()
    return pivot(rows, sorted(config.score), ref.stage)


def _trainable(ctx: JobContext) -> set[str] | None:
    """Sources with a clip to train on in one of the inputs `video@<name>`, `image@<name>`; None without such inputs."""
    import pyarrow.dataset as dataset

    found: set[str] | None = None
    for key, ref in ctx.inputs.items():
        if key.startswith(_READ):
            wanted = dataset.field("media") == key.partition("@")[0]
            wanted &= (dataset.field("status") == "ok") & (dataset.field("split") == "train")
            table = dataset.dataset(ref.path / "data").to_table(columns=["source"], filter=wanted)
            found = (found or set()) | set(table["source"].to_pylist())
    return found


def select(results: dict[str, Results], config: ChooseConfig, left_out: Sequence[str] = ()) -> dict[str, Any]:
    """Apply the rule: the content of `selection.json`.

    Args:
        results: by source.
        config: the rule.
        left_out: sources that were evaluated but cannot be chosen, since they have no clips; named in the result.

    Raises:
        ValueError: the sources were not evaluated on the same prompts and samples.
    """
    sources = sorted(results)
    first = results[sources[0]]
    for source in sources[1:]:
        if (results[source].prompt_ids, results[source].samples) != (first.prompt_ids, first.samples):
            raise ValueError(f"{sources[0]} and {source} were evaluated on different prompts: they cannot be paired")
    figures = {s: estimates(results[s], sorted(config.score), config.seed, config.resamples) for s in sources}
    scores = [composite(figures[s], config.score) for s in sources]
    comparison = compare(
        sources,
        np.array([s.value for s in scores]),
        np.stack([s.draws for s in scores]),
        min(s.units for s in scores),
        config.confidence,
        scores[0].values,
    )
    chosen = comparison.best
    selected = sorted(comparison.best_set) if config.on_tie == "union" else [chosen]
    worse = {d.group: d for d in comparison.differences}
    order = [chosen, *(d.group for d in comparison.differences)]
    return {
        "schema": "lumina-selection/1",
        "chosen": chosen,
        "sources": selected,
        "best_set": list(comparison.best_set),
        "left_out": sorted(left_out),
        "reason": _reason(comparison, selected, config, len(first.prompt_ids), first.samples)
        + (f" Left out, having no clips to fine-tune on: {', '.join(sorted(left_out))}." if left_out else ""),
        "rule": config.model_dump(mode="json"),
        "prompts": len(first.prompt_ids),
        "samples": first.samples,
        "table": [
            {
                "source": source,
                "score": interval_json(comparison.intervals[source]),
                "metrics": {n: interval_json(e.interval(config.confidence)) for n, e in figures[source].items()},
                "in_best_set": source in comparison.best_set,
                "below_best": _difference_json(worse[source]) if source in worse else None,
            }
            for source in order
        ],
    }


def _difference_json(difference: Difference) -> dict[str, float | None]:
    return interval_json(Interval(difference.value, difference.low, difference.high))


def _reason(comparison: Comparison, selected: list[str], config: ChooseConfig, prompts: int, samples: int) -> str:
    own = comparison.intervals[comparison.best]
    if not math.isfinite(own.low):
        verdict = "it is the only source" if not comparison.differences else "which on one prompt proves nothing"
        return f"{comparison.best} scores highest ({own.value:.3f}); {verdict}."
    head = f"{comparison.best} scores highest ({own.value:.3f} [{own.low:.3f}, {own.high:.3f}]"
    each = "a clip" if samples == 1 else f"{samples} clips"
    basis = f"{config.confidence:.0%} intervals, paired over {prompts} prompts with {each} each)"
    if not comparison.differences:
        return f"{head}, {basis}; it is the only source."
    parts = [
        f"{d.group} lies {d.value:.3f} [{d.low:.3f}, {d.high:.3f}] below it, "
        + ("which is significant" if d.significant else "which is not significant")
        for d in comparison.differences
    ]
    if len(comparison.best_set) == 1:
        verdict = f"every other source is significantly worse, so {comparison.best} is chosen"
    elif config.on_tie == "union":
        verdict = f"the rule takes all that are not significantly worse: {', '.join(selected)}"
    else:
        verdict = f"the rule takes the highest of the {len(comparison.best_set)} that cannot be told apart"
    return f"{head}, {basis}. {'; '.join(parts)}. {verdict[0].upper() + verdict[1:]}."
