"""The four claims: what the rule makes of numbers, and what each claim reads out of losses, studies and evaluations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.special import stdtrit

from benchmarks.claims import __main__ as command
from benchmarks.claims.evidence import BASE, DEMO, MORE, NONE, Losses, Sourced, Studied, read_demos
from benchmarks.claims.losses import TIMES, excess, held_out_losses, partings
from benchmarks.claims.pages import claim_page
from benchmarks.claims.rules import Part, judge, over_seeds
from benchmarks.claims.statements import EQUAL, SCHEDULED, UNEQUAL, Claim, by_cost, by_motion, by_scale, by_source
from jobs.train_plots import crossing
from lumina.checkpoints import save_model
from lumina.evaluation.metrics import Estimate
from lumina.training.data.latents import LatentDataset
from lumina.training.weights.start import initial_model
from pipelines.config import PipelineConfig
from pipelines.engine.store.run_record import RunRecord, StageEntry
from pipelines.engine.store.store import Store
from pipelines.engine.store.sweep_record import ArmRun, SweepRecord
from pipelines.sweep.arms import read_sweep
from pipelines.sweep.processes import end_with_parent
from tests.lumina.training import toy

ROOT = Path(command.__file__).parent


def _estimate(value: float, spread: float = 0.01, units: int = 60) -> Estimate:
    """Draws that are normal to the last quantile, the same for every figure."""
    steps = (np.arange(2000) + 0.5) / 2000
    return Estimate(value, value + spread * np.sqrt(2) * _erfinv(2 * steps - 1), units)


def _erfinv(x: np.ndarray) -> np.ndarray:
    from scipy.special import erfinv

    return np.asarray(erfinv(x))


def _part(*values: float, spread: float = 0.01) -> Part:
    return Part("this", tuple(_estimate(value, spread) for value in values))


def test_the_rule() -> None:
    good, bad, unsure = _part(0.1, 0.11, 0.1), _part(-0.1, -0.11, -0.1), _part(0.1, -0.05, 0.02)
    assert judge([good, good]).verdict == "shown"
    assert judge([bad, good]).verdict == "opposite"
    assert judge([good, bad]).verdict == judge([good, unsure]).verdict == judge([unsure]).verdict == "not shown"
    said = judge([good, bad, unsure]).sentence
    assert said.startswith("Not shown, with 3 seeds: this is +0.103 [+0.0")
    assert said.count("(the other way)") == said.count("(undecided)") == 1
    with pytest.raises(ValueError, match="needs a part"):
        judge([])


def test_seeds_widen_the_interval_as_student_has_it() -> None:
    # Without any noise of clips only the seeds are left.
    found = over_seeds([Estimate(value, np.full(100, value), 60) for value in (1.0, 2.0, 3.0)], 0.95)
    reach = float(stdtrit(2, 0.975)) / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((2, 2 - reach, 2 + reach))
    # With both, the distances are added in squares.
    alone = over_seeds([_estimate(2.0, 0.5)], 0.95)
    both = over_seeds([_estimate(value, 0.5) for value in (1.0, 2.0, 3.0)], 0.95)
    assert both.value - both.low == pytest.approx(math.hypot(alone.value - alone.low, reach))
    assert "one seed, so other seeds are in no interval" in judge([_part(0.1)]).sentence


def test_what_is_counted_has_no_interval() -> None:
    counted = Part("that", (_estimate(0.5), _estimate(-0.5), _estimate(0.5)), exact=True)
    found = judge([counted, _part(0.1, 0.1, 0.1)])
    assert found.verdict == "shown"
    assert found.parts[0][1].low == found.parts[0][1].high == pytest.approx(1 / 6)
    assert "that is +0.167; this is +0.100 [" in found.sentence


def _losses(*parting: int) -> np.ndarray:
    """Of 12 clips: coarse scales lose from a bin on, by half of the finest's loss."""
    rng = np.random.default_rng(0)
    finest = 1 + 0.1 * rng.random((12, 1)) + np.zeros((12, len(TIMES)))
    late = [1 + 0.5 * (np.arange(len(TIMES)) >= start) for start in parting]
    return np.stack([finest, *(finest * one for one in late)])


