"""How equal the workers' shares of a batch are, in operations; `training.py` prints it.

Nothing is trained: a plan shares out entries, which say what a clip costs.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from plain_training import order

from lumina.cost import token_cost
from lumina.models.config import RELEASED_MODELS
from lumina.randomness import generator
from lumina.sizes import crop_sizes, num_cells
from lumina.training.data.batches import BatchPlan, Entry
from lumina.training.data.clips import TaskData
from lumina.training.stage import TaskConfig


def print_imbalance(tasks: Sequence[TaskData], steps: int = 200) -> None:
    """Print by how much the costliest worker of a step lies above the mean."""
    print(f"\ncost of the costliest worker above the mean over {steps} steps (aim 5 %)")
    for data in tasks:
        for world in (2, 8):
            found = [data.plan.imbalance(step, world) for step in range(steps)]
            print(f"{data.task.name} on {world} workers: mean {statistics.mean(found):.1%}, most {max(found):.1%}")
    entries, world, batch = mixed_clips(), 32, 256
    task = TaskConfig(name="mixed", media="video", patch=(1, 2, 2), time_shift=2, batch_size=batch)
    plan = BatchPlan(task, entries, seed=20, cluster_batches=100)
    found = [plan.imbalance(step, world) for step in range(steps)]
    print(
        f"{len(entries):,} clips of 9 to 97 frames in 5 shapes, batches of {batch} on {world} workers: "
        f"mean {statistics.mean(found):.1%}, most {max(found):.1%}"
    )
    found = by_duration(entries, batch, world, steps)
    print(
        f"the same, clustered by duration and dealt out by count: mean {statistics.mean(found):.1%}, "
        f"most {max(found):.1%}"
    )


def mixed_clips(count: int = 20_000) -> list[Entry]:
    """Clips as a real data set has them, at 256 pixels in the released network's cost."""
    rng = generator(0, "mixed clips")
    sizes = crop_sizes(num_cells(256), max_ratio=3)
    sizes = [sizes[index] for index in np.linspace(0, len(sizes) - 1, 5).round().astype(int)]
    per_token, per_pair = token_cost(RELEASED_MODELS["2B_GQA"], (1, 2, 2))
    entries = []
    for number in range(count):
        width, height = sizes[rng.integers(len(sizes))]
        # Of 4n + 1 frames, n latents are trained on.
        latents = int(rng.integers(2, 25))
        tokens = latents * (width // 16) * (height // 16)
        bucket = f"{width}x{height}x{4 * latents + 1}"
        entries.append(Entry(f"{number:08}", "web", bucket, tokens, per_token * tokens + per_pair * tokens**2))
    return entries


def by_duration(entries: Sequence[Entry], batch: int, world: int, steps: int) -> list[float]:
    """The same of batches whose clips have about one duration, as many for each worker."""
    frames = [int(entry.bucket.split("x")[2]) for entry in entries]
    indices, found = order(frames, batch, seed=20), []
    for _ in range(steps):
        costs = np.array([entries[next(indices)].cost for _ in range(batch)])
        sums = [float(costs[worker::world].sum()) for worker in range(world)]
        found.append(max(sums) * world / sum(sums) - 1)
    return found
