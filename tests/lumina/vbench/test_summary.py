"""From scores of clips to the report: gaps, notes, prefixes, and the log that they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.vbench.clip_score import ClipScore
from lumina.vbench.dimensions import DIMENSIONS
from lumina.vbench.judges import Verdict
from lumina.vbench.score_store import Scored, ScoreStore
from lumina.vbench.suite_config import By
from lumina.vbench.summary import DimensionScores, Summary, percent, summarise


def _scored(clip: str, total: float | None = 0.5, static: bool | None = None, dimension: str = "color") -> Scored:
    verdict = (
        Verdict(None, "two frames, the clip has 1") if total is None else Verdict(ClipScore(total, 1), None, static)
    )
    return Scored(clip, f"digest of {clip}", dimension, "key", verdict)


def _summary(scores: dict[str, DimensionScores]) -> Summary:
    strata = {f"p{number}": "" for number in range(100)}
    return summarise(scores, strata, samples=3, confidence=0.95, seed=0, resamples=300)


def _of(*scored: Scored, by: By = "native", expected: int | None = None) -> DimensionScores:
    return DimensionScores(by, scored, len(scored) if expected is None else expected, {})


def test_a_clip_that_failed_is_counted_and_there_is_no_mean_without_it() -> None:
    [found] = _summary({"color": _of(_scored("p1-0.mp4"), _scored("p2-0.mp4", None))}).dimensions
    assert (found.interval, found.failed) == (None, 1)
    assert found.gap == "1 of 2 clips cannot be scored; p2-0.mp4: two frames, the clip has 1"


def test_a_dimension_that_no_prompt_asks_for_is_named_and_so_is_official_code_that_failed() -> None:
    summary = _summary({"color": _of(expected=0), "scene": DimensionScores("official", [], 3, {}, None, "it crashed")})
    assert [one.gap for one in summary.dimensions] == ["no prompt of the file asks for it", "it crashed"]
    assert summary.failed == 1


def test_a_missing_clip_is_a_gap() -> None:
    [found] = _summary({"color": _of(_scored("p1-0.mp4"), expected=3)}).dimensions
    assert found.gap == "2 of 3 clips are missing"


def test_the_static_filter_keeps_the_first_samples_of_each_prompt() -> None:
    scored = [
        _scored(f"p{prompt}-{index}.mp4", 1.0 if index in (0, 1, 10) else 0.0, True, "temporal_flickering")
        for prompt in (1, 2)
        for index in range(12)
    ]
    [found] = _summary({"temporal_flickering": _of(*scored)}).dimensions
    assert found.interval is not None
    assert (found.interval.value, found.clips) == (1.0, 6)
    assert found.note == "3 clips a prompt, officially 5; the static filter kept 6 of 24 clips"
    moving = [_scored("p1-0.mp4", 1.0, False, "temporal_flickering")]
    [found] = _summary({"temporal_flickering": _of(*moving)}).dimensions
    assert found.gap == "the static filter lets no clip through"
    unfiltered = [_scored("p1-0.mp4", 1.0, None, "temporal_flickering")]
    [found] = _summary({"temporal_flickering": _of(*unfiltered)}).dimensions
    assert str(found.note).endswith("without the static filter")


def test_names_say_who_computed_a_figure_and_totals_are_as_weak_as_their_weakest_part() -> None:
    def every(by: dict[str, By], without: str = "") -> Summary:
        return _summary(
            {
                name: _of(
                    *(_scored(f"p{n}-0.mp4", n % 3 / 2, dimension=name) for n in range(9)),
                    by=by.get(name, "official"),
                )
                for name in DIMENSIONS
                if name != without
            }
        )

    official = every({}).metrics()
    assert {"vbench/color", "vbench/quality", "vbench/total"} <= set(official)
    assert len(official) == 19
    mixed = every({"color": "native"}).metrics()
    assert {"vbench_native/color", "vbench/quality", "vbench_native/semantic", "vbench_native/total"} <= set(mixed)
    gap = every({}, "color")
    assert "vbench/total" not in gap.metrics()
    assert [one.gap for one in gap.totals] == [None, "without color", "without color"]


def test_figures_are_printed_as_the_paper_does() -> None:
    summary = _summary({"color": _of(*(_scored(f"p{n}-0.mp4", float(n < 3)) for n in range(4)))})
    assert percent(summary.metrics()["vbench_native/color"]).startswith("75.00 [")
    alone = _summary({"color": _of(_scored("p1-0.mp4"))})
    assert percent(alone.metrics()["vbench_native/color"]) == "50.00"


def test_scores_are_read_back_and_a_torn_line_is_dropped(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "scores.jsonl")
    assert store.read() == {}
    first, second = _scored("p1-0.mp4", 0.1 + 0.2, True), _scored("p2-0.mp4", None)
    store.add([first, second])
    with store.path.open("a") as file:
        file.write('{"clip": "p3-0')
    assert list(store.read()) == [("color", "key", f"p{n}-0.mp4", f"digest of p{n}-0.mp4") for n in (1, 2)]
    third = _scored("p3-0.mp4")
    store.add([third])
    assert list(store.read().values()) == [first, second, third]
    store.path.write_text('{"clip": "x"}\n')
    with pytest.raises(ValueError, match="no log of scores"):
        store.read()
