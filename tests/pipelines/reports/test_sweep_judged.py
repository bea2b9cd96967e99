"""Arms without clips of their own are compared too: by sounds, and by what their selections keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.selection import SelectConfig
from jobs.context import JobContext, JobResult
from jobs.evaluate_sound import SCHEMA
from lumina.config import Config
from lumina.evaluation.selection import METRICS_FILE
from pipelines.engine.runner import run
from pipelines.engine.stage import Pipeline, Stage
from pipelines.engine.store.store import Store
from pipelines.engine.store.sweep_record import ArmRun, SweepRecord
from pipelines.reports.page.sweep import sweep_page
from pipelines.reports.sweep import compare_arms
from pipelines.reports.sweep_selection import judge_selection
from pipelines.reports.sweep_words import answer, noise_text
from tests.pipelines.curated import Curated, make_clips
from tests.pipelines.toy import EXECUTE, identifier


def _record(runs: Mapping[str, str]) -> SweepRecord:
    arms = tuple(ArmRun(arm=arm, name=run, state="done", run=run) for arm, run in runs.items())
    return SweepRecord(name="s", config="demo", command="lumina sweep demo", started="now", runs=arms)


def _compared(store: Store, runs: Mapping[str, str]) -> tuple[SweepRecord, dict[str, Any]]:
    record = _record(runs)
    found = compare_arms(store, record)
    assert found is not None
    return replace(record, comparison=found), found


class SoundsConfig(Config):
    """How many of two events are met, in two clips of three."""

    hits: int
    clips: int = 12


def evaluate(ctx: JobContext) -> JobResult:
    """Rows of two conditions; without anything given, nothing is met."""
    config: SoundsConfig = ctx.config
    content = {"schema": SCHEMA, "seed": 1, "resamples": 500, "confidence": 0.95, "meaning": {"class_acc_all": "share"}}
    (ctx.out / METRICS_FILE).write_text(json.dumps(content))
    rows = []
    for number in range(config.clips):
        for condition in ("given", "nothing"):
            hits = 0 if condition == "nothing" else config.hits if number % 3 else 1
            counts = {f"{seen}{name}": 2 for seen in ("", "seen_") for name in ("events", "onsets")}
            rows.append(
                {"clip_id": f"{number:032x}", "condition": condition, **counts, "hits": hits, "seen_hits": hits,
                 "class_hits": hits, "av_align": 0.5, "av_align_excess": hits / 10, "mel_l1": 1.0,
                 "mel_recon_snr": 1.0, "rms_dbfs": -20.0}
            )  # fmt: skip
    (ctx.out / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), ctx.out / "data" / "rows.parquet")
    return JobResult("rows", f"rows256-add/1:{len(rows)}:{config.hits:064x}")


def _sounding(store: Store, name: str, config: SoundsConfig) -> str:
    # The last stage counts.
    stages = tuple(
        Stage(f"evaluate@{at}", f"{__name__}:evaluate", one) for at, one in enumerate((SoundsConfig(hits=0), config))
    )
    done = run(Pipeline("sound", stages), store, EXECUTE, name=name, identifier=identifier())
    assert done.ok
    return done.run_id


def test_arms_are_compared_by_the_sounds_of_the_same_clips(tmp_path: Path) -> None:
    store = Store(tmp_path)
    runs = {f"hits {hits}": _sounding(store, f"h{hits}", SoundsConfig(hits=hits)) for hits in (0, 2)}
    record, found = _compared(store, runs)
    assert (found["kind"], found["stage"], found["units"]) == ("sounds", "evaluate@1", 12)
    assert found["score"] == {"onset_f1_50ms": 1.0}
    assert [one["arm"] for one in found["arms"]] == ["hits 2", "hits 0"]
    assert found["arms"][0]["score"]["value"] == pytest.approx(10 / 12, abs=1e-6)
    assert found["arms"][1]["worse"]
    figures = {name: one["arms"]["hits 0"] for name, one in found["metrics"].items()}
    assert list(figures) == ["onset_f1_50ms", "class_acc_all", "av_align_v2025_excess", "av_align_v2025"]
    assert [one["differs"] for one in figures.values()] == [True, True, True, False]
    assert figures["class_acc_all"]["low"] < figures["class_acc_all"]["value"] < figures["class_acc_all"]["high"]
    page = sweep_page(record, "/store")
    assert "<h1>hits 2 scores highest: 0.833; 1 of 1 other arm significantly worse</h1>" in page
    assert "Score, 12 clips" in page
    assert "intervals are of clips alone" in noise_text(found)
    runs["fewer"] = _sounding(store, "fewer", SoundsConfig(hits=2, clips=9))
    assert "different held-out clips" in _compared(store, runs)[1]["problem"]


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("selection")
    made = Curated(root / "store", make_clips(root / "media"))
    made.run("strict", SelectConfig(min_fps=8, min_caption_chars=3))
    made.run("loose", SelectConfig(min_caption_chars=6))
    made.run("the same", SelectConfig(min_caption_chars=6))
    return made.store


def test_arms_are_compared_by_what_their_selections_keep(curated: Store) -> None:
    record, found = _compared(curated, {"strict": "strict", "loose": "loose", "again": "the same"})
    assert (found["kind"], found["units"], found["pairs"]) == ("selection", 10, 3)
    figures = {name: {arm: own["value"] for arm, own in one["arms"].items()} for name, one in found["metrics"].items()}
    kept = figures["clips kept"]
    assert kept["loose"] == kept["again"] == kept["strict"] + 2
    assert found["arms"][0]["score"]["value"] == kept[found["arms"][0]["arm"]] / 10
    assert figures["hours kept"]["loose"] > figures["hours kept"]["strict"] > 0
    assert {arm: figures["removed by min_fps"][arm] for arm in ("strict", "loose")} == {"strict": 0.2, "loose": 0}
    for arm in kept:
        removed = sum(own[arm] for name, own in figures.items() if name.startswith("removed by "))
        assert removed + kept[arm] / 10 == pytest.approx(1)
    equal = next(one for one in found["arms"] if one["arm"] in ("loose", "again") and one["below_best"])
    assert (equal["below_best"]["value"], equal["worse"]) == (0, False)
    said = answer(record)
    assert said.partition(" ")[0] in ("again", "loose")
    assert "keeps most: 0." in said
    page = sweep_page(record, "/store")
    assert "Share of clips kept, 10 clips" in page
    assert "for other clips of the same sources" in page
    assert "Score" not in page
    assert "seed" not in page.partition("<body")[2]
    assert f"{kept['loose']:.0f} <small>[" in page
    assert all(one["low"] >= 0 for one in found["metrics"]["hours kept"]["arms"].values())


def test_the_draws_of_a_selection_are_those_of_a_bootstrap(curated: Store) -> None:
    judged = judge_selection(curated, _record({"a": "strict", "b": "loose", "c": "the same"}).runs)
    assert not isinstance(judged, str)
    first, second, third = (one["score"] for one in judged.figures)
    for one in (first, second):
        assert one.draws.mean() == pytest.approx(one.value, abs=0.01)
        assert one.draws.std() == pytest.approx((one.value * (1 - one.value) / 10) ** 0.5, rel=0.03)
    # The clips that two keep are the same ones.
    apart = second.value - first.value
    assert (second.draws - first.draws).std() == pytest.approx((apart * (1 - apart) / 10) ** 0.5, rel=0.03)
    assert (second.draws == third.draws).all()


def test_one_selection_for_all_is_no_comparison(curated: Store) -> None:
    assert _compared(curated, {"b": "loose", "c": "the same"})[1] == {"problem": "no run was evaluated"}
