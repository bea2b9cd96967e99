"""The page of a run holds its figures, says who is worse, and holds nothing that is not in the store."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape
from rich.console import Console
from typer.testing import CliRunner

from pipelines import cli
from pipelines.compare.runs import read_side
from pipelines.engine.stage import Pipeline
from pipelines.engine.store.open_store import open_store
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.errors import StoreError
from pipelines.reports.evaluations import as_dict, comparison_view, read_evaluations
from pipelines.reports.page import clips
from pipelines.reports.page.make import make_page
from tests.pipelines.engine.store.operations import fetched, on_disk
from tests.pipelines.reports.page.toy_run import SHAPE, TrainConfig, go, pipeline, stage

RATES = (("good", 0.9), ("nearly", 0.85), ("poor", 0.1))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, RunRecord]:
    store, record = go(pipeline(*RATES), tmp_path_factory.mktemp("page"))
    assert record.ok
    return store, record


def _section(page: str, name: str) -> str:
    return re.sub(r"\s+", " ", page.partition(f'<h2 id="{name}">')[2].partition("<h2 ")[0])


def test_the_page_says_who_is_worse_and_by_how_much(made: tuple[Store, RunRecord]) -> None:
    store, record = made
    page = make_page(store, record)
    selection = json.loads((store.root / record.stages["choose"].path / "selection.json").read_text())
    assert selection["best_set"] == ["good", "nearly"]
    score = selection["table"][0]["score"]["value"]
    assert f"<h1>good scores highest: {score:.3f}; 1 of 2 others significantly worse</h1>" in page
    section = _section(page, "prompts")
    gap = next(row["below_best"] for row in selection["table"] if row["source"] == "poor")
    bounds = f"+{gap['value']:.3f} [+{gap['low']:.3f}, +{gap['high']:.3f}]"
    assert f"poor: {bounds}, significantly worse" in section
    assert re.search(r"nearly: [^\"]*cannot be told apart", section)
    shape = section[section.index(">shapes/shape_") : section.index(">shapes/colour_")]
    assert shape.count('class="differs"') == 1
    assert "≠ differs from good, by Holm's correction over these 6 comparisons" in section


def test_the_change_is_on_the_half_that_the_choice_has_not_seen(made: tuple[Store, RunRecord]) -> None:
    store, record = made
    section = _section(make_page(store, record), "final")
    measured = json.loads((store.root / record.stages["evaluate_final"].path / "metrics.json").read_text())
    assert f"+{measured['difference'][SHAPE]['value']:.3f}<span" in section
    assert "24 prompts of the reporting half, which the choice has not seen" in section


def test_a_choice_by_hand_or_by_scores_from_elsewhere_is_told(made: tuple[Store, RunRecord]) -> None:
    store, record = made
    path = store.root / record.stages["choose"].path / "selection.json"
    kept = path.read_text()
    selection = json.loads(kept)
    by_hand = {"decided_by": "hand", "sources": ["poor"], "chosen": "poor", "reason": "Chosen by hand: It is calm."}
    scores = {"standardised": {SHAPE: {}}, "scores": {"files": {"scores": "sha256:" + "3f" * 32}, "per_clip": False}}
    try:
        path.write_text(json.dumps(selection | by_hand))
        page = make_page(store, record)
        assert "<h1>poor chosen by hand; good scores highest: " in page
        assert "Chosen by hand: It is calm." in page
        assert "; it did not decide." in _section(page, "prompts")
        assert "How far below good" in page
        path.write_text(json.dumps(selection | scores | {"prompts": 0}))
        section = _section(make_page(store, record), "prompts")
        assert "one value a source, without error bars" in section
        assert (
            "each in standard deviations of its values over prompts and sources; scores from elsewhere (3f3f3f3f3f3f)"
            in section
        )
        assert ", without error bars</h1>" in make_page(store, record)
    finally:
        path.write_text(kept)


def test_what_follows_an_earlier_stage_has_sections_of_its_own(tmp_path: Path) -> None:
    first = pipeline(*RATES[:2], frames=2)
    names = {"choose": "choose@1", "finetune": "finetune@1", "evaluate_final": "evaluate_final@1"}
    names |= {f"evaluate@{name}": f"evaluate@1.{name}" for name, _ in RATES[:2]}
    renamed = [
        replace(
            one,
            name=names[one.name],
            inputs={key: names.get(upstream, upstream) for key, upstream in one.inputs.items()},
        )
        for one in first.stages
        if one.name in names
    ]
    store, record = go(Pipeline("toy", (*first.stages, *renamed)), tmp_path)
    page = make_page(store, record)
    assert page.count("<h2 id=") == len(re.findall(r'<h2 id="(\w+)">', page))
    for heading in ("System prompts side by side", "Before and after fine-tuning", "Motion control"):
        assert f">{heading}</h2>" in page
        assert f"<h2>{heading} after train@1</h2>" in page
    assert "<h3>System prompts after train@1 <small>" in page
    found = read_evaluations(read_side(store, record))
    last, earlier = found
    assert [one.title for one in last.sources] == [one.title for one in earlier.sources]
    assert [one.title for one in last.final] == [one.title for one in earlier.final]
    assert set(as_dict(found)["after"]["1"]) == {"sources", "final", "selection"}
    console = Console(width=150, record=True, file=StringIO())
    console.print(comparison_view(found))
    shown = console.export_text()
    assert "System prompts after train@1" in shown
    assert "Fine-tuned after train@1 on good" in shown


def test_motion_is_told_by_asked_speed(made: tuple[Store, RunRecord]) -> None:
    section = _section(make_page(*made), "motion")
    for asked in ("still (0), 8 clips", "slow (0.113), 8 clips", "fast (0.215), 8 clips"):
        assert f"asked: {asked}" in section
    told = "6; the negative side of guidance none, then as the positive side from t = 0.05"
    assert f"Motion score given to the model: {told}" in section


def test_clips_stand_next_to_those_of_the_same_prompt(made: tuple[Store, RunRecord]) -> None:
    section = _section(make_page(*made), "clips")
    assert "10 of 24 prompts of the reporting half" in section
    assert section.count("data:video/mp4;base64,") == 10 * 2 + 6 * 3
    # Every second, then every fourth of the sorted prompts, whatever their figures.
    assert [int(n) for n in re.findall(r"<p>A &lt;red&gt; square, number (\d+)\.</p>", section)] == [
        *range(0, 20, 2),
        *range(0, 24, 4),
    ]
    assert "wrong: shape" in section


def test_clips_that_are_too_large_are_left_out_and_it_is_said(
    made: tuple[Store, RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "MEDIA_BYTES", 10)
    section = _section(make_page(*made), "clips")
    assert "data:video" not in section
    assert "0 of 24 prompts" in section
    assert "The clips are too large for one page" in section


def test_a_clip_that_is_gone_is_named(tmp_path: Path) -> None:
    store, record = go(pipeline(*RATES[:2]), tmp_path)
    gone = store.root / record.stages["evaluate@good"].path / "videos/good/choose-00.mp4"
    gone.unlink()
    assert f"{gone} is gone" in make_page(store, record)


def test_a_page_from_a_bucket_is_that_of_a_copy_on_a_disk(s3_store: str, tmp_path: Path) -> None:
    cluster = open_store(s3_store, tmp_path / "cluster")
    _, record = go(pipeline(*RATES), cluster)
    laptop = open_store(s3_store, tmp_path / "laptop")
    disk = on_disk(cluster, tmp_path / "disk")
    page = make_page(laptop, laptop.get_run(record.run))
    place = str(escape(shlex.quote(s3_store)))
    assert f"lumina verify {record.run} --deep --store {place}" in page
    assert page.replace(place, "STORE") == make_page(disk, record).replace(str(disk.root), "STORE")
    found = fetched(laptop)
    clips_of = {stage: sum(path.startswith(f"{stage}/videos/") for path in found) for stage in record.stages}
    assert clips_of == {"evaluate_final": 20} | {f"evaluate@{name}": 6 for name, _ in RATES} | dict.fromkeys(
        ("train@1", "choose", "finetune"), 0
    )
    assert {path for path in found if "videos" not in path} == {
        "train@1/metrics.jsonl",
        "finetune/metrics.jsonl",
        "choose/selection.json",
        *(
            f"{stage}/{name}"
            for stage in clips_of
            for name in ("metrics.json", "data/clips.parquet")
            if clips_of[stage]
        ),
    }


def test_commands_for_a_bucket_are_such_as_it_can_be_given_to(s3_store: str, tmp_path: Path) -> None:
    stages = (
        stage("train@1", "train", TrainConfig()),
        stage("export", "train", TrainConfig(note="export"), init="train@1"),
    )
    store, record = go(Pipeline("toy", stages), open_store(s3_store, tmp_path / "cluster"))
    locked = replace(record, lock={"command": "lumina run demo"})
    section = _section(make_page(store, locked), "again")
    assert "lumina rerun" not in section
    place = f"{s3_store.partition('?')[0]}/{record.stages['export'].path}"
    assert f"a clip, once {place} is copied to the folder checkpoint" in section
    assert "lumina generate --checkpoint checkpoint --prompt" in section


def test_what_a_bucket_has_lost_is_named(s3_store: str, tmp_path: Path) -> None:
    store, record = go(pipeline(*RATES[:2]), open_store(s3_store, tmp_path / "cluster"))
    path = record.stages["evaluate@good"].path
    for file, message in (("videos/good/choose-00.mp4", "is gone"), ("metrics.json", "is not there")):
        store.objects.remove(f"{path}/{file}")
        laptop = open_store(s3_store, tmp_path / file.replace("/", "-"))
        lost = f"{store.objects.name(f'{path}/{file}')} {message}"
        if message == "is gone":
            assert lost in make_page(laptop, record)
        else:
            with pytest.raises(StoreError, match=re.escape(lost)):
                make_page(laptop, record)


def test_an_output_that_a_bucket_has_lost_is_said(s3_store: str, tmp_path: Path) -> None:
    store, record = go(pipeline(*RATES[:2]), open_store(s3_store, tmp_path / "cluster"), until="train@1")
    path = record.stages["train@1"].path
    for entry in store.objects.entries(path):
        store.objects.remove(entry.key)
    page = make_page(open_store(s3_store, tmp_path / "laptop"), record)
    assert f"{store.objects.name(path)} is gone" in page


def test_curves_and_figure_3(made: tuple[Store, RunRecord]) -> None:
    section = _section(make_page(*made), "curves")
    assert [*re.findall(r"<h3>(.*?)</h3>", section)] == ["train@1", "finetune"]
    assert section.count("</span>coarse".replace("</span>", "")) >= 2
    assert "coarse, loses from t = 0.5" in section
    assert section.count('class="point') == 2 * 2
    assert "nan" not in section.lower()


def test_stages_with_their_states_times_and_costs(made: tuple[Store, RunRecord]) -> None:
    store, record = made
    _, again = go(pipeline(*RATES), store.root)
    first, second = (_section(make_page(store, one), "stages") for one in (record, again))
    assert first.count('<g class="done">') == 7
    assert second.count('<g class="cached">') == 7
    # 200 steps of half a second at 2 GFLOP/s.
    assert "<td>200 G</td>" in first
    assert "computing in all" in first


def test_a_failed_stage_is_shown_with_its_error(tmp_path: Path) -> None:
    store, record = go(pipeline(*RATES[:2], end="fail"), tmp_path)
    page = make_page(store, record)
    assert "<h1>evaluate_final failed</h1>" in page
    assert '<g class="failed">' in page
    assert "the disk &lt;b&gt;melted&lt;/b&gt;" in page
    assert "Nothing has been fine-tuned and evaluated yet." in page


def test_a_run_that_was_cut_has_a_page(tmp_path: Path) -> None:
    store, record = go(pipeline(*RATES[:2]), tmp_path, until="train@1")
    page = make_page(store, record)
    assert "<h1>No system prompt has been chosen yet</h1>" in page
    assert "until train@1" in page
    assert "No clip has been generated yet." in page


def test_the_page_is_alone_small_and_always_the_same(made: tuple[Store, RunRecord]) -> None:
    page = make_page(*made)
    assert page == make_page(*made)
    assert len(page) < 10_000_000
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "<red>" not in page


def test_commands_are_those_that_the_run_recorded(made: tuple[Store, RunRecord]) -> None:
    store, record = made
    section = _section(make_page(store, record), "again")
    assert f"lumina verify {record.run} --deep --store {store.root}" in section
    assert "lumina rerun" not in section
    locked = replace(record, lock={"command": "lumina run demo -o 'name=<x>'"})
    section = _section(make_page(store, locked), "again")
    assert "lumina run demo -o &#39;name=&lt;x&gt;&#39;" in section
    assert f"lumina rerun {record.run}" in section


def test_damaged_outputs_are_one_clear_error(tmp_path: Path) -> None:
    store, record = go(pipeline(*RATES[:2]), tmp_path)
    path = store.root / record.stages["evaluate@good"].path / "metrics.json"
    path.write_text("{")
    with pytest.raises(StoreError, match=re.escape(str(path)) + " cannot be read"):
        make_page(store, record)


def test_compare_shows_the_same_figures(made: tuple[Store, RunRecord]) -> None:
    store, record = made

    def compare(*arguments: str) -> str:
        done = CliRunner().invoke(cli.app, ["compare", *arguments, "--store", str(store.root)])
        assert done.exit_code == (1 if "nobody" in arguments else 0)
        return done.output

    found = json.loads(compare(record.run, "--json"))
    shown = compare(record.run)
    score = found["sources"]["good"][SHAPE]
    figures = f"{score['value']:.3f}  [{score['low']:.3f}, {score['high']:.3f}]"
    for text in ("★ good", figures, found["selection"]["reason"][:60], "★ fine-tuned", "clips", "significantly worse"):
        assert text in shown
    assert (found["run"], [*found["final"]]) == (record.run, ["train@1", "fine-tuned"])
    assert "holds no run 'nobody'" in compare("nobody").replace("\n", "")


def test_the_command_writes_the_page(made: tuple[Store, RunRecord], tmp_path: Path) -> None:
    store, record = made

    def report(*arguments: str) -> Any:
        return CliRunner().invoke(cli.app, ["report", *arguments, "--store", str(store.root)])

    out = tmp_path / "page.html"
    done = report("toy", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert str(out) in done.output.replace("\n", "")
    assert report(record.run, "--out", str(out)).exit_code == 0
    assert out.read_text(encoding="utf-8") == make_page(store, record)
    nobody = report("nobody", "--out", str(out))
    assert nobody.exit_code == 1
    assert "holds no run 'nobody'" in nobody.output.replace("\n", "")
    nowhere = report("--out", str(tmp_path / "no" / "page.html"))
    assert nowhere.exit_code == 1
    assert "cannot be written: No such file or directory" in nowhere.output.replace("\n", " ")
