"""`lumina selection`: what each rule removed, and what another policy would."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from curation.selection import SelectConfig
from pipelines import cli
from pipelines.engine.store.run_record import RunRecord
from pipelines.errors import PipelineError
from pipelines.reports.selection import Difference, RuleCount, Selection, previous, read_difference, read_selection
from pipelines.reports.selection_tables import difference_view, selection_view
from tests.pipelines.curated import Curated, make_clips

SETS: dict[str, Any] = {"small": ("video",), "large": ("video",)}
FIRST = SelectConfig(min_fps=8, min_caption_chars=3)
SECOND = SelectConfig(
    min_fps=8, min_caption_chars=6, scores={"extra.beauty": {"min": 2}}, sources={"phone": {"min_fps": None}},
    sets={"large": {"min_area": 5000}}, encoded=SETS,
)  # fmt: skip


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    root = tmp_path_factory.mktemp("selection")
    made = Curated(root / "store", make_clips(root / "media"))
    made.run("r1", FIRST)
    made.run("r2", SECOND)
    made.run("r3", SECOND)
    made.run("r4", FIRST, name="another")
    return made


def _selection(curated: Curated, run: str) -> Selection:
    return read_selection(curated.store, curated.store.get_run(run))


@pytest.mark.parametrize("run", ["r1", "r2"])
def test_clips_are_the_sum_of_their_fates(curated: Curated, run: str) -> None:
    found = _selection(curated, run)
    assert found.clips == {"web": 5, "phone": 5}
    for source, clips in found.clips.items():
        first = sum(rule.first.get(source, 0) for rule in found.rules)
        assert clips == found.aside.get(source, 0) + first + found.kept.get(source, 0)
    for rule in found.rules:
        assert all(rule.first.get(source, 0) <= count for source, count in rule.failed.items())


def test_rules_are_counted_as_the_first_and_at_all_and_by_set(curated: Curated) -> None:
    found = _selection(curated, "r2")
    rules = {rule.rule: (rule.first, rule.failed) for rule in found.rules}
    assert rules == {
        "score:extra.beauty": ({"web": 1}, {"web": 1}),
        "min_area@large": ({}, {"phone": 1, "web": 1}),
    }
    assert found.aside == {"web": 3, "phone": 2}
    assert found.kept == {"web": 1, "phone": 3}
    assert found.kept_for == {"small": {"web": 1, "phone": 3}, "large": {"phone": 2}}
    assert _selection(curated, "r1").kept_for == {}


def test_two_policies_differ_in_settings_and_clips(curated: Curated) -> None:
    found = read_difference(curated.store, curated.store.get_run("r1"), curated.store.get_run("r2"))
    assert found.settings == {
        "min_caption_chars": (3, 6),
        "scores.extra.beauty.min": ("not given", 2.0),
        "sources.phone.min_fps": ("not given", None),
        "sets.large.min_area": ("not given", 5000),
    }
    [kept], [removed] = found.newly_kept, found.newly_removed
    assert (kept.rule, kept.clips) == ("min_fps", {"phone": 2})
    assert {(one.uri, one.detail) for one in kept.examples} == {
        ("clip4.mp4", "fps 4 below 8"), ("clip5.mp4", "fps 4 below 8")
    }  # fmt: skip
    assert (removed.rule, removed.clips) == ("score:extra.beauty", {"web": 1})
    assert removed.examples[0].detail == "extra.beauty 1 below 2"
    back = read_difference(curated.store, curated.store.get_run("r2"), curated.store.get_run("r1"))
    assert sum(sum(one.clips.values()) for one in back.newly_removed) == 2
    assert found.only_old == found.only_new == 0


def test_the_run_before_is_the_last_of_that_name_with_another_selection(curated: Curated) -> None:
    def before(run: str) -> str | None:
        found = previous(curated.store, curated.store.get_run(run))
        return found and found.run

    assert before("r3") == "r1"  # r2 is the same policy
    assert before("r2") == "r1"
    assert before("r1") is None
    assert before("r4") is None
    (curated.store.root / "runs" / "broken.json").write_text("{")
    assert before("r3") == "r1"


def test_a_run_without_a_selection_says_so(curated: Curated) -> None:
    with pytest.raises(PipelineError, match="stage select is not done"):
        read_selection(curated.store, RunRecord(run="r0", name="x", started="", stages={}))


def test_the_command_shows_and_compares(curated: Curated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(cli.app, ["selection", *arguments, "--store", str(curated.store.root)])
        assert done.exit_code == 0, done.output
        return done.output

    shown = call("r2")
    for text in ("min_area@large", "for large", "Compared with run r1", "select.sources.phone.min_fps", "off",
                 "Newly kept: 2 clips", "Newly removed: 1 clip", "extra.beauty 1 below 2"):  # fmt: skip
        assert text in shown
    assert "No earlier selection of folder" in call("r1")
    assert "Newly kept: 1 clip" in call("r1", "r3")
    content = json.loads(call("r2", "--json"))
    assert content["selection"]["kept"] == {"web": 1, "phone": 3}
    assert content["difference"]["newly_kept"][0]["clips"] == {"phone": 2}
    assert json.loads(call("r1", "--json"))["difference"] is None


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("sources", [0, 1, 2, 3, 30])
def test_a_table_fits_the_terminal_whatever_the_sources(width: int, sources: int) -> None:
    clips = {f"a_source_with_a_long_name_{n}": 100_000 * (n + 1) for n in range(sources)}
    rules = (RuleCount("score:extra.beauty@a_long_set", clips, clips),)
    found = Selection("r", "n", "t", "p", clips, {}, rules, clips, {"large": clips})
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(selection_view(found, width), difference_view(Difference(found, found, {}, (), (), 1, 2), width))
    shown = console.export_text()
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= width
    assert "…" not in shown
    assert f"{sum(clips.values()):,}" in shown