def test_where_scales_part() -> None:
    found = excess([f"clip{index}" for index in range(12)], _losses(10, 20, 0))
    (growth, parting), (none, never), (flat, always) = found
    assert growth.value == pytest.approx(math.log(1.5))
    assert (parting.value, never.value, always.value) == (0.5, 1.0, 0.0)
    assert none.value == flat.value == pytest.approx(0, abs=1e-9)
    assert np.ptp(parting.draws) == 0


def test_many_curves_part_as_each_alone_does() -> None:
    finest, coarse = (np.random.default_rng(seed).random((50, len(TIMES))) + 1 for seed in (1, 2))
    coarse[0], coarse[1] = finest[0], 3 * finest[1]
    alone = [crossing(dict(enumerate(a)), dict(enumerate(b))) for a, b in zip(finest, coarse, strict=True)]
    assert list(partings(finest, coarse)) == [1.0 if t is None else t for t in alone]
    assert alone[:2] == [None, 0.0]


def _seed_of_losses(middle: int, coarsest: int) -> Losses:
    losses = _losses(middle, coarsest)
    clips = [f"clip{index}" for index in range(12)]
    return Losses(("1x2x2", "2x2x2", "1x4x4"), losses.mean(1), excess(clips, losses))


def _shown_by_scale() -> Claim:
    return by_scale([_seed_of_losses(14, 4), _seed_of_losses(13, 4), _seed_of_losses(14, 5)])


def test_claim_a_needs_the_coarsest_to_part_first() -> None:
    seed, claim = _seed_of_losses, _shown_by_scale()
    assert claim.judged.verdict == "shown"
    assert [cell.text for cell in claim.rows[0][1:]] == ["0.683", "0.217"]
    page = claim_page(claim)
    assert "parts than 2x2x2" in page
    assert page.count("<polyline") == 6
    assert page.count('class="lost') == 2
    assert "2x2x2, parts at 0.683 [" in page
    # Where a scale never parts, no line says that it does.
    never = claim_page(by_scale([seed(20, 5)]))
    assert "2x2x2, never parts<" in never
    assert never.count('class="lost') == 1
    assert by_scale([seed(4, 14), seed(5, 14)]).judged.verdict == "not shown"
    assert by_scale([seed(20, 20)] * 2).judged.verdict == "not shown"


def _studied(figures: dict[str, dict[str, float]], cost: dict[str, float]) -> Studied:
    content: dict[str, Any] = {
        "order": list(figures),
        "figures": ["score", "shapes/speed_rank_corr"],
        "meaning": {"score": "mean of shares"},
        "arms": {arm: {"cost": {"relative": cost.get(arm, 1.0)}, "seconds_per_clip": 0.5} for arm in figures},
    }
    found = {arm: {name: _estimate(value) for name, value in one.items()} for arm, one in figures.items()}
    return Studied(found, content)


def test_claim_b_compares_the_combined_schedule_with_the_finest_scale() -> None:
    cost = {"1x2x2": 1.0, "2x2x2": 0.5, "1x4x4": 0.25, "combined": 0.6}

    def seed(combined: float, coarsest: float = 0.4) -> Studied:
        scores = {"1x2x2": 0.8, "2x2x2": 0.7, "1x4x4": coarsest, "combined": combined}
        return _studied({arm: {"score": score} for arm, score in scores.items()}, cost)

    assert by_cost([seed(0.79), seed(0.8), seed(0.81)]).judged.verdict == "shown"
    assert by_cost([seed(0.75), seed(0.74), seed(0.76)]).judged.verdict == "not shown"
    assert by_cost([seed(0.5), seed(0.51), seed(0.5)]).judged.verdict == "opposite"
    assert by_cost([seed(0.79, 0.8), seed(0.8, 0.8)]).judged.verdict == "not shown"
    claim, alone = by_cost([seed(0.79), seed(0.8)]), by_cost([seed(0.79)])
    assert "saves is +0.400" in claim.judged.sentence
    page = claim_page(claim, [claim, _shown_by_scale()])
    assert "0.600" in page
    # What is counted is a dot without a line; the pages beside this one are linked.
    assert page.count('class="dot"') == 3
    assert page.count('class="span"') == 2
    assert '<b>b: not shown</b><a href="a.html">a: shown</a>' in page
    # Of several seeds each has its value below the interval; of one it is the figure itself.
    assert claim.rows[-1][-1].note.endswith("]\n0.790, 0.800")
    assert alone.rows[-1][-1].note.endswith("]")
    # The interval of each arm is a line at its cost, and its value a dot on it.
    for line in claim.charts[0].lines:
        assert [x for x, _ in (*line.points, *line.dots)] == [cost[line.name]] * 3
        assert line.points[0][1] < line.dots[0][1] < line.points[1][1]


