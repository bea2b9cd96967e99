"""Time the block stack against a plain one that works the way the released code does, at equal weights.

    python benchmarks/model.py                 # a small model on the CPU
    python benchmarks/model.py --compile       # our blocks under torch.compile; needs a compiler
    python benchmarks/model.py --device cuda   # the 2B model in bf16, with model FLOP utilisation

The reference, `plain_model.py`, is written for this comparison. Both compute the same numbers, which the script checks
before it times them.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

import torch
from plain_model import PlainNextDiT
from torch import Tensor

from lumina.cost import forward_cost, sampling_cost, training_cost
from lumina.flow_matching.sampler import sample, time_grid
from lumina.flow_matching.schedules import PRESETS, SamplerConfig, value_at
from lumina.models.config import RELEASED_MODELS, NextDiTConfig, PatchSize, Recompute, patch_key
from lumina.models.next_dit import MultiScaleNextDiT
from tests.lumina.models.storages import Storages

PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}


@dataclass(frozen=True)
class Case:
    """What is timed."""

    config: NextDiTConfig
    latent: tuple[int, int, int]
    batch: int
    text_tokens: tuple[int, ...]
    sampler: SamplerConfig
    dtype: torch.dtype
    device: str
    compiled: bool = False


def build(case: Case) -> MultiScaleNextDiT:
    """A network without zero branches: noise on every weight of the released initialisation."""
    generator = torch.Generator().manual_seed(0)
    model = MultiScaleNextDiT(case.config, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return model.to(case.device, case.dtype)


def inputs(case: Case) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """Latents, times, text features, motion scores of one training batch."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(case.batch, case.config.in_channels, *case.latent, generator=g)
    lengths = [case.text_tokens[item % len(case.text_tokens)] for item in range(case.batch)]
    text = [torch.randn(length, case.config.cap_feat_dim, generator=g) for length in lengths]
    t, motion = torch.rand(case.batch, generator=g), torch.full((case.batch,), 4.0)
    place = {"device": case.device, "dtype": case.dtype}
    return x.to(**place), t.to(case.device), [one.to(**place) for one in text], motion.to(case.device)


def plain_sample(
    plain: PlainNextDiT, noise: Tensor, text: list[Tensor], negative: list[Tensor], config: SamplerConfig
) -> Tensor:
    """The released loop: positive and negative rows in every guided evaluation, text work in all of them."""
    state, n = noise.float(), len(noise)
    for t, later in pairwise(time_grid(config.steps, config.time_shift).unbind()):
        seen = t.to(noise.dtype).item()
        weight, patch = value_at(config.guidance, seen), value_at(config.patches, seen)
        sides = 2 if weight > 0 else 1
        score = value_at(config.motion, seen)
        scores = [score] * n + [config.negative_score(seen, score)] * (n * (sides - 1))
        rows = state.to(noise.dtype).repeat(sides, 1, 1, 1, 1)
        times = t.to(noise.device, noise.dtype).expand(n * sides)
        motion = torch.tensor(scores, device=noise.device, dtype=noise.dtype)
        v = plain(rows, times, [*text, *negative][: n * sides], motion, patch).float()
        guided = v[:n] + weight * (v[:n] - v[n:]) if sides == 2 else v
        state = state + (later - t).to(state.device) * guided
    return state


@dataclass(frozen=True)
class Times:
    """Median seconds of two ways to do one thing."""

    ours: float
    reference: float


