"""Selection of the sources that are fine-tuned on, as stage `choose` writes it: `selection.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from lumina.files import read_json

SELECTION_FILE = "selection.json"
METRICS_FILE = "metrics.json"
"""Of one evaluation: its figures with intervals, and what they were measured on."""
Figure = Mapping[str, float | None]
"""`value`, `low`, `high`; None for bounds that are infinite."""


@dataclass(frozen=True)
class Ranked:
    """One source that could be chosen."""

    source: str
    score: Figure
    metrics: Mapping[str, Figure]
    in_best_set: bool
    below_best: Figure | None
    """How far it lies below the best, with bounds that hold for all pairs at once; None of the best."""


@dataclass(frozen=True)
class Selection:
    """What is chosen, by which rule, and from which numbers."""

    chosen: str
    """Source whose system prompt is the default of the exported model."""
    sources: tuple[str, ...]
    """To fine-tune on."""
    best_set: tuple[str, ...] = ()
    """Every source that is not significantly worse than the best."""
    left_out: tuple[str, ...] = ()
    """Sources that have no clips to fine-tune on."""
    reason: str = ""
    rule: Mapping[str, Any] = field(default_factory=dict)
    """See `ChooseConfig`."""
    prompts: int = 0
    samples: int = 0
    """Clips of each prompt; 0, as `prompts`, where scores of whole sources were given."""
    table: tuple[Ranked, ...] = ()
    """The best first."""
    decided_by: Literal["hand"] | None = None
    standardised: Mapping[str, Mapping[str, float]] | None = None
    """Metric -> `mean` and `spread` in which it was weighed; None where all are shares of clips."""
    scores: Mapping[str, Any] | None = None
    """Digests of the `files` that scores are from, and whether they are `per_clip`; None for scores of our own."""
    schema: Literal["lumina-selection/1"] = "lumina-selection/1"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, without what is None."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def to_json(self) -> str:
        """The file's text, whose bytes are its identity: keys sorted, newlines at the end of lines only."""
        return json.dumps(self.as_dict(), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"

    @property
    def by_hand(self) -> bool:
        """Whether a person chose."""
        return self.decided_by == "hand"

    @property
    def per_clip(self) -> bool:
        """Whether there are scores of single clips, so that differences can be told from chance."""
        return self.scores is None or bool(self.scores["per_clip"])

    @classmethod
    def load(cls, folder: Path) -> Selection:
        """Of an output of `choose`. Raises FileNotFoundError, or ValueError for what is no selection."""
        return TypeAdapter(cls).validate_python(read_json(folder / SELECTION_FILE))
