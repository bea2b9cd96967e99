"""Algorithm 1 of the paper in one process, written apart from the trainer: its own loss, rate, clip, decay and average.

Only what a batch holds comes from the library, and has tests of its own.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lumina import checkpoints
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.training.data.latents import LatentDataset
from lumina.training.objective import MicroBatch, Objective
from lumina.training.stage import TrainStageConfig
from lumina.training.weights.start import initial_model
from tests.lumina.training import toy

# Every setting of the optimizer has a say, and none is a default of torch, DeepSpeed or ours: the gradient norm lies
# below the clip in some steps and above it in others, the cap of the average's warm-up binds for its first updates
# only, and the coarse scale is left out of every other step, with a batch in several passes.
TELLING = toy.stage(
    steps=9,
    tasks=(
        toy.COARSE.model_copy(update={"ratio": 0.5}),
        toy.IMAGE.model_copy(update={"batch_size": 6, "micro_batch_size": 2}),
        toy.FINE,
    ),
    lr=2e-3,
    warmup_steps=4,
    lr_decay="linear",
    final_lr_fraction=0.3,
    betas=(0.7, 0.9),
    eps=1e-3,
    weight_decay=0.5,
    grad_clip=5.5,
    ema_every=2,
    ema_decay=0.2,
    vd_weight=0.5,
    prompt_drop=0.5,
    initialisation="conditioned",
)


@dataclass
class Run:
    """What a reference run ends with."""

    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    norms: list[float] = field(default_factory=list)
    """Of each step's gradient, before the clip."""
    losses: list[dict[str, float]] = field(default_factory=list)
    """Mean of each task's `loss`, `mse` and `vd` in each step, as `loss/<task>`."""
    bins: dict[str, dict[int, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    """Squared errors of the samples of each task in each twentieth of t."""


def write_start(directory: Path) -> Path:
    """Write a network for `TELLING` to start from: none of its outputs is zero, where the direction has no gradient."""
    checkpoints.save_model(spread(initial_model(TELLING, None)), directory)
    return directory


def spread(model: MultiScaleNextDiT) -> MultiScaleNextDiT:
    """Move every parameter a little, in place, so that all that the network is given shows in what it predicts."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
    return model


def plain_adamw(config: TrainStageConfig, data: LatentDataset, init: Path) -> Run:
    """Train `config` from `init`: the mean losses of all tasks summed, one AdamW step for all of them."""
    model, objective = checkpoints.load_model(init).requires_grad_(True), Objective(config, data)
    live = dict(model.named_parameters())
    run = Run(live, {name: value.detach().clone() for name, value in live.items()})
    first = {name: torch.zeros_like(value) for name, value in live.items()}
    second = {name: torch.zeros_like(value) for name, value in live.items()}
    for step in range(config.steps):
        total, told = torch.zeros(()), dict[str, float]()
        for task in config.tasks:
            if int((step + 1) * task.ratio) == int(step * task.ratio):
                continue
            of_task = data.of_task(task, config)
            batch = objective.micro_batch(step, task, of_task.items(of_task.plan.batch(step)))
            mse, direction = item_losses(model, batch)
            total = total + (mse + config.vd_weight * direction).mean()
            mse, direction = mse.detach(), direction.detach()
            told |= {f"mse/{task.name}": float(mse.mean()), f"vd/{task.name}": float(direction.mean())}
            told[f"loss/{task.name}"] = told[f"mse/{task.name}"] + config.vd_weight * told[f"vd/{task.name}"]
            for t, value in zip(batch.t.tolist(), mse.tolist(), strict=True):
                run.bins[task.name][int(t * 20)].append(value)
        run.losses.append(told)
        model.zero_grad()
        total.backward()
        # What no task used has gradient 0, not none: its moments still decay.
        grads = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in live.items()}
        run.norms.append(float(torch.cat([grad.flatten() for grad in grads.values()]).norm()))
        scale = min(1.0, config.grad_clip / run.norms[-1])
        rate, (beta_1, beta_2) = _rate(config, step), config.betas
        with torch.no_grad():
            for name, p in live.items():
                first[name] = beta_1 * first[name] + (1 - beta_1) * scale * grads[name]
                second[name] = beta_2 * second[name] + (1 - beta_2) * (scale * grads[name]) ** 2
                p *= 1 - rate * config.weight_decay
                root = (second[name] / (1 - beta_2 ** (step + 1))).sqrt() + config.eps
                p -= rate * first[name] / (1 - beta_1 ** (step + 1)) / root
            if (step + 1) % config.ema_every == 0:
                number = (step + 1) // config.ema_every - 1
                decay = min(config.ema_decay, (1 + number) / (10 + number)) if config.ema_warmup else config.ema_decay
                for name, p in live.items():
                    run.average[name] = decay * run.average[name] + (1 - decay) * p
    run.weights = {name: value.detach() for name, value in live.items()}
    return run


def item_losses(model: MultiScaleNextDiT, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Squared error of the velocity and 1 - cosine, each [N]: every item by itself, at x_t = t x_1 + (1 - t) x_0."""
    mse, direction = [], []
    for row, (x_1, x_0) in enumerate(zip(batch.x_1, batch.x_0, strict=True)):
        t = batch.t[row]
        x_t = (t * x_1 + (1 - t) * x_0)[None]
        [found] = model(x_t, batch.t[row : row + 1], [batch.text[row]], batch.motion[row : row + 1], batch.patch)
        found, target = found.flatten(), (x_1 - x_0).flatten()
        mse.append(((found - target) ** 2).mean())
        direction.append(1 - (found @ target) / (found.norm() * target.norm()))
    return torch.stack(mse), torch.stack(direction)


def _rate(config: TrainStageConfig, step: int) -> float:
    """A linear warm-up to the peak, then a line to its last fraction."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.lr_decay == "constant":
        return config.lr
    assert config.lr_decay == "linear"
    part = (step - config.warmup_steps) / (config.steps - 1 - config.warmup_steps)
    return config.lr * (1 - part * (1 - config.final_lr_fraction))
