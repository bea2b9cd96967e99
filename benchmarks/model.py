"""Time the block stack against a plain one that works the way the released code does, at equal weights.

    python benchmarks/model.py                 # a small model on the CPU
    python benchmarks/model.py --compile       # our blocks under torch.compile; needs a compiler
    python benchmarks/model.py --device cuda   # the 2B model in bf16, with model FLOP utilisation

The reference is written for this comparison: a complex rotary table for every position, four gathers of adaLN factors
to one row per token, keys and values of the text anew in every evaluation, and captions padded to one length. Both
compute the same numbers, which the script checks before it times them.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from lumina.cost import forward_cost, sampling_cost, training_cost
from lumina.flow_matching.sampler import sample, time_grid
from lumina.flow_matching.schedules import PRESETS, SamplerConfig, value_at
from lumina.models.activation_checkpointing import Recompute
from lumina.models.config import RELEASED_MODELS, NextDiTConfig, PatchSize, patch_key
from lumina.models.next_dit import MultiScaleNextDiT

TABLE = (16, 32, 32)
"""Positions of the reference's rotary table; the released one has 64 x 128 x 128."""
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}


class PlainNextDiT:
    """The same function of the same weights, computed the straightforward way."""

    def __init__(self, model: MultiScaleNextDiT) -> None:
        self.config = model.config
        self.w = dict(model.named_parameters())
        self.model = model
        width = 8 * (self.config.head_dim // 8)
        axes = (width // 4, 3 * width // 8, 3 * width // 8)
        angles = []
        for axis, (length, size) in enumerate(zip(axes, TABLE, strict=True)):
            rates = self.config.rope_theta ** (-torch.arange(0, length, 2, dtype=torch.float64) / length)
            grid = torch.outer(torch.arange(size, dtype=torch.float64), rates)
            shape = [1, 1, 1, length // 2]
            shape[axis] = size
            angles.append(grid.view(shape).expand(*TABLE, -1))
        whole = torch.cat(angles, dim=-1)
        self.table = torch.polar(torch.ones_like(whole), whole).to(torch.complex64).to(model.device)

    def __call__(
        self, x: Tensor, t: Tensor, text: Sequence[Tensor], motion: Tensor, patch: PatchSize, _cache: object = None
    ) -> Tensor:
        config, w, n = self.config, self.w, len(x)
        longest = max(map(len, text))
        padded = torch.stack([F.pad(one, (0, 0, 0, longest - len(one))) for one in text])
        mask = torch.stack([torch.arange(longest, device=x.device) < len(one) for one in text])
        pooled = torch.stack([one.float().mean(0) for one in text]).to(x.dtype)
        condition = self.model.condition(t, self.model.cap_embedder(pooled), motion)
        pt, ph, pw = patch
        c, f, h, wd = x.shape[1:]
        grid = (f // pt, h // ph, wd // pw)
        cut = x.reshape(n, c, grid[0], pt, grid[1], ph, grid[2], pw)
        hidden = cut.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(n, -1, pt * ph * pw * c)
        key = patch_key(patch)
        hidden = F.linear(hidden, w[f"all_x_embedder.{key}.weight"], w[f"all_x_embedder.{key}.bias"])
        rotation = self.table[: grid[0], : grid[1], : grid[2]].reshape(1, -1, 1, self.table.shape[-1])
        tokens = hidden.shape[1]
        item = torch.arange(n, device=x.device).repeat_interleave(tokens)
        hidden = hidden.reshape(n * tokens, -1)
        for index in range(config.n_layers):
            hidden = self._block(f"layers.{index}.", hidden, condition, item, n, rotation, padded, mask)
        scale = F.linear(F.silu(condition), *self._pair(f"all_final_layer.{key}.adaLN_modulation.1"))[item]
        hidden = F.layer_norm(hidden, hidden.shape[-1:], eps=1e-6) * (1 + scale)
        out = F.linear(hidden, *self._pair(f"all_final_layer.{key}.linear")).reshape(n, *grid, pt, ph, pw, c)
        return out.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(x.shape)

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self.w[f"{name}.weight"], self.w[f"{name}.bias"]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.config.norm_eps)
        return wide.to(x.dtype) * self.w[name]

    def _rotate(self, x: Tensor, rotation: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * rotation).flatten(3).to(x.dtype)

    def _block(
        self,
        p: str,
        x: Tensor,
        condition: Tensor,
        item: Tensor,
        n: int,
        rotation: Tensor,
        text: Tensor,
        mask: Tensor,
    ) -> Tensor:
        config, w = self.config, self.w
        factors = F.linear(F.silu(condition), *self._pair(f"{p}adaLN_modulation.1")).chunk(4, dim=-1)
        scale1, gate1, scale2, gate2 = (factor[item] for factor in factors)
        inner = (self._norm(x, f"{p}attention_norm1.weight") * (1 + scale1)).view(n, -1, config.dim)
        y = self._norm(text, f"{p}attention_y_norm.weight")
        a = f"{p}attention."

        def heads(values: Tensor) -> Tensor:
            return values.unflatten(-1, (-1, config.head_dim))

        def normed(values: Tensor, name: str) -> Tensor:
            return F.layer_norm(values, values.shape[-1:], *self._pair(f"{a}{name}"), eps=1e-5)

        q = self._rotate(heads(normed(F.linear(inner, w[f"{a}wq.weight"]), "q_norm")), rotation)
        k = self._rotate(heads(normed(F.linear(inner, w[f"{a}wk.weight"]), "k_norm")), rotation)
        v = heads(F.linear(inner, w[f"{a}wv.weight"]))
        yk = heads(normed(F.linear(y, w[f"{a}wk_y.weight"]), "ky_norm"))
        yv = heads(F.linear(y, w[f"{a}wv_y.weight"]))
        groups = config.n_heads // config.kv_heads
        q, k, v, yk, yv = (z.transpose(1, 2) for z in (q, k, v, yk, yv))
        k, v, yk, yv = (z.repeat_interleave(groups, dim=1) for z in (k, v, yk, yv))
        own = F.scaled_dot_product_attention(q, k, v)
        caption = F.scaled_dot_product_attention(q, yk, yv, attn_mask=mask[:, None, None, :])
        mixed = own + caption * w[f"{a}gate"].tanh()[None, :, None, None]
        out = F.linear(mixed.transpose(1, 2).flatten(2), w[f"{a}wo.weight"]).reshape(x.shape)
        x = x + gate1.tanh() * self._norm(out, f"{p}attention_norm2.weight")
        z = self._norm(x, f"{p}ffn_norm1.weight") * (1 + scale2)
        f = f"{p}feed_forward."
        out = F.linear(F.silu(F.linear(z, w[f"{f}w1.weight"])) * F.linear(z, w[f"{f}w3.weight"]), w[f"{f}w2.weight"])
        return x + gate2.tanh() * self._norm(out, f"{p}ffn_norm2.weight")


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
        scores = [value_at(config.motion, seen)] * n + [value_at(config.negative_motion, seen)] * (n * (sides - 1))
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


class _Results(TorchDispatchMode):
    """Remembers the memory of all results, without keeping it alive."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple) else (out,):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self.sizes[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return out

    def alive(self) -> int:
        return sum(size for reference, size in self.sizes.values() if not reference.expired())


def checkpointing(case: Case, rounds: int) -> None:
    """Print time and kept memory of a training step for each mode of activation checkpointing, against none."""
    model, batch, patch = build(case), inputs(case), case.config.patch_sizes[0]
    plain = copy.deepcopy(model)
    parameters = [*model.parameters(), *plain.parameters()]
    kept = {}
    for mode in get_args(Recompute):
        model.checkpoint_blocks(mode)
        with _Results() as results:
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
