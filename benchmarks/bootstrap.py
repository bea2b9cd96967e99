"""Whether the bootstrap of `lumina.evaluation.subsets` keeps its promises, on simulated clustered data.

    python benchmarks/bootstrap.py [--trials 4000] [--resamples 2000]

Every value has an effect of its prompt that all groups share, one of group and prompt, and noise of the clip, so the
clips of a prompt are alike: the prompt is the cluster. Prints, for a nominal confidence of 95 %:

interval       how often the interval of one group holds the true value
difference     how often the interval of a difference between two groups holds it
simultaneous   how often all intervals of "worse than the best" hold their true values at once
false alarms   of groups that are truly equal: how often any is called significantly worse than the best
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumina.evaluation.subsets import Range, compare, interval, resample, weighted_mean
from lumina.randomness import generator

Draw = Callable[[np.random.Generator, int, int, int], NDArray[np.float64]]
"""draw(rng, groups, prompts, samples): values [K, P, S]."""


@dataclass(frozen=True)
class World:
    """How clips come about."""

    name: str
    draw: Draw
    mean: float
    """True value of every group."""
    values: Range | None = None


def _effects(rng: np.random.Generator, groups: int, prompts: int, samples: int) -> NDArray[np.float64]:
    shared = rng.normal(size=(1, prompts, 1))
    own = 0.5 * rng.normal(size=(groups, prompts, 1))
    return shared + own + 0.5 * rng.normal(size=(groups, prompts, samples))


def _share(p: float) -> World:
    """A share of clips that are right: of three quarters of the prompts a prompt's clips are all so, or none is."""

    def draw(rng: np.random.Generator, groups: int, prompts: int, samples: int) -> NDArray[np.float64]:
        clip = rng.random((groups, prompts, samples))
        prompt = rng.random((1, prompts, 1))
        alike = rng.random((1, prompts, 1)) < 0.75
        own = rng.random((groups, prompts, 1)) < 0.5
        return (np.where(alike & own, prompt, clip) < p).astype(np.float64)

    return World(f"share, {p:.0%}", draw, p, (0.0, 1.0))


WORLDS = (
    World("normal", _effects, 0.0),
    World("skewed", lambda *size: np.exp(0.5 * _effects(*size)), float(np.exp(0.25 * 1.5 / 2))),
    _share(0.5),
    _share(0.9),
    _share(0.98),
)


def measure(
    world: World, groups: int, prompts: int, samples: int, trials: int, resamples: int
) -> tuple[float, float, float, float]:
    """Rates of the four columns, each in 0..1."""
    names = [f"g{k}" for k in range(groups)]
    ids = [f"p{i:03d}" for i in range(prompts)]
    # Fresh resamples for each trial would cost more than all else.
    drawn = [resample(ids, seed, resamples) for seed in range(20)]
    covered = apart = together = alarms = 0
    for trial in range(trials):
        rng = generator(0, "bootstrap benchmark", world.name, groups, prompts, samples, trial)
        values = world.draw(rng, groups, prompts, samples)
        counts = drawn[trial % len(drawn)]
        draws = np.stack([weighted_mean(counts, one) for one in values])
        means = values.mean(axis=(1, 2))
        own = interval(float(means[0]), draws[0], prompts, 0.95, world.values)
        covered += own.low <= world.mean <= own.high
        span = None if world.values is None else (world.values[0] - world.values[1], world.values[1] - world.values[0])
        gap = interval(float(means[1] - means[0]), draws[1] - draws[0], prompts, 0.95, span)
        apart += gap.low <= 0.0 <= gap.high
        found = compare(names, means, draws, prompts, value_range=world.values)
        together += all(d.low <= 0.0 <= d.high for d in found.differences)
        alarms += len(found.best_set) < groups
    return covered / trials, apart / trials, together / trials, alarms / trials


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=4000)
    parser.add_argument("--resamples", type=int, default=2000)
    options = parser.parse_args()
    print("| values | groups | prompts | clips a prompt | interval | difference | simultaneous | false alarms |")
    print("|---|---|---|---|---|---|---|---|")
    for world in WORLDS:
        for groups, prompts, samples in ((3, 8, 2), (3, 16, 1), (3, 30, 2), (10, 30, 2), (3, 60, 1), (3, 60, 4)):
            rates = measure(world, groups, prompts, samples, options.trials, options.resamples)
            cells = " | ".join(f"{rate:.1%}" for rate in rates)
            print(f"| {world.name} | {groups} | {prompts} | {samples} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
