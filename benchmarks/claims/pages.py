"""A page for each claim: its sentence, its parts as intervals, the rule, and the figures behind them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.claims.statements import Claim
from lumina.evaluation.subsets import Interval
from lumina.pages.charts import Forest
from lumina.pages.charts import Interval as Row
from lumina.pages.page import render
from pipelines.terminal import clean

TEMPLATE = Path(__file__).with_name("claim.html.j2")
RULE = (
    "Shown: every part lies above zero with its whole interval. Opposite: the first part, which the claim rests on, "
    "lies below zero with its whole interval. Not shown: else. Each interval holds at 95 % for other clips (bootstrap) "
    "and other seeds (Student's t), with one seed for other clips alone; that all parts have to hold needs "
    "no correction. Parts without an interval are counted. The rule was written down before the results."
)


_STYLES = {"shown": "done", "opposite": "failed"}


def claim_page(claim: Claim, claims: Sequence[Claim] = ()) -> str:
    """The page as one file; `claims` are those whose pages lie beside it."""
    parts = Forest([_row(name, found) for name, found in claim.judged.parts], gaps=True)
    style = _STYLES.get(claim.judged.verdict, "")
    return render(TEMPLATE, clean, claim=claim, claims=claims, style=style, parts=parts, rule=RULE)


def _row(name: str, found: Interval) -> Row:
    verdict, style = (
        ("holds", "good") if found.low > 0 else ("the other way", "bad") if found.high < 0 else ("undecided", "")
    )
    if found.low == found.high:
        return Row(name, found.value, None, None, f"{verdict}, counted", style, exact=True)
    return Row(name, found.value, found.low, found.high, verdict, style)
