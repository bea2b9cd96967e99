"""Attempts at a stage, for curves that go on after a resume: the points logged, and the pipeline runs that tried.

Two files of the fingerprint's directory, one JSON object per line. `curve.jsonl` has the points and goes with the
unfinished work that they tell of; `attempts.jsonl` numbers the attempts and stays.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from lumina.files import replace_file
from pipelines.engine.store.typed import Text, Whole, checked, parse, read_text, unlinked
from pipelines.tracking.events import Point

T = TypeVar("T", bound="_Attempt | Point")


@dataclass(frozen=True)
class _Attempt:
    attempt: Whole
    run: Text


class Attempts:
    """The attempts at one fingerprint, for the one that begins now. No call raises: a full disk stops no training.

    Attributes:
        number: of this attempt; the first is 1.
        points: those that earlier attempts logged.
        earlier: ids of the pipeline runs that made the earlier attempts, in their order.
    """

    def __init__(self, curve: Path, run: str) -> None:
        """Begin another attempt at the stage whose points are in `curve`, as part of pipeline run `run`."""
        self._curve, attempts = curve, curve.with_name("attempts.jsonl")
        found = _read(attempts, _Attempt)
        self.points = _read(curve, Point)
        self.number = 1 + max((one.attempt for one in found), default=0)
        # Two attempts of one run are one MLflow run.
        self.earlier = [name for name in dict.fromkeys(one.run for one in found) if name != run]
        _append(attempts, _Attempt(self.number, run))

    def add_point(self, point: Point) -> None:
        """Keep a point for an attempt that continues this one."""
        _append(self._curve, point)


def _append(path: Path, record: _Attempt | Point) -> None:
    # A link would lead whoever can write to the store to what this process can write to.
    with contextlib.suppress(OSError), open(path, "a", encoding="utf-8", opener=unlinked) as file:
        file.write(json.dumps(asdict(record)) + "\n")


def _read(path: Path, kind: type[T]) -> list[T]:
    """Read a file; a line that a kill cut short is taken out, since the next one would be written behind it, and so is
    one that is not of the kind."""
    found, whole = [], []
    with contextlib.suppress(OSError, ValueError):
        lines = read_text(path).splitlines(keepends=True)
        for line in lines:
            with contextlib.suppress(ValueError):
                if line.endswith("\n"):
                    found.append(checked(kind, parse(line)))
                    whole.append(line)
        if len(whole) < len(lines):
            replace_file(path, "".join(whole).encode())
    return found
