"""What the attempts at one stage left for the tracker: the points of its curves, and which pipeline runs they were in.

Two files of the fingerprint's directory, one JSON object per line. `curve.jsonl` has the points and goes with the
unfinished work that they tell of; `attempts.jsonl` numbers the attempts and stays.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.engine.store.typed import Number, Text, Whole, checked, parse, read_text, unlinked


@dataclass(frozen=True)
class _Attempt:
    attempt: Whole
    run: Text = ""


@dataclass(frozen=True)
class _Point:
    metrics: Mapping[Text, Number]
    step: Whole
    time_ms: Whole


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
        records = _whole_lines(attempts, _Attempt)
        self.points = _whole_lines(curve, _Point)
        self.number = 1 + max((record["attempt"] for record in records), default=0)
        # Older records of an attempt had a second line, without its run. Two attempts of one run are one MLflow run.
        names = dict.fromkeys(record["run"] for record in records if record.get("run"))
        self.earlier = [name for name in names if name != run]
        _append(attempts, {"attempt": self.number, "run": run})

    def add_point(self, point: Mapping[str, Any]) -> None:
        """Keep a point for an attempt that continues this one."""
        _append(self._curve, point)


def _append(path: Path, record: Mapping[str, Any]) -> None:
    # A link would lead whoever can write to the store to what this process can write to.
    with contextlib.suppress(OSError), open(path, "a", encoding="utf-8", opener=unlinked) as file:
        file.write(json.dumps(record) + "\n")


def _whole_lines(path: Path, kind: type) -> list[dict[str, Any]]:
    """Read a file; a line that a kill cut short is taken out, since the next one would be written behind it, and so is
    one that is not of the kind."""
    with contextlib.suppress(OSError, ValueError):
        lines = read_text(path).splitlines(keepends=True)
        records, whole = [], []
        for line in lines:
            with contextlib.suppress(ValueError):
                if line.endswith("\n"):
                    record = parse(line)
                    checked(kind, record)
                    records.append(record)
                    whole.append(line)
        if len(whole) < len(lines):
            partial = path.with_suffix(".tmp")
            partial.write_text("".join(whole), encoding="utf-8")
            partial.replace(path)
        return records
    return []
