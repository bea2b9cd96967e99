"""Evaluations by which the runs of a sweep are judged: generated clips, sounds, or what a selection kept.

All runs are judged by the same kind, the first of these that they have. Whatever it is, each run has figures with
bootstrap draws over the same units (prompts, held-out clips, clips of the selection), so that arms can be paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipelines.compare.rows import open_rows
from pipelines.compare.runs import Side, read_side
from pipelines.engine.store.store import Store
from pipelines.engine.store.sweep_record import ArmRun
from pipelines.reports.evaluations import Evaluated, read_evaluations
from pipelines.reports.selection import STAGE as SELECT
from pipelines.reports.sounds import read_sounds

if TYPE_CHECKING:
    from lumina.evaluation.metrics import Estimate

SCORE = "score"
Kind = Literal["clips", "sounds", "selection"]
_SOUND_FIGURES = ("onset_f1_50ms", "class_acc_all", "av_align_v2025_excess", "av_align_v2025")
"""The first of them that applies is what arms are ranked by: of films there is no F1, for want of known events."""


@dataclass(frozen=True)
class Judged:
    """Runs that can be compared."""

    kind: Kind
    runs: tuple[ArmRun, ...]
    figures: tuple[Mapping[str, Estimate], ...]
    """Of each run, `score` among them: what arms are ranked by."""
    weights: Mapping[str, float]
    """Of the score."""
    stage: str
    units: int
    """Prompts, or clips."""
    confidence: float
    meaning: Mapping[str, str]
    samples: int | None = None
    """Clips of a prompt."""
    counted: tuple[str, ...] = ()
    """Figures that are whole numbers."""


def judge(store: Store, runs: Sequence[ArmRun]) -> Judged | str:
    """Read what some runs that are done came to; a sentence where they cannot be compared.

    Raises:
        StoreError: an output cannot be read.
    """
    sides = [read_side(store, store.get_run(run.run)) for run in runs]
    readers: tuple[Callable[..., Judged | str | None], ...] = (_clips, _sounds)
    for reader in readers:
        found = reader(runs, sides)
        if found is not None:
            return found
    if len({held.fingerprint if (held := side.stages.get(SELECT)) else None for side in sides}) < 2:
        return "no run was evaluated"
    from pipelines.reports.sweep_selection import judge_selection

    return judge_selection(store, runs)


def _some(found: Sequence[object | None]) -> str | None:
    return "only some of the runs were evaluated" if any(one is None for one in found) else None


def _clips(runs: Sequence[ArmRun], sides: Sequence[Side]) -> Judged | str | None:
    """By the fine-tuned models, as `evaluate_final` measured them, and the score that `choose` goes by."""
    own = [_of_clips(side) for side in sides]
    if not any(own):
        return None
    if problem := _some(own):
        return problem
    evaluated, weights = zip(*(one for one in own if one), strict=True)
    config, content = evaluated[0].config, evaluated[0].content
    drawn = [one.draws(int(config.get("seed", 0)), int(config.get("resamples", 10_000))) for one in evaluated]
    if any(design != drawn[0][0] for design, _ in drawn):
        return (
            "the runs were judged on different prompts or numbers of clips, so they cannot be paired: "
            "evaluate.suite of kind captions takes them from the clips that were kept; prompts of a list stay"
        )
    if any(one != weights[0] for one in weights):
        return "the runs go by different scores (choose.score), so no number stands for all of them"
    figures = [dict(estimates) for _, estimates in drawn]
    scores = _scores(evaluated, weights[0], figures)
    return Judged(
        "clips",
        tuple(runs),
        tuple({**one, SCORE: score} for one, score in zip(figures, scores, strict=True)),
        weights[0],
        evaluated[0].stage,
        int(content["prompts"]),
        float(content.get("confidence", 0.95)),
        content.get("meaning", {}),
        content.get("samples"),
    )


def _of_clips(side: Side) -> tuple[Evaluated, Mapping[str, float]] | None:
    """The fine-tuned model, or where a run ends earlier the chosen system prompt; with the weights of the score."""
    found = read_evaluations(side)
    last = found[0] if found else None
    if last is None or last.selection is None:
        return None
    chosen = [one for one in last.sources if one.title == last.selection.chosen]
    of = last.final[1] if last.final else next(iter(chosen), None)
    return None if of is None else (of, last.selection.rule["score"])


def _scores(
    evaluated: Sequence[Evaluated], weights: Mapping[str, float], found: Sequence[Mapping[str, Estimate]]
) -> list[Estimate]:
    """The weighted mean of each run, of unlike figures in standard deviations over all runs, as `choose` has it."""
    from lumina.evaluation.metrics import METRICS, composite
    from lumina.evaluation.standard_scores import are_unlike, scale_of
    from lumina.vbench.clip_rows import are_unlike as are_unlike_figures
    from lumina.vbench.clip_rows import read_clip_rows

    if all(name in METRICS for name in weights):
        columns = {name: METRICS[name].column for name in weights if are_unlike(weights)}
        scales = {
            name: scale_of([one.results.columns[column] for one in evaluated]) for name, column in columns.items()
        }
    else:
        rows = [read_clip_rows(one.rows, one.figures) for one in evaluated]
        scales = {
            name: scale_of([one.prompt_values(name) for one in rows]) for name in weights if are_unlike_figures(weights)
        }
    return [
        composite({name: scales[name].standardised(one[name]) if scales else one[name] for name in weights}, weights)
        for one in found
    ]


def _sounds(runs: Sequence[ArmRun], sides: Sequence[Side]) -> Judged | str | None:
    """By the sounds of the last checkpoint that was evaluated, with all conditions given."""
    own = [_of_sounds(side) for side in sides]
    if not any(own):
        return None
    if problem := _some(own):
        return problem
    from lumina.evaluation.subsets import resample
    from lumina.video_to_audio.evaluation.figures import estimates

    stages, contents, rows = zip(*(one for one in own if one), strict=True)
    clips = sorted(rows[0])
    if any(sorted(one) != clips for one in rows):
        return (
            "the runs were judged on different held-out clips, so they cannot be paired: which are held out follows "
            "from the clips that were kept"
        )
    drawn = resample(clips, contents[0]["seed"], contents[0]["resamples"])
    every = [estimates(one, clips, drawn) for one in rows]
    names = [name for name in _SOUND_FIGURES if all(name in one for one in every)]
    if not names:
        return "no figure of sounds applies to all runs"
    return Judged(
        "sounds",
        tuple(runs),
        tuple({**{name: one[name] for name in names}, SCORE: one[names[0]]} for one in every),
        {names[0]: 1.0},
        stages[0],
        len(clips),
        float(contents[0]["confidence"]),
        contents[0]["meaning"],
    )


def _of_sounds(side: Side) -> tuple[str, Mapping[str, Any], Mapping[str, Mapping[str, Any]]] | None:
    """Stage, its metrics.json, and the rows of the condition `given` by clip."""
    found = read_sounds(side).evaluations
    if not found:
        return None
    stage, content = list(found.items())[-1]
    output = side.stages[stage].output
    if output is None:
        raise AssertionError("what was read is there")
    rows = open_rows(stage, output).read().to_pylist()
    return stage, content, {row["clip_id"]: row for row in rows if row["condition"] == "given"}
