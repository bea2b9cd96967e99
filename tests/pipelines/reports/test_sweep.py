"""Arms are compared over prompts and seeds at once; what seeds alone explain is not called a difference."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.engine.runner import run
from pipelines.engine.store.gc import Policy, find_garbage
from pipelines.engine.store.store import Store
from pipelines.engine.store.sweep_record import ArmRun, SweepRecord
from pipelines.reports.page.sweep import sweep_page
from pipelines.reports.sweep import compare_arms
from pipelines.reports.sweep_words import answer, comparison_view, noise_text
from pipelines.terminal import make_console
from tests.pipelines.reports.page.toy_run import SHAPE
from tests.pipelines.reports.swept import swept, toy
from tests.pipelines.toy import EXECUTE, diamond, identifier


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, SweepRecord]:
    store = Store(tmp_path_factory.mktemp("swept"))
    record = swept(store, {"clean": (0.97, 0.95), "no web": (0.9, 0.93), "all": (0.2, 0.25)}, failed=("broken",))
    return store, replace(record, comparison=compare_arms(store, record))


def printed(record: SweepRecord) -> str:
    console = make_console()
    console.file, console.width = io.StringIO(), 200
    console.print(comparison_view(record))
    return console.file.getvalue()


def test_arms_are_ranked_with_intervals_over_prompts_and_seeds(compared: tuple[Store, SweepRecord]) -> None:
    _, record = compared
    found = record.comparison
    assert found is not None
    best, second, third = found["arms"]
    assert [one["arm"] for one in found["arms"]] == ["clean", "no web", "all"]
    assert (second["worse"], third["worse"]) == (False, True)
    assert (found["noise"]["freedom"], found["pairs"], best["runs"]) == (3, 3, 2)
    for one in (second, third):
        wide, narrow = one["below_best"], one["below_best_prompts"]
        assert wide["low"] < narrow["low"] < wide["value"] < narrow["high"] < wide["high"]
    mean = sum(one["score"]["value"] for one in found["runs"] if one["arm"] == "all") / 2
    assert third["score"]["value"] == pytest.approx(mean)
    assert [found["metrics"][SHAPE]["arms"][arm]["differs"] for arm in ("clean", "no web", "all")] == [
        False, False, True
    ]  # fmt: skip
    text = printed(record)
    assert (
        f"clean scores highest: {best['score']['value']:.3f}; 1 of 2 other arms significantly worse; 1 run failed"
        in text
    )
    assert "cannot be told apart" in text
    assert "lie up to 0." in text


def test_what_seeds_explain_is_no_difference(tmp_path: Path) -> None:
    store = Store(tmp_path)
    noisy = swept(store, {"a": (0.97, 0.5), "b": (0.2, 0.6)})
    found = compare_arms(store, noisy)
    assert found is not None
    other = found["arms"][1]
    assert other["below_best_prompts"]["low"] > 0
    assert not other["worse"]
    record = replace(noisy, comparison=found)
    assert "within the noise of seeds" in printed(record)
    assert "but no other arm can be told apart" in answer(record)
    # The same with one seed each: nothing is known of it, and that is said.
    single = replace(noisy, runs=tuple(replace(one, seed=None) for one in noisy.runs if one.seed == 0))
    alone = compare_arms(store, single)
    assert alone is not None
    assert alone["noise"] is None
    assert alone["arms"][1]["worse"]
    assert "--seeds 0,1 measures it" in noise_text(alone)


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = swept(store, {"a": (0.9,)})
    assert compare_arms(store, replace(record, runs=())) is None
    assert compare_arms(store, record)["arms"][0]["below_best"] is None
    ids = {
        "fewer": run(toy(0.5, prompts=12), store, EXECUTE, name="fewer", identifier=identifier()).run_id,
        "until": run(toy(0.4), store, EXECUTE, name="until", until="train@1", identifier=identifier()).run_id,
    }
    for name, said in (("fewer", "judged on different prompts"), ("until", "only some of the runs were evaluated")):
        other = ArmRun(arm=name, name=name, state="done", run=ids[name])
        both = replace(record, runs=(*record.runs, other))
        both = replace(both, comparison=compare_arms(store, both))
        assert said in both.comparison["problem"]
        assert said in sweep_page(both, "/store")
        assert answer(both) == "2 of 2 runs done, not compared"


def test_the_page_has_all_of_it_and_nothing_else(compared: tuple[Store, SweepRecord]) -> None:
    store, record = compared
    page = sweep_page(record, "/store")
    assert f"<h1>{answer(record)}</h1>" in page
    assert "computations, in place of 60 without sharing" in page
    assert "train@1: &lt;b&gt;no&lt;/b&gt; luck" in page
    assert "for all 3 pairs of arms at once" in page
    assert page.count("lumina report") == 6
    assert "://" not in page
    # The record is all that it is made from.
    record.put(store.objects)
    assert sweep_page(SweepRecord.load(store.objects, "toy"), "/store") == page


def test_runs_of_a_sweep_are_no_garbage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    # The name is taken by another run, which lets the old one go.
    for number, text in enumerate("xy"):
        assert run(diamond(d=text), store, EXECUTE, name="toy.a", run_id=f"r{number}", identifier=identifier()).ok
    assert find_garbage(store, Policy()).dropped_runs == ("r0",)
    old = ArmRun(arm="a", name="toy.a", state="done", run="r0")
    SweepRecord(name="toy", config="demo", command="c", started="now", runs=(old,)).put(store.objects)
    assert find_garbage(store, Policy()).dropped_runs == ()
