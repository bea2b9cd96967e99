"""Report files of VBench: `vbench.json` with every figure and gap, `vbench.html` to look at."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.evaluation.subsets import Interval
from lumina.files import replace_file
from lumina.vbench.page import Subject, make_page
from lumina.vbench.summary import DimensionScores, Summary, summarise

REPORT_FILE, PAGE_FILE = "vbench.json", "vbench.html"
SCHEMA = "lumina-vbench/1"


@dataclass(frozen=True)
class Statistics:
    """How intervals are computed."""

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Report:
    """Figures of a set of clips."""

    subject: Subject
    summary: Summary
    scores: Mapping[str, DimensionScores]
    statistics: Statistics

    @property
    def failed(self) -> int:
        """Scores that could not be computed, and dimensions whose official code failed."""
        return self.summary.failed

    def to_json(self) -> dict[str, Any]:
        """Content of `vbench.json`."""
        summary = self.summary
        return {
            "schema": SCHEMA,
            "subject": self.subject.name,
            "prompts": self.subject.prompts_file,
            "samples": self.subject.samples,
            "clips": self.subject.clips,
            "note": self.subject.note,
            "confidence": self.statistics.confidence,
            "resamples": self.statistics.resamples,
            "seed": self.statistics.seed,
            "metrics": {name: _interval(found) for name, found in summary.metrics().items()},
            "dimensions": {
                one.name: {
                    "by": one.by,
                    "prompts": one.prompts,
                    "clips": one.clips,
                    "failed": one.failed,
                    "gap": one.gap,
                    "note": one.note,
                    "weights": dict(one.weights),
                }
                for one in summary.dimensions
            },
            "gaps": {one.name: one.gap for one in summary.totals if one.gap},
        }

    def write(self, out: Path, clean: Callable[[str], str] = str) -> None:
        """Write both files to a folder; each appears whole."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        replace_file(out / REPORT_FILE, text.encode(), sync=True)
        page = make_page(self.subject, self.summary, self.scores, self.statistics.confidence, clean)
        replace_file(out / PAGE_FILE, page.encode(), sync=True)


def make_report(
    subject: Subject, scores: Mapping[str, DimensionScores], strata: Mapping[str, str], statistics: Statistics
) -> Report:
    """Reduce the scores of a subject's clips; `strata` has the stratum of every prompt."""
    summary = summarise(
        scores,
        strata,
        samples=subject.samples,
        confidence=statistics.confidence,
        seed=statistics.seed,
        resamples=statistics.resamples,
    )
    return Report(subject, summary, scores, statistics)


def _interval(found: Interval) -> dict[str, float | None]:
    return {
        "value": found.value,
        "low": found.low if math.isfinite(found.low) else None,
        "high": found.high if math.isfinite(found.high) else None,
    }
