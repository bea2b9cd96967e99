"""Any text as caption, source, file name and detail: it is shown, and nothing of it is obeyed."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from markupsafe import escape
from rich.console import RenderableType
from typer.testing import CliRunner

from curation.control_characters import CONTROL, shown, shown_in_line
from curation.schema import Reason
from curation.selection import SelectConfig
from lumina.pages.page import render
from pipelines import cli
from pipelines.commands.status import status_view
from pipelines.reports.progress import RunDisplay
from pipelines.reports.quarantine import Count, Quarantine, SetAside, Source, quarantine_view, write_csv
from pipelines.reports.selection import Change, Example, RuleCount, Selection, SelectionDiff
from pipelines.reports.selection_tables import difference_view, selection_view
from pipelines.reports.status import begin
from pipelines.terminal import clean, make_console
from tests.curation.test_page import aside, clip, page
from tests.pipelines.curated import Curated, make_clips

NASTY = "[/INST] [red]=1+1[/] \x1b]0;x\x07 \x9b2J \u202egpj.\u2066 </script><img src=x> {{ 7*7 }}\r\nerror: none"
ANY = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20) | st.sampled_from(
    [NASTY, "=cmd|' /C calc'!A1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "[/]", "[link=http://x]y[/link]", ":smile:"]
)


def _printed(*shown: RenderableType) -> str:
    console = make_console()
    console.file, console.width = io.StringIO(), 10_000
    for one in shown:
        console.print(one, crop=False, soft_wrap=True)
    return console.file.getvalue()


def _tells(output: str, *texts: str) -> None:
    """Nothing is obeyed, and what can be seen of a text is there; tables cut blanks at the ends of cells."""
    assert not CONTROL.search(output.replace("\n", ""))
    for text in texts:
        assert shown_in_line(text).strip() in output


@example(NASTY, NASTY, NASTY, NASTY)
@given(ANY, ANY, ANY, ANY)
@settings(max_examples=60)
def test_tables_of_clips(uri: str, source: str, caption: str, detail: str) -> None:
    clips = tuple(
        SetAside(f"id{number}", path, source, caption, "quarantined", reason, "ingest", detail)
        for number, (path, reason) in enumerate(((uri, "missing_file"), ("", "unreadable_file")))
    )
    counts = tuple(Count(one.reason_stage, one.status, one.reason, 1, one, None) for one in clips)
    found = Quarantine("r1", "demo", "now", True, 3, 2, counts, (Source(source, 2, 3, 2 / 3),))
    _tells(_printed(quarantine_view(found)), uri, source, caption, detail)
    number = {source: 2}
    rule = RuleCount(f"score:{source}", number, number)
    one = Selection("r1", "demo", "now", "p", number, {}, (rule,), {}, {})
    examples = [Example("id", uri, source, detail)]
    change = Change("min_fps", number, examples)
    difference = SelectionDiff(one, one, {"min_fps": (detail, None)}, (change,), (), 0, 0)
    _tells(_printed(selection_view(one, 200)), source.split()[0] if source.split() else "")
    _tells(_printed(difference_view(difference, 200)), uri, source, detail)


@example(NASTY)
@given(ANY)
@settings(max_examples=40)
def test_the_state_of_a_run(text: str) -> None:
    run = begin("r1", text, ["a", "b"], {"a": [], "b": ["a"]}, f"lumina run {text}")
    run.stages["a"].enter("failed", text, time.time())
    run.notes, run.links, run.host = [text], {"Ray": text}, text
    _tells(_printed(status_view(run)))
    console = make_console()
    console.file = io.StringIO()
    with RunDisplay(console, ["a"]) as display:
        display.stage("a", "failed", text)
        display.note(text)
    _tells(console.file.getvalue())


@example(NASTY)
@given(ANY)
@settings(max_examples=60)
def test_no_cell_of_a_csv_is_a_formula(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "aside.csv"
    write_csv([SetAside("id", text, text, text, "quarantined", "missing_file", "ingest", text)], path)
    with path.open(newline="", encoding="utf-8") as file:
        [row] = csv.DictReader(file)
    assert not CONTROL.search("".join(row.values()).replace("\n", "").replace("\t", ""))
    assert not any(value[:1] in tuple("=+-@\t\r\n＝＋－＠") for value in row.values())
    assert shown_in_line(text) in shown_in_line(row["caption"])


@example([NASTY, "[/]", ":smile:", "'"])
@given(st.lists(ANY, min_size=4, max_size=4, unique=True))
@settings(max_examples=4, phases=(Phase.explicit, Phase.generate))
def test_the_page_of_curation(texts: list[str]) -> None:
    texts = [f"<{text}>" for text in texts]
    bad = aside("quarantined", Reason.UNREADABLE_FILE, "ingest", texts[3])
    rows = [clip(name, texts[0], uri=texts[1], caption=texts[2]) | extra for name, extra in (("a", {}), ("b", bad))]
    made = page(rows, prompts={texts[0]: texts[3]}).html
    assert not CONTROL.search(made.replace("\n", "").replace("\t", ""))
    for text in texts:
        assert escape(shown(text)) in made
        assert text not in made


def test_a_template_takes_text_as_text(tmp_path: Path) -> None:
    (tmp_path / "x.html.j2").write_text("<p>{{ text }}</p><a href='{{ uri }}'>{{ number }}</a>")
    made = render(tmp_path / "x.html.j2", clean, text=NASTY, uri="http://me:marked@host", number=3)
    assert made.startswith(r"<p>[/INST] [red]=1+1[/] \x1b]0;x\x07 \u009b2J \u202egpj.\u2066 &lt;/script&gt;")
    assert made.endswith("<a href='http://host'>3</a>")


def test_the_commands_show_clips_whose_names_are_markup(tmp_path: Path) -> None:
    media = make_clips(tmp_path / "media")
    names = ("a [video] \u202e[b]\x1b[2J.mp4", "=1+1 [INST].mp4")
    with (media / "clips.csv").open("a", encoding="utf-8") as manifest:
        for name in names:
            (media / name).write_text(f"no video: {name}")
            manifest.write(f"{name},[/INST] of [bold]a dog,web,0\n")
    (media / "notes.mp4").unlink()
    curated = Curated(tmp_path / "store", media)
    curated.run("r1", SelectConfig())
    store = ["--store", str(tmp_path / "store")]
    with patch.dict("os.environ", {"COLUMNS": "400"}):
        for command in ("quarantine", "selection"):
            for options in ([], ["--json"]):
                done = CliRunner().invoke(cli.app, [command, *store, *options], catch_exceptions=False)
                assert done.exit_code == 0
                assert not CONTROL.search(done.output.replace("\n", ""))
        done = CliRunner().invoke(cli.app, ["quarantine", *store, "--csv", str(tmp_path / "x.csv")])
    commands = [line.strip() for line in done.output.splitlines() if "lumina probe" in line]
    assert commands == [f"lumina probe $'{media}/a [video] \\u202e[b]\\x1b[2J.mp4'"]
    rows = (tmp_path / "x.csv").read_text()
    assert "'=1+1 [INST].mp4,web,[/INST] of [bold]a dog" in rows
    assert r",a [video] \u202e[b]\x1b[2J.mp4," in rows
