"""Published VBench scores: Tables 1 and 4 of the Lumina-Video paper, in percent, as printed.

Two rows do not follow from each other. Table 4's multi-scale Lumina-Video has appearance and temporal style exchanged
(23.42 and 25.47): only with them put right does Table 1's semantic score come out, and `corrected` does so. Allegro's
semantic score is .049 below what Table 1 prints, which no exchange explains.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Self

from lumina.vbench.dimensions import DIMENSIONS
from lumina.vbench.totals import Totals, totals

MULTI_SCALE, SINGLE_SCALE = "Lumina-Video (multi-scale)", "Lumina-Video (single scale)"
UNEXPLAINED = ("Allegro",)
"""Rows whose semantic score in Table 1 does not follow from Table 4."""


@dataclass(frozen=True)
class Published:
    """One model's row."""

    model: str
    scores: Mapping[str, float]
    """Table 4: dimension to percent."""
    printed: Totals
    """Table 1, percent."""

    def derived(self) -> Totals:
        """The totals that follow from `scores`, percent."""
        own = totals({name: percent / 100 for name, percent in self.scores.items()})
        return Totals(100 * own.quality, 100 * own.semantic, 100 * own.total)

    def corrected(self) -> Self:
        """The same with the misprint of the multi-scale row put right."""
        if self.model != MULTI_SCALE:
            return self
        styles = {
            "appearance_style": self.scores["temporal_style"],
            "temporal_style": self.scores["appearance_style"],
        }
        return replace(self, scores={**self.scores, **styles})


def published() -> tuple[Published, ...]:
    """All rows, in the paper's order."""
    with files("lumina.vbench").joinpath("published.csv").open(encoding="utf-8") as file:
        return tuple(
            Published(
                row["model"],
                {name: float(row[name]) for name in DIMENSIONS},
                Totals(float(row["quality"]), float(row["semantic"]), float(row["total"])),
            )
            for row in csv.DictReader(file)
        )
