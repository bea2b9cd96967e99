"""How far one stage of a run is: plain data, so that another terminal can show it too."""

from __future__ import annotations

from dataclasses import dataclass

ENDED = frozenset({"cached", "done", "failed", "blocked", "interrupted"})
_LEAST_S = 0.5


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
    """When the first count was told, from which the rate counts."""
    first_done: int = 0

    def enter(self, state: str, detail: str, now: float) -> None:
        """The stage changed its state."""
        if state == "running" or (state in ENDED and not self.since):
            self.since = now
        if state in ENDED:
            self.ended = now
        self.state, self.detail = state, detail

    def advance(self, done: int, total: int, unit: str, now: float) -> None:
        """The stage got on."""
        # A resumed stage starts at its last step: the rate counts from there.
        if not self.first_at or unit != self.unit or done < self.first_done:
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