def paired(ours: Callable[[], object], reference: Callable[[], object], rounds: int, device: str) -> Times:
    """Time both in turns, so that a busy machine slows both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for side, work in enumerate((ours, reference)):
            _wait(device)
            begun = time.perf_counter()
            work()
            _wait(device)
            if turn:
                seconds[side].append(time.perf_counter() - begun)
    return Times(statistics.median(seconds[0]), statistics.median(seconds[1]))


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _step(network: Callable[..., Tensor], parameters: list[Tensor], batch: tuple[Any, ...], patch: PatchSize) -> None:
    network(*batch, patch).float().square().mean().backward()
    for parameter in parameters:
        parameter.grad = None


def compare(case: Case, rounds: int) -> None:
    """Print times of a forward pass, a training step and a guided sample, ours against the reference."""
    model = build(case)
    plain, batch, patch = PlainNextDiT(model), inputs(case), case.config.patch_sizes[0]
    if case.compiled:
        model.compile_blocks()
    x, _, text, _ = batch
    with torch.no_grad():
        a, b = model(*batch, patch).float(), plain(*batch, patch).float()
    error = ((a - b).norm() / b.norm()).item()
    if error > (1e-4 if case.dtype is torch.float32 else 5e-2):
        raise SystemExit(f"the two networks differ by {error:.2e}: nothing to compare")
    print(f"same weights, relative difference of one evaluation {error:.1e}")
    with torch.inference_mode():
        forward = paired(lambda: model(*batch, patch), lambda: plain(*batch, patch), rounds, case.device)
    _print_ratio("forward", forward)
    parameters = list(model.parameters())
    both = paired(
        lambda: _step(model, parameters, batch, patch),
        lambda: _step(plain, parameters, batch, patch),
        rounds,
        case.device,
    )
    _print_ratio("forward + backward", both, aim=1.2)
    flops = case.batch * training_cost(case.config, case.latent, patch, max(map(len, text)))
    _print_rate("forward + backward", flops, both.ours, case.device)
    noise, positive, negative = x[:1], text[:1], text[-1:]
    with torch.inference_mode():
        guided = paired(
            lambda: sample(model, noise, positive, negative, case.sampler),
            lambda: plain_sample(plain, noise, positive, negative, case.sampler),
            max(1, rounds // 3),
            case.device,
        )
    _print_ratio(f"guided sample, {case.sampler.steps} evaluations", guided, aim=1.5)
    counted = sampling_cost(case.config, case.latent, case.sampler, len(positive[0]), len(negative[0]))
    _print_rate("guided sample", counted.flops, guided.ours, case.device)


def checkpointing(case: Case, rounds: int) -> None:
    """Print time and kept memory of a training step for each mode of activation checkpointing, against none."""
    model, batch, patch = build(case), inputs(case), case.config.patch_sizes[0]
    plain = copy.deepcopy(model)
    parameters = [*model.parameters(), *plain.parameters()]
    kept = {}
    for mode in get_args(Recompute):
        model.checkpoint_blocks(mode)
        with Storages() as results:
            loss = model(*batch, patch).float().square().mean()
        kept[mode] = results.alive()
        loss.backward()
        taken = paired(
            partial(_step, model, parameters, batch, patch),
            partial(_step, plain, parameters, batch, patch),
            rounds,
            case.device,
        )
        print(
            f"checkpointing {mode}: {taken.ours / taken.reference:.2f} of the time of a training step without, "
            f"{kept[mode] / kept['none']:.2f} of its {kept['none'] / 2**20:.0f} MiB kept for the backward pass",
            flush=True,
        )


def schedules(case: Case, rounds: int) -> None:
    """Print wall-time ratios of the scales and of the multi-scale schedule, beside the ratios of operations."""
    model = build(case)
    x, t, text, motion = (part[:1] for part in inputs(case))
    finest, length = case.config.patch_sizes[0], len(text[0])
    finest_flops = forward_cost(case.config, case.latent, finest, length).flops
    with torch.inference_mode():
        for patch in case.config.patch_sizes:
            flops = forward_cost(case.config, case.latent, patch, length).flops
            taken = paired(
                partial(model, x, t, text, motion, patch),
                partial(model, x, t, text, motion, finest),
                rounds,
                case.device,
            )
            _print_share(f"scale {patch_key(patch)}", taken, flops / finest_flops)
        single = case.sampler.model_copy(update={"patches": ((0.0, finest),)})
        taken = paired(
            partial(sample, model, x, text, text, case.sampler),
            partial(sample, model, x, text, text, single),
            1,
            case.device,
        )
    counted = [sampling_cost(case.config, case.latent, one, length, length).flops for one in (case.sampler, single)]
    _print_share("multi-scale schedule", taken, counted[0] / counted[1])


def _print_ratio(what: str, times: Times, aim: float | None = None) -> None:
    target = "" if aim is None else f" (aim {aim}x)"
    ratio = times.reference / times.ours
    print(
        f"{what}: {times.ours * 1e3:.1f} ms, reference {times.reference * 1e3:.1f} ms: {ratio:.2f}x{target}", flush=True
    )


def _print_share(what: str, times: Times, operations: float) -> None:
    print(f"{what}: {times.ours / times.reference:.2f} of the finest scale's time, {operations:.2f} of its operations")


def _print_rate(what: str, flops: int, seconds: float, device: str) -> None:
    if device == "cpu":
        print(f"{what}: {flops / seconds / 1e9:.0f} GFLOP/s")
        return
    name = torch.cuda.get_device_name()
    peak = next((value for key, value in PEAK_FLOPS.items() if key in name), None)
    share = "" if peak is None else f", {flops / seconds / peak:.0%} of the {peak / 1e12:.0f} TFLOP/s of {name}"
    print(f"{what}: {flops / seconds / 1e12:.0f} TFLOP/s{share}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    multi_scale = PRESETS["f16F64R512-MultiScale"]
    if args.device == "cpu":
        small = NextDiTConfig(dim=192, n_layers=4, n_heads=4, n_kv_heads=2, multiple_of=64, cap_feat_dim=192)
        print(f"torch {torch.__version__}, CPU, {args.threads} thread(s)")
        batch = Case(small, (4, 16, 16), 4, (40, 120, 64, 90), multi_scale, torch.float32, "cpu", args.compile)
        compare(batch, args.rounds)
        checkpointing(batch, args.rounds)
        schedules(Case(small, (8, 24, 40), 1, (64,), multi_scale, torch.float32, "cpu"), args.rounds)
        return
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    large = RELEASED_MODELS["2B_GQA"]
    for latent, name in (((8, 32, 32), "256 px, 32 frames"), ((16, 64, 64), "512 px, 64 frames")):
        print(f"2B_GQA, {name}")
        case = Case(large, latent, 2, (256, 200), multi_scale, torch.bfloat16, args.device, args.compile)
        compare(case, args.rounds)
        checkpointing(case, args.rounds)


if __name__ == "__main__":
    main()
