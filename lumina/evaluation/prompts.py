"""The prompts that checkpoints are judged on: suites of fixed prompts, split into two disjoint halves.

The choice of sources reads the `choose` half and the final figures come from the `report` half, so that the winner is
not reported on the prompts it won by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Annotated, Literal

from pydantic import Field, field_validator

from lumina.config import Config
from lumina.randomness import generator
from lumina.vbench.suite_config import VBenchSuite

Split = Literal["choose", "report"]


class ShapesSuite(Config):
    """Single shapes of the Shapes world, spread evenly over colour, shape, direction and speed; the truth is known."""

    kind: Literal["shapes"] = "shapes"
    count: int = Field(default=30, ge=2)
    """Prompts in each half."""
    speed_told: bool = True
    """Prompts say how fast things move; without, `shapes/speed_rank_corr` compares with what was not asked for."""


class CaptionSuite(Config):
    """Captions of the run's own videos: as many of each source, those of held-out clips first."""

    kind: Literal["captions"] = "captions"
    count: int = Field(default=16, ge=1)
    """Prompts in each half, or fewer where there are not enough captions."""


class ListSuite(Config):
    """Prompts written in the config."""

    kind: Literal["list"] = "list"
    choose: tuple[str, ...] = Field(min_length=1)
    """Prompts for the choice of sources."""
    report: tuple[str, ...] = Field(min_length=1)
    """Prompts for the final figures."""

    @field_validator("choose", "report")
    @classmethod
    def _distinct(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        if any(not p.strip() for p in prompts):
            raise ValueError("a prompt is empty")
        twice = sorted({p for p in prompts if prompts.count(p) > 1})
        if twice:
            raise ValueError(f"prompts must be distinct; more than once: {twice[0]!r}")
        return prompts


Suite = Annotated[ShapesSuite | CaptionSuite | ListSuite | VBenchSuite, Field(discriminator="kind")]


@dataclass(frozen=True)
class Truth:
    """What a prompt of the Shapes world asks for."""

    color: str
    kind: str
    direction: str
    """`still` or where it moves."""
    speed: float
    """Middle of the asked range, in shorter sides per second; 0 for still ones."""


@dataclass(frozen=True)
class Caption:
    """The caption of a clip of the run."""

    text: str
    source: str
    heldout: bool
    """Training never saw the clip."""


@dataclass(frozen=True)
class Prompt:
    """One prompt, without any system prompt."""

    prompt_id: str
    """Distinct in its suite; letters, digits and hyphens, so that it can name a file."""
    caption: str
    truth: Truth | None
    """Known for the Shapes world only."""
    stratum: str | None = None
    """Source of a caption: prompts are balanced over sources, and so is every resample of them."""
    heldout: bool = False
    """The caption of held-out clips alone."""


@dataclass(frozen=True)
class PromptSet:
    """One half of a suite, sorted by prompt id."""

    prompts: tuple[Prompt, ...]
    disjoint: bool
    """No caption is in the other half too."""


def build(
    suite: ShapesSuite | CaptionSuite | ListSuite, split: Split, seed: int, captions: Sequence[Caption]
) -> PromptSet:
    """Return one half of a suite.

    Args:
        suite: which one.
        split: which half.
        seed: of the keyed generator that spreads and samples.
        captions: those of the run's own clips, in any order; only the captions suite looks at them.

    Raises:
        ValueError: the captions suite finds no caption.
    """
    if isinstance(suite, ShapesSuite):
        prompts, disjoint = _shapes(suite, split, seed), True
    elif isinstance(suite, CaptionSuite):
        prompts, disjoint = _sampled(suite, split, seed, captions)
    else:
        texts = suite.choose if split == "choose" else suite.report
        prompts, disjoint = [_written("list", text) for text in texts], not set(suite.choose) & set(suite.report)
    return PromptSet(tuple(sorted(prompts, key=lambda p: p.prompt_id)), disjoint)


def _written(kind: str, text: str, stratum: str | None = None, heldout: bool = False) -> Prompt:
    prompt_id = f"{kind}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
    return Prompt(prompt_id, text, None, stratum, heldout)


def _sampled(suite: CaptionSuite, split: Split, seed: int, captions: Sequence[Caption]) -> tuple[list[Prompt], bool]:
    """Deal the captions of every source out to both halves in turn, and take one of each source after the other."""
    sources: dict[str, str] = {}
    trained: set[str] = set()
    for caption in captions:
        text = caption.text.strip()
        if text:
            sources[text] = min(caption.source, sources.get(text, caption.source))
            trained |= set() if caption.heldout else {text}
    if not sources:
        raise ValueError(
            "the captions suite needs captions, and no selected clip has one: "
            "add captions to the manifest, or write the prompts in the config (kind: list)"
        )
    ordered: list[Prompt] = []
    for source in sorted(set(sources.values())):
        texts = sorted(text for text, its in sources.items() if its == source)
        drawn = [texts[i] for i in generator(seed, "eval-captions", source).permutation(len(texts))]
        drawn.sort(key=trained.__contains__)
        ordered += [_written("caption", text, source, text not in trained) for text in drawn]
    # Two prompts in each half are the least that an interval needs; with fewer captions the halves share them all.
    disjoint = len(ordered) >= 4
    half = ordered[(0 if split == "choose" else 1) :: 2] if disjoint else ordered
    rows = [[prompt for prompt in half if prompt.stratum == source] for source in sorted(set(sources.values()))]
    in_turn = [prompt for row in zip_longest(*rows) for prompt in row if prompt is not None]
    return in_turn[: suite.count], disjoint


def _shapes(suite: ShapesSuite, split: Split, seed: int) -> list[Prompt]:
    """Deal the combinations out to both halves in turn, each taking the one it has seen least of.

    So the halves share no combination, and every beginning of each is balanced over colour, shape, direction and
    speed. A half that asks for more than its share begins again with other words.
    """
    from lumina.shapes import COLORS, DIRECTIONS, KINDS

    combinations = [
        (color, kind, direction, speed)
        for color in COLORS
        for kind in KINDS
        for direction in DIRECTIONS
        for speed in (("still",) if direction == "still" else ("slow", "fast"))
    ]
    order = generator(seed, "eval-shapes").permutation(len(combinations))
    left = [combinations[i] for i in order]
    dealt: dict[Split, list[tuple[str, str, str, str]]] = {"choose": [], "report": []}
    seen: dict[Split, dict[str, int]] = {"choose": {}, "report": {}}
    turns: tuple[Split, Split] = ("choose", "report")
    for turn in range(len(left)):
        half = turns[turn % 2]
        least = min(left, key=lambda c: sum(seen[half].get(word, 0) for word in c))
        left.remove(least)
        dealt[half].append(least)
        for word in least:
            seen[half][word] = seen[half].get(word, 0) + 1
    mine = dealt[split]
    return [_shape_prompt(*mine[i % len(mine)], i // len(mine), seed, suite.speed_told) for i in range(suite.count)]


def _shape_prompt(color: str, kind: str, direction: str, speed: str, repeat: int, seed: int, told: bool) -> Prompt:
    from lumina.shapes import SPEEDS, caption, sample_scene

    words = (color, kind, direction) if direction == "still" else (color, kind, direction, speed)
    prompt_id = "-".join(words) + (f"-{repeat}" if repeat else "")
    rng = generator(seed, "eval-caption", prompt_id)
    scene = sample_scene(rng, num_shapes=1, color=color, kind=kind, direction=direction, speed=speed)
    low, high = SPEEDS[speed]
    return Prompt(
        prompt_id,
        caption(scene, rng, speed="always" if told else "never"),
        Truth(color, kind, direction, (low + high) / 2),
    )
