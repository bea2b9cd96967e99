"""From noise to latents: Euler integration with multi-stage patches and guidance (paper sections 3.1.4 and 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lumina.flow_matching.path import shift_time
from lumina.flow_matching.schedules import SamplerConfig, value_at
from lumina.models.block_cache import BlockCache
from lumina.models.config import PatchSize
from lumina.models.next_dit import MultiScaleNextDiT, TextCondition

Progress = Callable[[int, int], None]
"""Called with (evaluations done, evaluations in all)."""


def time_grid(steps: int, shift: float | None) -> Tensor:
    """The steps + 1 times of an integration from 0 to 1, float32, on the CPU."""
    return shift_time(torch.linspace(0, 1, steps + 1), shift)


def integrate(field: Callable[[Tensor, Tensor], Tensor], noise: Tensor, grid: Tensor) -> Tensor:
    """Euler steps x <- x + (t' - t) v(x, t), from noise at grid[0] to grid[-1].

    Args:
        field: v(x, t) with x shaped and typed as noise and t [] float32.
        noise: the state at the first time.
        grid: [K + 1] ascending times; K evaluations, none at the last time.

    Returns:
        The final state, float32: states and steps are float32 whatever the field computes in.
    """
    state = noise.float()
    for t, later in pairwise(grid.unbind()):
        state = euler_step(state, field(state.to(noise.dtype), t), t, later)
    return state


def euler_step(state: Tensor, velocity: Tensor, t: Tensor, later: Tensor) -> Tensor:
    """x + (t' - t) v, float32, of a state at time t []."""
    return state + (later - t).to(state.device) * velocity.float()


def guided_velocity(
    model: MultiScaleNextDiT,
    x: Tensor,
    t: Tensor,
    text: TextCondition,
    motion: Tensor,
    patch: PatchSize,
    weights: Sequence[float],
    norm_cap: float | None = None,
    cache: BlockCache | None = None,
) -> Tensor:
    """v + sum_i w_i (v - v_i), float32, all sides in one call of the model.

    Args:
        model: predicts the velocities.
        x: [n, C, F, H, W], the latents of the positive side, used for every side.
        t: [] time, in the type in which the model shall scale it.
        text: (1 + k) n prompts: n positive ones, then k groups of n negative ones.
        motion: [(1 + k) n] motion scores in the same order.
        patch: the scale.
        weights: k weights; a group whose weight is not above 0 is not evaluated.
        norm_cap: limits each item's guided norm to this multiple of its unguided norm.
        cache: passed on to the model.

    Returns:
        [n, C, F, H, W].
    """
    n = len(x)
    if len(text.pooled) != n * (1 + len(weights)) or len(motion) != len(text.pooled):
        raise ValueError(
            f"{n} latents and {len(weights)} weights need {n * (1 + len(weights))} prompts and motion scores, "
            f"got {len(text.pooled)} and {len(motion)}"
        )
    active = [group for group, weight in enumerate(weights) if weight > 0]
    rows = [side * n + item for side in (0, *(group + 1 for group in active)) for item in range(n)]
    sides = len(active) + 1
    latents, times = x.repeat(sides, 1, 1, 1, 1), t.expand(len(rows))
    velocities = model(latents, times, text.select(rows), motion[rows], patch, cache)
    positive, *negatives = velocities.float().chunk(sides)
    return guide(positive, negatives, [weights[group] for group in active], norm_cap)


def guide(
    positive: Tensor, negatives: Sequence[Tensor], weights: Sequence[float], norm_cap: float | None = None
) -> Tensor:
    """v + sum_i w_i (v - v_i), float32 [n, ...], of velocities [n, ...]; see `guided_velocity` for the cap."""
    guided = positive
    for weight, negative in zip(weights, negatives, strict=True):
        guided = guided + weight * (positive - negative)
    if norm_cap is None or not negatives:
        return guided
    limit = norm_cap * _norms(positive)
    norms = _norms(guided)
    return torch.where(norms >= limit, guided * (limit / norms), guided)


def _norms(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)


@torch.inference_mode()
def sample(
    model: MultiScaleNextDiT,
    noise: Tensor,
    text: Sequence[Tensor],
    negative_text: Sequence[Tensor],
    config: SamplerConfig,
    motion: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Sample one latent per prompt.

    Items do not influence each other; a batch and its items alone differ by rounding only.

    Args:
        model: predicts the velocities, in its own type and on its own device.
        noise: [N, C, F, H, W] standard normal, one draw per item.
        text: N text features [L_i, Y] of the prompts.
        negative_text: N text features of the negative prompts; unread when nothing is guided.
        config: steps, scales, guidance and motion.
        motion: N motion scores that replace the config's positive schedule, and what its negative one takes of it.
        progress: called after every evaluation.

    Returns:
        [N, C, F, H, W] float32 latents.
    """
    n = len(noise)
    if len(text) != n or (motion is not None and len(motion) != n):
        raise ValueError(
            f"got {n} noises, {len(text)} prompts and {n if motion is None else len(motion)} motion scores"
        )
    velocity = velocity_field(model, text, negative_text, config, noise.shape[2], motion)
    done = 0

    def field(x: Tensor, t: Tensor) -> Tensor:
        nonlocal done
        found = velocity(x, t)
        done += 1
        if progress is not None:
            progress(done, config.steps)
        return found

    return integrate(field, noise.to(model.device, model.dtype), time_grid(config.steps, config.time_shift))


def velocity_field(
    model: MultiScaleNextDiT,
    text: Sequence[Tensor],
    negative_text: Sequence[Tensor],
    config: SamplerConfig,
    latent_frames: int,
    motion: Sequence[float] | None = None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """The guided velocity v(x, t) of one sampling run, with the scale, the guidance and the motion that t has.

    Args:
        model: see `sample`, as the other arguments.
        text: N text features.
        negative_text: N text features; unread when nothing is guided.
        config: scales, guidance and motion.
        latent_frames: F of the latents.
        motion: N motion scores.

    Returns:
        v(x, t): [N, C, F, H, W] float32 of x shaped so, in the model's type, and t [] float32 on the CPU.
    """
    n = len(text)
    if motion is not None and len(motion) != n:
        raise ValueError(f"got {n} prompts and {len(motion)} motion scores")
    patches = config.patches_of(latent_frames)
    for _, patch in patches:
        model.config.check_patch(patch)
    guided = any(weight > 0 for _, weight in config.guidance)
    if guided and len(negative_text) != n:
        raise ValueError(f"guidance needs a negative prompt for each of {n} prompts, got {len(negative_text)}")
    # Keys and values of the text do not depend on t: once per prompt, not once per step.
    condition = model.encode_text([*text, *(negative_text if guided else ())])
    time_dtype = model.dtype if config.time_dtype == "model" else torch.float32
    cache = None if config.cache_threshold is None else BlockCache(config.cache_threshold)

    def field(x: Tensor, t: Tensor) -> Tensor:
        t = t.to(time_dtype)
        seen = t.item()  # before t goes to the device, for which nothing need wait then
        scores = list(motion) if motion is not None else [value_at(config.motion, seen)] * n
        if guided:
            scores += [config.negative_score(seen, score) for score in scores]
        return guided_velocity(
            model,
            x,
            t.to(model.device),
            condition,
            torch.tensor(scores, dtype=time_dtype, device=model.device),
            value_at(patches, seen),
            [value_at(config.guidance, seen)] if guided else [],
            config.norm_cap,
            cache,
        )

    return field
