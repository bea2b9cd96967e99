"""What is printed is what was said: no markup, no control sequence, no password, and commands that a shell takes."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from curation.control_characters import CONTROL
from pipelines.terminal import Text, command_line, in_line, json_text, log_to_terminal, make_console, plain

NASTY = "a [/INST] [bold]b[/] :dog: \x1b]0;title\x07 \x9b2J \u202ec"
TOLD = r"a [/INST] [bold]b[/] :dog: \x1b]0;title\x07 \u009b2J \u202ec"


def test_what_comes_from_outside_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console = make_console()
    table = Table(title=NASTY)
    table.add_column(NASTY)
    table.add_row(NASTY)
    for one in (NASTY, Text(NASTY), Text("> ").append(NASTY, "bold"), in_line(f"{NASTY}\nerror: none"), table):
        console.print(one, soft_wrap=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [TOLD, TOLD, f"> {TOLD}", rf"{TOLD}\nerror: none"]
    assert [TOLD in line for line in lines[4:]].count(True) == 3


def test_columns_are_as_wide_as_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table()
    table.add_column("name")
    for name in (NASTY, "plain"):
        table.add_row(in_line(name))
    make_console().print(table)
    assert len({len(line) for line in capsys.readouterr().out.splitlines()}) == 1


def test_passwords_are_printed_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    address = "http://me:marked@host:5000/x?token=marked"
    make_console(stderr=True).print(Text(address))
    make_console().print(f"see {address}")
    print(json_text({"uri": address}), plain(f"\x1b[36m(pid=1)\x1b[0m {address}\n"))
    out, err = capsys.readouterr()
    assert "marked" not in out + err
    assert err.strip() == "http://host:5000/x?token=***"
    assert "(pid=1) http://host" in out


def test_a_log_line_is_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    log_to_terminal()
    logging.warning("left out: %s of ftp://me:marked@host/x", NASTY)
    assert capsys.readouterr().err == f"left out: {TOLD} of ftp://host/x\n"


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12), max_size=4))
def test_a_command_says_the_same_to_a_shell(words: list[str]) -> None:
    line = command_line(["printf", "%s\\0", *words])
    assert not CONTROL.search(line)
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert done.stdout.decode().split("\0")[:-1] == (words or [""])


def test_json_keeps_its_meaning() -> None:
    assert json.loads(json_text({"caption": NASTY})) == {"caption": NASTY}
    assert not CONTROL.search(json_text({"caption": NASTY}).replace("\n", ""))


def test_a_traceback_tells_no_password_and_obeys_nothing() -> None:
    code = (
        "from pipelines import cli, config\n"
        "def fail(*_): raise ValueError('at http://me:' + 'marked@host: ' + chr(27) + '[2J')\n"
        "config.load_config = fail\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "plan", "demo", "--debug"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == r"ValueError: at http://host: \x1b[2J"
    assert "marked@" not in done.stderr
