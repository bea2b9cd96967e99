"""Verdicts by tier, on outputs that the real runner made."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.compare.difference import read_diff
from pipelines.engine.stage import Execution, Pipeline
from pipelines.engine.tolerance import BITWISE, Bitwise, Metric, Tier, Tolerance, looser, read_tier
from pipelines.rerun.verdict import Verdict, judge
from tests.pipelines.compared import NoConfig, chain, go, stage


def tiered(pipeline: Pipeline, **tiers: Tier) -> Pipeline:
    """The pipeline with these tiers, by kind of stage."""
    stages = (
        replace(one, execution=replace(one.execution, tier=tiers.get(one.kind, one.execution.tier)))
        for one in pipeline.stages
    )
    return Pipeline(pipeline.name, tuple(stages))


def verdict(a: tuple[Any, dict[str, Any]], b: tuple[Any, dict[str, Any]]) -> Verdict:
    return judge(read_diff(a, b), {name: entry.inputs for name, entry in a[1].stages.items()})


def outcomes(found: Verdict) -> dict[str, str]:
    return {one.name: one.outcome for one in found.stages}


@pytest.mark.parametrize("tier", [BITWISE, Tolerance(rtol=0.5), Metric(band=0.2)])
def test_a_tier_comes_back_from_its_record(tier: Tier) -> None:
    assert read_tier(asdict(tier)) == tier
    with pytest.raises(ValueError, match="no tier of reproduction"):
        read_tier({"kind": "lucky"})


def test_the_looser_tier_asks_for_less() -> None:
    assert looser(Bitwise(), Tolerance()) == Tolerance()
    assert looser(Metric(), Tolerance()) == Metric()


def test_two_stores_bit_by_bit(tmp_path: Path) -> None:
    a, b = go(chain(), tmp_path / "a"), go(chain(), tmp_path / "b")
    found = verdict(a, b)
    assert set(outcomes(found).values()) == {"bitwise equal"}
    assert found.answer == f"reproduced: all 4 stages are bitwise equal to those of {a[1].run}"


def test_what_was_not_executed_again_proves_nothing(tmp_path: Path) -> None:
    found = verdict(go(chain(), tmp_path), go(chain(), tmp_path))
    assert set(outcomes(found).values()) == {"reused"}
    assert "nothing was executed" in found.answer


def test_metric_tiers_take_figures_within_their_intervals(tmp_path: Path) -> None:
    near, far = (tiered(chain(lr=lr), train=Metric(), evaluate_final=Metric()) for lr in (0.1004, 0.05))
    a = go(tiered(chain(), train=Metric(band=0.05), evaluate_final=Metric()), tmp_path / "a")
    found = verdict(a, go(near, tmp_path / "b"))
    assert outcomes(found) == {
        "ingest": "bitwise equal", "select": "bitwise equal", "train@1": "within band", "evaluate_final": "within band",
    }  # fmt: skip
    assert found.ok
    assert found.answer == "reproduced: 2 stages bitwise equal, 2 within their bounds"
    found = verdict(a, go(far, tmp_path / "c"))
    assert outcomes(found)["train@1"] == "differs"
    assert not found.ok
    assert found.answer.startswith("NOT reproduced: train@1: 1 of 1 figures outside, first train/last_loss 0.04979 -> ")


def test_a_bitwise_stage_is_held_to_the_tier_of_what_it_reads(tmp_path: Path) -> None:
    wide = Tolerance(rtol=10.0)
    a = go(tiered(chain(), ingest=wide), tmp_path / "a")
    # Other scores above the limit: the rows of select follow those of ingest.
    found = verdict(a, go(tiered(chain(least=0.3), ingest=wide), tmp_path / "b"))
    assert outcomes(found)["select"] == "differs"
    select = next(one for one in found.stages if one.name == "select")
    assert (select.tier, select.inherited, select.ok) == ("bitwise", False, False)


def test_a_bitwise_stage_that_gives_other_bits_is_no_reproduction(tmp_path: Path) -> None:
    def more(tier: Tier) -> Pipeline:
        return chain(
            replace(
                stage("noise", "uncertain", NoConfig(), clips="select"),
                execution=Execution(uses_cluster=False, tier=tier),
            )
        )

    a = go(more(BITWISE), tmp_path / "a")
    found = verdict(a, go(more(BITWISE), tmp_path / "b"))
    assert "NOT reproduced: noise: another digest, from the same recipe" in found.answer
    a = go(more(Metric()), tmp_path / "c")
    found = verdict(a, go(more(Metric()), tmp_path / "d"))
    assert outcomes(found)["noise"] == "not comparable"
    assert not found.ok


def test_a_stage_that_is_missing_is_no_reproduction(tmp_path: Path) -> None:
    a, b = go(chain(), tmp_path / "a"), go(chain(), tmp_path / "b", until="select")
    found = verdict(a, b)
    assert outcomes(found)["train@1"] == "not comparable"
    assert not found.ok
