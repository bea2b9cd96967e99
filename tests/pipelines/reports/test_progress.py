from __future__ import annotations

import io
import re
import time

from rich.console import Console

from pipelines.reports.progress import RunDisplay, StageProgress, pace


def show(console: Console) -> str:
    with RunDisplay(console, ["first", "train@1", "last"], log_every_s=0.1) as display:
        display.stage("first", "checking")
        display.stage("first", "cached")
        display.stage("train@1", "running", "config.lr 1 -> 2")
        display.progress("train@1", 10, 40, "steps")
        time.sleep(0.6)
        display.progress("train@1", 20, 40, "steps")
        time.sleep(0.8)
        display.note("a note")
        display.stage("train@1", "failed", "RuntimeError: no luck\nsecond line")
        display.stage("last", "blocked", "needs train@1")
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_log_gets_a_line_for_every_change_and_one_now_and_then() -> None:
    lines = show(Console(file=io.StringIO(), width=120)).splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d  ", line) for line in lines)
    text = "\n".join(line[10:].rstrip() for line in lines)
    assert "✓ first    cached" in text
    assert "▶ train@1  running" in text
    assert re.search(r"train@1  20/40 steps, \d+\.\d/s, .* left; .* so far", text)
    assert "✗ train@1  failed" in text
    assert "second line" not in text
    assert "– last     blocked" in text


def test_a_terminal_gets_a_table_that_fits() -> None:
    text = show(Console(file=io.StringIO(), force_terminal=True, width=100, height=30))
    assert "20/40 steps" in text
    assert "━" in text
    assert "2 of 3 stages" in text or "1 of 3 stages" in text
    small = show(Console(file=io.StringIO(), force_terminal=True, width=100, height=5))
    assert "1 done" in small


def test_what_was_done_before_is_no_part_of_the_rate() -> None:
    row = StageProgress()
    row.enter("running", "", 100.0)
    row.advance(1000, 3200, "steps", 110.0)
    assert pace(row, 119.0) == "1000/3200 steps"
    row.advance(1060, 3200, "steps", 140.0)
    assert pace(row, 140.0) == "1060/3200 steps, 2.0/s, 17 min 50 s left"
    # Workers that were lost go on from an earlier checkpoint.
    row.advance(1010, 3200, "steps", 160.0)
    assert pace(row, 165.0) == "1010/3200 steps"
    row.advance(1020, 3200, "steps", 170.0)
    assert pace(row, 170.0) == "1020/3200 steps, 1.0/s, 36 min 20 s left"
    row.enter("running", "again", 200.0)
    row.advance(1500, 3200, "steps", 210.0)
    assert pace(row, 211.0) == "1500/3200 steps"
