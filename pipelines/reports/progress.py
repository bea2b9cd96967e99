"""Progress of a run: a live table on a terminal, a line now and then in a log, and the plain data of both."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from lumina.formats import duration
from pipelines.terminal import Text

LOG_EVERY_S = 30.0
ENDED = frozenset({"cached", "done", "failed", "blocked", "interrupted"})
_LEAST_S = 0.5
_LOOK = {
    "pending": ("·", "dim"),
    "checking": ("·", "dim"),
    "waiting": ("◌", "yellow"),
    "running": ("▶", "bold cyan"),
    "cached": ("✓", "green"),
    "done": ("✓", "bold green"),
    "failed": ("✗", "bold red"),
    "drift": ("▶", "yellow"),
    "blocked": ("–", "red"),
    "interrupted": ("■", "yellow"),
    "resume": ("↻", "bold cyan"),
    "run": ("▶", "bold cyan"),
    "unknown": ("?", "yellow"),
}


@dataclass
class StageProgress:
    """One stage. Times are seconds since the epoch."""

    state: str = "pending"
    detail: str = ""
    since: float = 0.0
    """When it began to run; 0 before."""
    ended: float = 0.0
    """0 before."""
    done: int = 0
    total: int = 0
    unit: str = ""
    first_at: float = 0.0
    """When the count was told from which the rate counts."""
    first_done: int = 0
    """That count: what was done before, in this run or an earlier one."""

    def enter(self, state: str, detail: str, now: float) -> None:
        """The stage changed its state."""
        if state == "running" or (state in ENDED and not self.since):
            self.since, self.first_at = now, 0.0
        if state in ENDED:
            self.ended = now
        self.state, self.detail = state, detail

    def advance(self, done: int, total: int, unit: str, now: float) -> None:
        """The stage got on."""
        # The rate counts from the first count, which a resumed stage tells of what it need not do again; and anew from
        # where workers that were lost have set it back to.
        if not self.first_at or unit != self.unit or done < self.done:
            self.first_at, self.first_done = now, done
        self.done, self.total, self.unit = done, total, unit

    def elapsed(self, now: float) -> float:
        """Seconds that it has run."""
        return (self.ended or now) - self.since if self.since else 0.0

    def rate(self, now: float) -> float:
        """Units a second; 0 as long as it cannot be told."""
        seconds = now - self.first_at
        return (self.done - self.first_done) / seconds if self.first_at and seconds > _LEAST_S else 0.0

    def left(self, now: float) -> float | None:
        """Seconds that it will need at this rate; None as long as it cannot be told."""
        rate = self.rate(now)
        return (self.total - self.done) / rate if rate > 0 and self.done < self.total else None


def state_text(state: str) -> Text:
    """A state with its sign, in its colour."""
    sign, style = _LOOK.get(state, (" ", ""))
    return Text(f"{sign} {state}", style)


def pace(row: StageProgress, now: float) -> str:
    """`120/400 steps, 2.1/s, 2 min 13 s left`."""
    if not row.total:
        return ""
    parts = [f"{row.done}/{row.total} {row.unit}"]
    if row.rate(now) > 0:
        parts.append(f"{row.rate(now):.1f}/s")
    left = row.left(now)
    return ", ".join([*parts, f"{duration(left)} left"] if left is not None else parts)


def stages_table(rows: Mapping[str, StageProgress], started: float, now: float, height: int | None = None) -> Table:
    """Every stage on a line, with a bar while it runs.

    Args:
        rows: stages in the order in which they are listed.
        started: when the run began, in seconds since the epoch.
        now: the same, now.
        height: lines that there is room for; None shows all.
    """
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, ratio=1)
    table.add_column(no_wrap=True, justify="right")
    shown = list(rows.items())
    if height is not None and len(shown) > height:
        # What is finished well, or not begun, is what one can do without.
        finished = sum(row.state in ("cached", "done") for _, row in shown)
        pending = sum(row.state == "pending" for _, row in shown)
        shown = [(name, row) for name, row in shown if row.state not in ("cached", "done", "pending")]
        table.add_row("", Text(f"{finished} done"), "", Text(f"{pending} to come", "dim"), "")
    for name, row in shown:
        table.add_row(*_cells(name, row, now))
    ended = sum(row.state in ENDED for row in rows.values())
    table.add_row("", Text(f"{ended} of {len(rows)} stages", "dim"), "", "", Text(duration(now - started), "dim"))
    return table


def _cells(name: str, row: StageProgress, now: float) -> list[RenderableType]:
    sign, style = _LOOK.get(row.state, (" ", ""))
    took = duration(row.elapsed(now)) if row.since and row.state != "blocked" else ""
    bar: RenderableType = Text(row.state, style)
    detail = Text(row.detail.splitlines()[0] if row.detail else "", "dim", overflow="ellipsis")
    if row.state == "running" and row.total:
        bar = ProgressBar(total=row.total, completed=row.done, width=24)
        detail = Text(pace(row, now), overflow="ellipsis")
    return [Text(sign, style), Text(name, style), bar, detail, Text(took, "dim")]


class RunDisplay(AbstractContextManager["RunDisplay"]):
    """Shows the stages of a run while it is the active context; may be told from any thread.

    Args:
        console: a terminal gets a live table, anything else lines.
        stages: names in the order in which they are listed.
        log_every_s: seconds between two lines about running stages, without a terminal.
    """

    def __init__(self, console: Console, stages: Sequence[str], log_every_s: float = LOG_EVERY_S) -> None:
        self.console, self.log_every_s = console, log_every_s
        self.rows = {name: StageProgress() for name in stages}
        self.lock = threading.RLock()
        self.started = time.time()
        self.width = max((len(name) for name in stages), default=8)
        self.live = Live(console=console, get_renderable=self._table, refresh_per_second=2, transient=True)
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        else:
            threading.Thread(target=self._tick, name="progress", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        if self.console.is_terminal:
            self.live.stop()

    def stage(self, name: str, state: str, detail: str = "") -> None:
        """A stage changed its state."""
        with self.lock:
            row = self.rows[name]
            before = (row.state, row.detail)
            row.enter(state, detail, time.time())
            if not self.console.is_terminal and (state, detail) != before and state not in ("checking", "pending"):
                self._line(name, row)

    def progress(self, name: str, done: int, total: int, unit: str) -> None:
        """A running stage got on."""
        with self.lock:
            self.rows[name].advance(done, total, unit, time.time())

    def note(self, text: str) -> None:
        """A line for the user."""
        self.console.print(Text(f"{self._clock()}{text}", "dim"))

    def _clock(self) -> str:
        return "" if self.console.is_terminal else f"{time.strftime('%H:%M:%S')}  "

    def _line(self, name: str, row: StageProgress) -> None:
        if row.state == "waiting" and not row.detail:
            return
        sign, style = _LOOK.get(row.state, (" ", ""))
        took = (
            f"{duration(row.elapsed(time.time())):>12}" if row.state in ENDED and row.state != "blocked" else " " * 12
        )
        text = Text(f"{self._clock()}{sign} {name:<{self.width}}  {row.state:<8}", style)
        detail = row.detail.splitlines()[0] if row.detail else ""
        self.console.print(text.append(f"{took}  {detail}".rstrip(), "not bold default"), soft_wrap=True)

    def _tick(self) -> None:
        while not self._closed.wait(self.log_every_s):
            with self.lock:
                for name, row in self.rows.items():
                    if row.state == "running":
                        now = time.time()
                        clock = f"{self._clock()}  {name:<{self.width}}  "
                        self.console.print(
                            Text(f"{clock}{pace(row, now) or 'at work'}; {duration(row.elapsed(now))} so far"),
                            soft_wrap=True,
                        )

    def _table(self) -> RenderableType:
        with self.lock:
            return stages_table(self.rows, self.started, time.time(), self.console.height - 3)
