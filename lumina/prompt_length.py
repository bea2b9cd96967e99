"""Tokens of prompts: how many the text encoder takes, and what is said of prompts that have more."""

from __future__ import annotations

from collections.abc import Sequence

MAX_TOKENS = 256
"""Longest prompt in tokens, system prompt included; the rest is cut off, as in the released model."""


def cut_message(cuts: Sequence[int], cure: str) -> str | None:
    """One line on the prompts that are cut; None if none is.

    Args:
        cuts: of every prompt, the tokens that are left out.
        cure: what to do.
    """
    number = sum(cut > 0 for cut in cuts)
    if not number:
        return None
    many = "prompt is" if len(cuts) == 1 else "prompts is" if number == 1 else "prompts are"
    return (
        f"{number:,} of {len(cuts):,} {many} longer than the {MAX_TOKENS} tokens that the text encoder takes, system "
        f"prompt included; what is over is cut off ({max(cuts):,} tokens of the longest): {cure}"
    )
