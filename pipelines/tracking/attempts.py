"""What the attempts at one stage left for the tracker: the points of its curves, and which runs they were.

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
    """

    def __init__(self, curve: Path, run: str) -> None:
        """Begin another attempt at the stage whose points are in `curve`, as part of pipeline run `run`."""
        self._curve, self._attempts = curve, curve.with_name("attempts.jsonl")
        records = _whole_lines(self._attempts)
        self.points = _whole_lines(curve)
        self.number = 1 + max((int(record["attempt"]) for record in records), default=0)
        self._runs = [(record["uri"], record["run_id"]) for record in records if "run_id" in record]
        _append(self._attempts, {"attempt": self.number, "run": run})

    def tracked_by(self, uri: str) -> list[str]:
        """Run ids of the earlier attempts at one tracking server, in their order."""
        return [run_id for server, run_id in self._runs if server == uri]

    def add_run(self, uri: str, run_id: str) -> None:
        """Note which run at the tracking server is this attempt's."""
        _append(self._attempts, {"attempt": self.number, "uri": uri, "run_id": run_id})

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
