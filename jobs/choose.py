"""Stage `choose`: which sources to fine-tune on, from the evaluations of their system prompts.

The rule (which figures, which weights, what on a tie) is in the config, so it stands before the numbers are known; it
is written into `selection.json` beside the numbers. A person may decide instead, and the figures may come from a file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from jobs.context import InputRef, Job, JobContext, JobResult
from lumina.config import Config
from lumina.evaluation.metrics import METRICS, Estimate, Metric, composite
from lumina.evaluation.score_files import Scores, read_scores
from lumina.evaluation.selection import METRICS_FILE, SELECTION_FILE, Ranked, Selection
from lumina.evaluation.standard_scores import Scale, are_unlike, scale_of
from lumina.evaluation.subsets import Comparison, compare
from lumina.evaluation.summary import Results, estimates_of, interval_json, pivot
from lumina.files import sha256_file
from lumina.vbench.clip_rows import ClipRows, read_clip_rows
from lumina.vbench.clip_rows import are_unlike as are_unlike_figures
from lumina.vbench.suite_config import figure_of

_READ = ("video@", "image@")


class ChooseConfig(Config):
    """The rule by which sources are chosen."""

    score: dict[str, float] = Field(
        default={"shapes/colour_acc": 1.0, "shapes/shape_acc": 1.0, "shapes/direction_acc": 1.0}, min_length=1
    )
    """Metric to weight; sources are compared by the weighted mean. A negative weight is for a metric to keep low.
    Unless all are shares of clips, or totals of VBench, metrics are weighed in standard deviations of their values over
    prompts and sources, for what varies most would decide else. With `scores`, the names are figures
    of that file."""
    sources: tuple[str, ...] | None = Field(default=None, min_length=1)
    """A person's decision: these sources are fine-tuned on, whatever the scores; the first one's prompt is the default
    of the exported model. None goes by the score."""
    reason: str | None = None
    """Why, in a sentence; for `sources`."""
    scores: Path | dict[str, Path] | None = None
    """Figures from elsewhere in place of the evaluations': a CSV with a row per clip (columns `source`, `prompt`,
    `sample`) or per source, or results JSON of VBench: of clips in folders named after sources, or a file per source
    (`{web: web.json}`). Known by content."""
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

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name, weight in self.score.items():
            if self.scores is None and name not in METRICS and figure_of(name) is None:
                raise ValueError(
                    f"unknown metric {name!r}; there are {', '.join(sorted(METRICS))}, and of VBench "
                    "vbench/<dimension>, vbench_native/<dimension> and their quality, semantic and total"
                )
            if weight == 0:
                raise ValueError(f"the weight of {name!r} is zero: leave the metric out")
        if self.scores is None:
            vbench = [name for name in self.score if figure_of(name) is not None]
            if 0 < len(vbench) < len(self.score):
                raise ValueError(f"{vbench[0]} is a figure of VBench, and others of the score are of another suite")
            _ = are_unlike_figures(vbench) if vbench else are_unlike(self.score)
        return self

    @property
    def by_vbench(self) -> bool:
        """Whether the score is of evaluations by VBench."""
        return self.scores is None and all(figure_of(name) is not None for name in self.score)

    def score_files(self) -> dict[str, Path]:
        """The files of `scores`, by the names under which the stage is given them."""
        if self.scores is None:
            return {}
        if isinstance(self.scores, Path):
            return {"scores": self.scores}
        return {f"scores@{name}": path for name, path in self.scores.items()}


@partial(Job, uses_cluster=False)
def run(ctx: JobContext) -> JobResult:
    """Compare the inputs `evaluate@<source>` and write `selection.json` (config: ChooseConfig).

    With files `scores` or `scores@<source>`, their figures are compared instead. A source is left out that has no clip
    of the medium to train on in any of the optional inputs `video@<name>` or `image@<name>`, which are latents that the
    fine-tuning reads.

    Raises:
        ValueError: no evaluation, evaluations of different prompts, one that lacks a metric of the score, scores that
            cannot be used, or no source with clips.
    """
    config: ChooseConfig = ctx.config
    inputs = {key.partition("@")[2]: ref for key, ref in ctx.inputs.items() if key.startswith("evaluate@")}
    if not inputs:
        raise ValueError(f"{ctx.stage} has no input evaluate@<source>, only {sorted(ctx.inputs)}")
    trainable = _trainable(ctx)
    left_out = [] if trainable is None else sorted(set(inputs) - trainable)
    lacking = sorted(set(inputs if config.sources is None else config.sources) & set(left_out))
    if len(left_out) == len(inputs) or (config.sources is not None and lacking):
        read = ", ".join(ref.stage for key, ref in sorted(ctx.inputs.items()) if key.startswith(_READ))
        who = "none of the sources" if config.sources is None else "choose.sources: none of"
        raise ValueError(
            f"{ctx.stage}: {who} {', '.join(lacking)} has a clip to fine-tune on in {read}: "
            "`lumina selection` tells which rules set them aside"
        )
    sources = sorted(set(inputs) - set(left_out))
    files = {name: path for name, path in ctx.files.items() if name.partition("@")[0] == "scores"}
    scores = None
    if files:
        given = files.get("scores") or {name.partition("@")[2]: path for name, path in files.items()}
        # The plan has looked for unknown sources; those that cannot be chosen may be there.
        scores = read_scores(given, config.score, sources)
    if config.by_vbench and scores is None:
        judged = {source: _read_judged(inputs[source], config) for source in sources}
        selection = select_judged(judged, config, left_out)
    else:
        results = scores.results if scores else {source: _read(inputs[source], config) for source in sources}
        selection = select(results, config, left_out, scores)
    if scores is not None:
        digests = {name: f"sha256:{sha256_file(path)}" for name, path in sorted(files.items())}
        selection = replace(selection, scores={"files": digests, "per_clip": scores.per_clip})
    text = selection.to_json()
    (ctx.out / SELECTION_FILE).write_text(text, encoding="utf-8")
    chosen = next(row for row in selection.table if row.source == selection.chosen)
    return JobResult(
        kind="files",
        digest=f"sha256:{hashlib.sha256(text.encode()).hexdigest()}",
        counts={"in": len(inputs), "ok": len(sources), **({"filtered/no_clips": len(left_out)} if left_out else {})},
        metrics={"choose/score": chosen.score["value"] or 0.0, "choose/best_set_size": len(selection.best_set)},
        artifacts=(SELECTION_FILE,),
    )


def _read(ref: InputRef, config: ChooseConfig) -> Results:
    _measured(ref, config)
    return pivot(_rows(ref), sorted(config.score), ref.stage)


def _read_judged(ref: InputRef, config: ChooseConfig) -> ClipRows:
    return read_clip_rows(_rows(ref), _measured(ref, config))


def _rows(ref: InputRef) -> list[dict[str, Any]]:
    import pyarrow.dataset

    rows: list[dict[str, Any]] = pyarrow.dataset.dataset(Path(ref.path) / "data").to_table().to_pylist()
    return rows


def _measured(ref: InputRef, config: ChooseConfig) -> list[str]:
    """The figures of an evaluation, which must have those of the score."""
    content = json.loads((Path(ref.path) / METRICS_FILE).read_text(encoding="utf-8"))
    measured = content["metrics"]
    absent = sorted(set(config.score) - set(measured))
    gaps = content.get("gaps", {})
    for name in absent:
        if gap := gaps.get(figure_of(name)):
            raise ValueError(f"{ref.stage} has no {name}, which the score needs: {gap}")
    if absent:
        raise ValueError(
            f"{ref.stage} did not measure {', '.join(absent)}, which the score needs; "
            f"it measured {', '.join(sorted(measured))}: change choose.score or evaluate.metrics"
        )
    return list(measured)


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


def select(
    results: Mapping[str, Results], config: ChooseConfig, left_out: Sequence[str] = (), scores: Scores | None = None
) -> Selection:
    """Apply the rule.

    Args:
        results: by source.
        config: the rule.
        left_out: sources that were evaluated but cannot be chosen, since they have no clips; named in the result.
        scores: what `results` are of, if they come from elsewhere.

    Raises:
        ValueError: the sources were not evaluated on the same prompts and samples, or the rule needs error bars that
            there are none of.
    """
    sources = sorted(results)
    first = results[sources[0]]
    per_clip = scores is None or scores.per_clip
    for source in sources[1:]:
        other = results[source]
        if (other.prompt_ids, other.samples, other.strata) != (first.prompt_ids, first.samples, first.strata):
            raise ValueError(f"{sources[0]} and {source} were evaluated on different prompts: they cannot be paired")
    if not per_clip and config.on_tie == "union" and config.sources is None:
        raise ValueError("choose.on_tie is union, but scores of whole sources do not tell who is as good as the best")
    own = {name: METRICS[name] for name in sorted(config.score)} if scores is None else None
    metrics = own or {name: Metric(name, name, "frames", "") for name in sorted(config.score)}
    unlike = are_unlike(metrics) if own else len(metrics) > 1
    figures = {s: estimates_of(results[s], metrics, config.seed, config.resamples) for s in sources}
    scales = {n: scale_of([results[s].columns[m.column] for s in sources]) for n, m in metrics.items() if unlike}
    return _decide(figures, scales, config, left_out, (len(first.prompt_ids), first.samples), per_clip)


def select_judged(judged: Mapping[str, ClipRows], config: ChooseConfig, left_out: Sequence[str] = ()) -> Selection:
    """Apply the rule to figures of VBench, each with its dimension's own reducer in every resample.

    Args:
        judged: by source.
        config: the rule.
        left_out: as of `select`.

    Raises:
        ValueError: the sources were not evaluated on the same prompts and samples.
    """
    sources = sorted(judged)
    first = judged[sources[0]]
    for source in sources[1:]:
        if (judged[source].clips, judged[source].strata) != (first.clips, first.strata):
            raise ValueError(f"{sources[0]} and {source} were evaluated on different prompts: they cannot be paired")
    names = sorted(config.score)
    every = {source: judged[source].estimates(config.seed, config.resamples) for source in sources}
    figures = {source: {name: found[name] for name in names} for source, found in every.items()}
    unlike = names if are_unlike_figures(names) else []
    scales = {name: scale_of([judged[source].prompt_values(name) for source in sources]) for name in unlike}
    samples = max(Counter(prompt for prompt, _ in first.clips).values())
    return _decide(figures, scales, config, left_out, (len(first.strata), samples), per_clip=True)


def _decide(
    figures: Mapping[str, Mapping[str, Estimate]],
    scales: Mapping[str, Scale],
    config: ChooseConfig,
    left_out: Sequence[str],
    size: tuple[int, int],
    per_clip: bool,
) -> Selection:
    """Compare the sources by their figures; `size` is how many prompts there are, and clips of one."""
    sources, (prompts, samples) = sorted(figures), size
    totals = [composite(_standardised(figures[s], scales), config.score) for s in sources]
    comparison = compare(
        sources,
        np.array([one.value for one in totals]),
        np.stack([one.draws for one in totals]),
        min(one.units for one in totals),
        config.confidence,
        totals[0].values,
    )
    by_rule = sorted(comparison.best_set) if config.on_tie == "union" else [comparison.best]
    selected = list(config.sources) if config.sources else by_rule
    worse = {d.group: d for d in comparison.differences}
    order = [comparison.best, *(d.group for d in comparison.differences)]
    standardised = {n: {"mean": round(one.mean, 9), "spread": round(one.spread, 9)} for n, one in scales.items()}
    return Selection(
        chosen=selected[0] if config.sources else comparison.best,
        sources=tuple(selected),
        best_set=comparison.best_set,
        left_out=tuple(sorted(left_out)),
        reason=_reason(comparison, selected, config, prompts, samples, per_clip)
        + (f" Left out, having no clips to fine-tune on: {', '.join(sorted(left_out))}." if left_out else ""),
        rule=config.model_dump(mode="json", exclude_none=True),
        prompts=prompts if per_clip else 0,
        samples=samples if per_clip else 0,
        table=tuple(
            Ranked(
                source,
                interval_json(comparison.intervals[source]),
                {n: interval_json(e.interval(config.confidence)) for n, e in figures[source].items()},
                source in comparison.best_set,
                interval_json(worse[source]) if source in worse else None,
            )
            for source in order
        ),
        decided_by="hand" if config.sources else None,
        standardised=standardised or None,
    )


def _standardised(figures: Mapping[str, Estimate], scales: Mapping[str, Scale]) -> Mapping[str, Estimate]:
    return {name: scales[name].standardised(one) for name, one in figures.items()} if scales else figures


def _reason(
    comparison: Comparison, selected: list[str], config: ChooseConfig, prompts: int, samples: int, per_clip: bool
) -> str:
    by_hand = f"Chosen by hand: {(config.reason or '').strip().rstrip('.')}. Of the scores: " if config.sources else ""
    own = comparison.intervals[comparison.best]
    if not per_clip:
        others = "".join(f"; {d.group} lies {d.value:.3f} below it" for d in comparison.differences)
        told = "scores of whole sources have no error bars, so nothing tells whether differences are more than chance"
        return f"{by_hand}{comparison.best} scores highest ({own.value:.3f}){others}; {told}."
    if not math.isfinite(own.low):
        verdict = "it is the only source" if not comparison.differences else "which on one prompt proves nothing"
        return f"{by_hand}{comparison.best} scores highest ({own.value:.3f}); {verdict}."
    head = f"{by_hand}{comparison.best} scores highest ({own.value:.3f} [{own.low:.3f}, {own.high:.3f}]"
    each = "a clip" if samples == 1 else f"{samples} clips"
    basis = f"{config.confidence:.0%} intervals, paired over {prompts} prompts with {each} each)"
    if not comparison.differences:
        return f"{head}, {basis}; it is the only source."
    parts = [
        f"{d.group} lies {d.value:.3f} [{d.low:.3f}, {d.high:.3f}] below it, "
        + ("which is significant" if d.significant else "which is not significant")
        for d in comparison.differences
    ]
    if config.sources:
        return f"{head}, {basis}. {'; '.join(parts)}."
    if len(comparison.best_set) == 1:
        verdict = f"every other source is significantly worse, so {comparison.best} is chosen"
    elif config.on_tie == "union":
        verdict = f"the rule takes all that are not significantly worse: {', '.join(selected)}"
    else:
        verdict = f"the rule takes the highest of the {len(comparison.best_set)} that cannot be told apart"
    return f"{head}, {basis}. {'; '.join(parts)}. {verdict[0].upper() + verdict[1:]}."
