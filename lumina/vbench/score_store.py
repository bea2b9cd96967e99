"""Score log: what each dimension said of each clip, a line of JSON each, so that nothing is scored twice.

A line counts for a clip's name and content, for some dimensions read the name: a clip that was made again is scored
again. The last line may have been cut short by a kill; it is dropped before another one follows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lumina.files import read_jsonl
from lumina.vbench.clip_score import ClipScore
from lumina.vbench.judges import Verdict

SCORES_FILE = "scores.jsonl"


@dataclass(frozen=True)
class Scored:
    """One clip by one dimension."""

    clip: str
    """File name."""
    sha256: str
    """Of the clip's file."""
    dimension: str
    key: str
    """Of the judge: see `Judges.key`, or of the official environment."""
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """As a line."""
        content = asdict(self)
        verdict = content.pop("verdict")
        score = verdict.pop("score") or {"total": None, "count": None}
        return {**content, **score, **verdict}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Scored:
        """Read a line; raises KeyError for another one."""
        total = content["total"]
        score = None if total is None else ClipScore(total, content["count"])
        verdict = Verdict(score, content["reason"], content["is_static"])
        return cls(content["clip"], content["sha256"], content["dimension"], content["key"], verdict)


@dataclass(frozen=True)
class ScoreStore:
    """The log in a folder."""

    path: Path

    def read(self) -> dict[tuple[str, str, str, str], Scored]:
        """What is known, by (dimension, key, clip, its content); empty where there is no log.

        Raises ValueError naming file and line for what is no log of scores.
        """
        if not self.path.exists():
            return {}
        try:
            found = [Scored.from_json(line) for line in read_jsonl(self.path)]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is no log of scores ({error!r}): name another --out") from error
        return {(one.dimension, one.key, one.clip, one.sha256): one for one in found}

    def add(self, scored: Iterable[Scored]) -> None:
        """Append lines, and have them on the disk."""
        text = "".join(json.dumps(one.to_json(), ensure_ascii=False, allow_nan=False) + "\n" for one in scored)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            _drop_torn(file)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


def _drop_torn(file: Any) -> None:
    """Cut off what follows the last line break."""
    end = file.seek(0, os.SEEK_END)
    at = end
    while at and file.seek(at - 1) is not None and file.read(1) != b"\n":
        at -= 1
    if at < end:
        file.truncate(at)
    file.seek(0, os.SEEK_END)
