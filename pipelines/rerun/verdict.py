"""Verdict on a rerun: whether it gave what the recorded run gave, each stage measured by its tolerance.

A stage can be the same only as far as its inputs are: one whose inputs were reproduced within a tolerance is held to
that tolerance, even if it asks for the same bits from the same inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipelines.compare.difference import Difference
from pipelines.compare.metrics import MetricDiff
from pipelines.compare.numeric_diff import compare_numbers
from pipelines.compare.runs import Held, StageDiff
from pipelines.engine.tolerance import Bitwise, Metric, Tier, Tolerance, looser, read_tier
from pipelines.errors import StoreError

Outcome = Literal["bitwise equal", "reused", "within tolerance", "within band", "differs", "not comparable"]


@dataclass(frozen=True)
class StageVerdict:
    """One stage of the rerun."""

    name: str
    tier: str
    """Kind of the tier that it was held to."""
    bounds: str
    """What that tier allows."""
    inherited: bool
    """Whether the tier is that of an input, looser than the stage's own."""
    outcome: Outcome
    ok: bool
    detail: str = ""
    """How far apart, or what is wrong."""


@dataclass(frozen=True)
class Verdict:
    """All stages."""

    run: str
    """The recorded run."""
    again: str
    """Id of the rerun."""
    stages: tuple[StageVerdict, ...]

    @property
    def ok(self) -> bool:
        """Whether every stage meets its tier."""
        return all(stage.ok for stage in self.stages)

    @property
    def answer(self) -> str:
        """One line: reproduced or not, and how."""
        reused = sum(stage.outcome == "reused" for stage in self.stages)
        total = len(self.stages)
        aside = f"; {reused} of {total} stages were reused, not executed again" if reused else ""
        bad = [stage for stage in self.stages if not stage.ok]
        if bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            return f"NOT reproduced: {bad[0].name}: {bad[0].detail}{more}{aside}"
        if reused == total:
            return f"nothing was executed: all {total} stages were reused; --fresh computes them again"
        equal = sum(stage.outcome == "bitwise equal" for stage in self.stages)
        if equal + reused == total:
            every = "" if reused else "all "
            return f"reproduced: {every}{equal} stages are bitwise equal to those of {self.run}{aside}"
        return f"reproduced: {equal} stages bitwise equal, {total - equal - reused} within their bounds{aside}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json` and the rerun's record."""
        return {
            "of": self.run,
            "run": self.again,
            "ok": self.ok,
            "answer": self.answer,
            "stages": [asdict(stage) for stage in self.stages],
        }


def judge(found: Difference, inputs: Mapping[str, Mapping[str, str]]) -> Verdict:
    """Hold every stage of run B to what run A declared.

    Args:
        found: the recorded run A and the rerun B.
        inputs: stage -> input key -> upstream stage, as run A recorded it.

    Raises:
        StoreError: an output cannot be read.
    """
    stages: list[StageVerdict] = []
    tiers: dict[str, Tier] = {}
    unequal = {stage.name for stage in found.stages if stage.digests[0] != stage.digests[1]}
    for stage in found.stages:
        a, b = found.a.stages.get(stage.name), found.b.stages.get(stage.name)
        own = _tier(a)
        tier = own
        for upstream in inputs.get(stage.name, {}).values():
            if upstream in unequal and upstream in tiers:
                tier = looser(tier, tiers[upstream])
        tiers[stage.name] = tier
        outcome, ok, detail = _compare(found, stage, a, b, tier)
        stages.append(StageVerdict(stage.name, tier.kind, str(tier), tier is not own, outcome, ok, detail))
    return Verdict(found.a.run, found.b.run, tuple(stages))


def _tier(held: Held | None) -> Tier:
    if held is None or held.manifest is None:
        return Bitwise()
    try:
        return read_tier(held.manifest.tier)
    except ValueError as error:
        raise StoreError(f"the record of {held.manifest.stage} in {held.output}: {error}") from error


def _compare(
    found: Difference, stage: StageDiff, a: Held | None, b: Held | None, tier: Tier
) -> tuple[Outcome, bool, str]:
    if a is None or b is None or a.digest is None or b.digest is None:
        return "not comparable", False, f"{stage.verdict} ({' -> '.join(str(state) for state in stage.states)})"
    if stage.shared:
        return "reused", True, ""
    if a.digest == b.digest:
        return "bitwise equal", True, ""
    if isinstance(tier, Bitwise):
        why = "; ".join(map(str, stage.changes[:2])) or "from the same recipe"
        return "differs", False, f"another digest, {why}"
    if a.output is None or b.output is None:
        return "not comparable", False, "; ".join(stage.problems) or "an output is gone"
    if isinstance(tier, Tolerance) and a.output.manifest.kind == "rows":
        close = compare_numbers(stage.name, a.output, b.output, tier)
        return ("within tolerance" if close.within else "differs"), close.within, str(close)
    band = tier if isinstance(tier, Metric) else Metric(tier.rtol)
    return _figures([one for one in (*found.figures, *found.metrics) if one.stage == stage.name], band)


def _figures(figures: list[MetricDiff], tier: Metric) -> tuple[Outcome, bool, str]:
    if not figures:
        return "not comparable", False, "another digest, and no rows or figures that could be compared"
    outside = [figure for figure in figures if not _within(figure, tier)]
    if outside:
        return (
            "differs",
            False,
            f"{len(outside)} of {len(figures)} figures outside, first {outside[0].text()}",
        )
    most = max(figures, key=lambda figure: figure.size)
    moved = f", most {most.text()}" if most.moved else ", none moved"
    return "within band", True, f"{len(figures)} figures{moved}"


def _within(figure: MetricDiff, tier: Metric) -> bool:
    if figure.outside is not None:
        return not figure.outside
    old, new = figure.values
    return not figure.moved or abs(new - old) <= tier.band * max(abs(old), abs(new))
