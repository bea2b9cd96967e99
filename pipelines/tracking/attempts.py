"""What the attempts at one stage left for the tracker: the points of its curves, and which pipeline runs they were in.

Two files of the fingerprint's directory, one JSON object per line. `curve.jsonl` has the points and goes with the
unfinished work that they tell of; `attempts.jsonl` numbers the attempts and stays.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
        records = _whole_lines(attempts)
        self.points = _whole_lines(curve)
        self.number = 1 + max((int(record["attempt"]) for record in records), default=0)
        # Older records of an attempt had a second line, without its run. Two attempts of one run are one MLflow run.
        names = dict.fromkeys(str(record["run"]) for record in records if "run" in record)
        self.earlier = [name for name in names if name != run]
        _append(attempts, {"attempt": self.number, "run": run})

    def add_point(self, point: Mapping[str, Any]) -> None:
        """Keep a point for an attempt that continues this one."""
        _append(self._curve, point)


def _append(path: Path, record: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file; a line that a kill cut short is taken out, since the next one would be written behind it."""
    with contextlib.suppress(OSError):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        records, whole = [], []
        for line in lines:
            with contextlib.suppress(ValueError):
                if line.endswith("\n"):
                    records.append(json.loads(line))
                    whole.append(line)
        if len(whole) < len(lines):
            partial = path.with_suffix(".tmp")
            partial.write_text("".join(whole), encoding="utf-8")
            partial.replace(path)
        return records
    return []