def test_claim_c_weighs_the_difference_of_scores_against_their_level() -> None:
    def seed(level: float, apart: float) -> Studied:
        speeds = {"4/4": 0.1, "8/8": 0.1 + level, "4/2": 0.1 + apart, "8/2": 0.1 + level + apart}
        speeds |= dict.fromkeys(SCHEDULED, 0.1)
        return _studied({arm: {"measured speed": speed, "score": 0.7} for arm, speed in speeds.items()}, {})

    claim = by_motion([seed(0.02, 0.1), seed(0.02, 0.101)])
    assert claim.judged.verdict == "shown"
    assert claim.notes[0].startswith("Twice the level of both scores adds +0.020")
    assert by_motion([seed(0.1, 0.02), seed(0.1, 0.021)]).judged.verdict == "opposite"
    assert set(claim.columns[1:]) == {*EQUAL, *UNEQUAL, *SCHEDULED}
    assert claim.forest is not None
    assert [row.name for row in claim.forest[1].rows] == list(claim.columns[1:])
    assert "<h2>Measured speed by positive/negative score" in claim_page(claim)


def test_claim_d_has_all_of_its_parts() -> None:
    def seed(planted: float, lift: float, found: str = "synthetic", before: float = 0.6, at: int = 0) -> Sourced:
        scores = {name: _estimate(value) for name, value in (("synthetic", planted), ("handheld", 0.5), ("web", 0.4))}
        return Sourced(at, scores, (found,), (found, "web"), _estimate(before), _estimate(before + lift))

    base = [seed(0.8, 0.1), seed(0.799, 0.101, at=1)]
    shares = {
        NONE: [seed(0.5, 0, before=0.4), seed(0.5, 0, before=0.401, at=1)],
        MORE: [seed(0.8, 0, before=0.7), seed(0.8, 0, before=0.7, at=1)],
    }
    claim = by_source({BASE: base, **shares, DEMO: []})
    assert claim.judged.verdict == "shown"
    assert len(claim.judged.parts) == 5
    assert claim.forest is not None
    assert len(claim.forest[1].rows) == len(claim.rows) == 7
    # One run of the shares is not there: the seed that has both is compared, and without any nothing is said.
    some = by_source({BASE: base, NONE: shares[NONE], MORE: shares[MORE][1:], DEMO: []})
    assert some.judged.parts[-1][1].value == pytest.approx(0.7 - 0.401)
    assert len(by_source({BASE: base, NONE: shares[NONE][:1], MORE: shares[MORE][1:], DEMO: []}).judged.parts) == 4
    alone = by_source({BASE: base, NONE: [], MORE: [], DEMO: []})
    assert len(alone.judged.parts) == 4
    assert "nothing is said of them" in " ".join(alone.notes)
    missed = by_source({BASE: [seed(0.8, 0.1, "web"), seed(0.8, 0.1)], **shares, DEMO: []})
    assert missed.judged.verdict == "not shown"
    assert "by seed: web; synthetic. The planted one, synthetic, by 1 of 2 seeds." in missed.notes[0]
    assert by_source({BASE: [seed(0.3, 0.1)] * 2, **shares, DEMO: []}).judged.verdict == "opposite"
    # Runs of the demo take the place of the sweep's, whose share of synthetic clips is told beside the two others.
    demo = by_source({BASE: [seed(0.3, 0)] * 2, **shares, DEMO: [seed(0.8, 0.1, at=at) for at in (20, 21, 22)]})
    assert demo.judged.verdict == "shown"
    assert demo.judged.sentence.startswith(
        "Shown, with 3 seeds: score under synthetic less that under handheld is +0.3"
    )
    assert demo.judged.parts[-1] == claim.judged.parts[-1]
    assert len(demo.rows) == 8
    assert "on rendered clips by 3 runs of the demo, each on other clips" in claim_page(demo)
    assert "on rendered clips by 2 seeds of training" in claim_page(claim)


def _demo(work: Path, seed: int, ok: bool) -> None:
    """The record of a run in a store of `demo_seeds.py`."""
    stages = {"evaluate_final": StageEntry(fingerprint=None, digest=None)}
    record = RunRecord(run=f"run-{seed}", name="demo", started="2026-11-29T00:00:00+00:00", stages=stages, ok=ok)
    Store(work / f"seed-{seed}").put_run(record)


def test_runs_of_the_demo_are_read_by_seed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no store seed-N: fill it by benchmarks/demo_seeds.py --work"):
        read_demos(tmp_path)
    for seed in (21, 3):
        _demo(tmp_path, seed, ok=True)
    found = [(run.arm, run.seed, run.side.run) for run in read_demos(tmp_path)]
    assert found == [(DEMO, 3, "run-3"), (DEMO, 21, "run-21")]
    _demo(tmp_path, 22, ok=False)
    with pytest.raises(ValueError, match=r"seed-22: no run of the demo has ended"):
        read_demos(tmp_path)


def test_losses_are_of_held_out_clips_and_the_same_each_time(tmp_path: Path) -> None:
    latents, text = toy.write(tmp_path / "data", videos=6, images=2)
    path = latents / "data" / "part-0.parquet"
    table = pq.read_table(path)
    split = ["heldout" if number % 2 else "train" for number in range(len(table))]
    pq.write_table(table.set_column(table.column_names.index("split"), "split", [split]), path)
    config, data = toy.stage(initialisation="conditioned"), LatentDataset([latents], text)
    save_model(initial_model(config, None), tmp_path / "model")
    clips, found = held_out_losses(config, tmp_path / "model", data)
    assert set(clips) == {clip.clip_id for clip in data.heldout if clip.media == "video"}
    assert found.shape == (len(config.model.patch_sizes), len(clips), len(TIMES))
    assert (found > 0).all()
    assert (held_out_losses(config, tmp_path / "model", data)[1] == found).all()


def test_the_config_and_its_arms_load_and_share_curation_and_the_studies_are_of_one_arm() -> None:
    sweep = read_sweep(str(ROOT / "claims.yaml"), command.TINY, ROOT / "shares.yaml", (0, 1, 2), command.SWEEP)
    assert [arm.name for arm in sweep.arms] == [BASE, NONE, MORE]
    for run in sweep.runs:
        settings = run.settings
        assert isinstance(settings, PipelineConfig)
        assert set(settings.study) == ({"schedules", "motion"} if run.arm == BASE else set())
        weights = {str(task.source_weights) for task in settings.train["1"].tasks}
        assert weights == {{BASE: "None", NONE: "{'synthetic': 0.0}", MORE: "{'synthetic': 4.0}"}[run.arm]}
        assert settings.train["1"].seed == settings.finetune.seed == run.seed


def test_the_sweep_is_waited_for_at_an_interrupt_and_stops_if_the_command_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    class Sweep:
        codes = iter([KeyboardInterrupt, 130])

        def __init__(self, words: list[str], preexec_fn: Any) -> None:
            asked.append((words, preexec_fn.func))

        def wait(self) -> int:
            code = next(self.codes)
            if isinstance(code, int):
                return code
            raise code

    monkeypatch.setattr(command.subprocess, "Popen", Sweep)
    assert command.run(["lumina", "sweep"]) == 130
    assert asked == [(["lumina", "sweep"], end_with_parent().func)]


def test_without_a_run_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    run = ArmRun(arm=BASE, seed=0, name="claims.base.s0", state="failed", error="no")
    SweepRecord(name="claims", config="claims.yaml", command="lumina", started="2026-11-29T00:00:00", runs=(run,)).put(
        store.objects
    )
    assert command.main(["--store", str(tmp_path), "--pages"]) == 1
    assert capsys.readouterr().err == "no run of the arm 'as they come' is done yet: nothing can be said\n"
