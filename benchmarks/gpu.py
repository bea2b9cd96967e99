"""The first minutes on a GPU: what is right, how fast it is, and what it takes of memory, in one table.

    python benchmarks/gpu.py --minutes 15            # networks as large as the released ones, with random weights
    python benchmarks/gpu.py --device cpu --tiny     # the same rows on a CPU, to see that the script works

Every row stands alone: one that fails says why, and the next goes on; what the time does not allow is left out, the
rows that tell most come first. `counted` is what `lumina cost` reckons with; `released` is the time of the same work
done as the released code does it (`plain_model.py`, which recomputes all blocks in training; diffusers; padded texts).
Utilisation counts no operation twice. Fixtures are read from `../shared/golden`, where that is.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch
from plain_model import PlainNextDiT
from torch import Tensor

from lumina import cost, vae_cost
from lumina.flow_matching.sampler import guided_velocity
from lumina.hardware import gpu_of_device
from lumina.models.attention import packed_attention, segments
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.config import RELEASED_MODELS, NextDiTConfig, PatchSize
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.models.text_encoder import TextEncoder
from tests.lumina import golden, tiny

GOLDEN = HERE.parent.parent / "shared" / "golden"
STEMS = ("A_dit_main", "A_dit_eps", "A_dit_alt", "A_dit_wide")


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    model: NextDiTConfig
    latents: dict[str, tuple[cost.LatentSize, int]]
    """Name -> frames, rows and columns, and clips of a micro-batch."""
    clips: dict[str, tuple[int, int, int]]
    """Name -> width, height and frames of what the VAE takes."""
    text_tokens: int
    prompts: int
    rounds: int


LARGE = Sizes(
    RELEASED_MODELS["2B_GQA"],
    {"512 px": ((16, 64, 64), 1), "960 px": ((24, 120, 120), 1), "256 px": ((8, 32, 32), 4)},
    {"512 px": (672, 384, 64), "960 px": (1248, 704, 96), "256 px": (256, 256, 32)},
    256,
    32,
    3,
)
SMALL = Sizes(
    tiny.TINY,
    {"512 px": ((2, 8, 8), 1), "960 px": ((4, 8, 8), 1), "256 px": ((2, 4, 4), 2)},
    {"512 px": (32, 32, 8)},
    5,
    2,
    1,
)


@dataclass
class Row:
    """One line of the table; what is None was not measured."""

    seconds: float | None = None
    utilisation: float | None = None
    peak: int | None = None
    """Most bytes that were allocated at once."""
    counted: int | None = None
    released: float | None = None
    """Seconds of the released way."""
    note: str = ""


@dataclass
class Bench:
    """The device, and the networks on it."""

    device: torch.device
    sizes: Sizes
    tiny: bool
    peak_flops: float | None
    released_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @cached_property
    def model(self) -> MultiScaleNextDiT:
        """The transformer in bfloat16, without zero branches."""
        with torch.device("meta"):
            made = MultiScaleNextDiT(self.sizes.model)
        made = made.to(torch.bfloat16).to_empty(device=self.device)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.normal_(std=0.02) if parameter.ndim > 1 else parameter.fill_(1.0)
        return made

    def batch(self, size: cost.LatentSize, clips: int) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """Latents, times, text features and motion scores."""
        place: dict[str, Any] = {"device": self.device, "dtype": torch.bfloat16}
        config = self.sizes.model
        text = [torch.randn(self.sizes.text_tokens, config.cap_feat_dim, **place) for _ in range(clips)]
        x, motion = torch.randn(clips, config.in_channels, *size, **place), torch.full((clips,), 4.0, **place)
        return x, torch.full((clips,), 0.5, device=self.device), text, motion

    def measured(self, work: Callable[[], object], flops: int | None = None, once: int | None = None) -> Row:
        """Median seconds of `work` after one call to warm up, and the most memory of all calls."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        taken = []
        for _ in range(once or self.sizes.rounds + 1):
            self.wait()
            begun = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - begun)
        seconds = statistics.median(taken[1:] or taken)
        peak = torch.cuda.max_memory_allocated(self.device) if self.on_gpu else None
        rate = None if flops is None or self.peak_flops is None else flops / seconds / self.peak_flops
        return Row(seconds, rate, peak)

    def drop_model(self) -> None:
        """Make room: what comes next is measured without the transformer."""
        self.__dict__.pop("model", None)
        self.free()

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Give memory back that a row, or one that failed, has left."""
        for parameter in self.model.parameters() if "model" in self.__dict__ else ():
            parameter.grad = None
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def room(self) -> int | None:
        """Bytes of the device."""
        return torch.cuda.get_device_properties(self.device).total_memory if self.on_gpu else None


def fixture(stem: str, dtype: torch.dtype, bench: Bench) -> Row:
    """Largest relative error of a fixture's cases."""
    if not GOLDEN.is_dir():
        return Row(note=f"left out: {GOLDEN} is not there")
    arrays, definitions = golden.read(GOLDEN, stem)
    model, half, worst = golden.model(GOLDEN, definitions, dtype).to(bench.device), dtype is torch.bfloat16, 0.0
    for case, definition in definitions["cases"].items():
        if half and not definition["bf16"]:
            continue

        def items(name: str, case: str = case, definition: dict[str, Any] = definition) -> list[Tensor]:
            if definition["kind"] == "tensor":
                return list(arrays[f"{case}.{name}"].unbind(0))
            return [arrays[f"{case}.{name}.{i}"] for i in range(definition["n_items"])]

        def here(value: Tensor) -> Tensor:
            return value.to(bench.device, dtype)

        text = golden.unpadded(arrays[f"{case}.cap_feats"], arrays[f"{case}.cap_mask"])
        t, motion = here(arrays[f"{case}.t"]), here(arrays[f"{case}.motion"])
        with torch.no_grad():
            patch = golden.freeze(definition["patch"])
            out = model([here(x) for x in items("x")], t, [here(one) for one in text], motion, patch)
        pairs = zip(out, items("out_bf16" if half else "out"), strict=True)
        worst = max([worst, *(golden.relative_error(got.cpu(), want) for got, want in pairs)])
    limit = golden.TOLERANCE["bf16" if half else "fp32"][0]
    if worst > limit:
        raise ValueError(f"relative error {worst:.1e}, over {limit:.0e}")
    return Row(note=f"relative error {worst:.1e} (limit {limit:.0e})")


def kernel(bench: Bench) -> Row:
    """Attention of items of unlike lengths, against each alone in float32."""
    heads, groups, width = (4, 2, 16) if bench.tiny else (16, 8, 144)
    lengths = (5, 9, 2) if bench.tiny else (8192, 4096, 11_000)
    places, total = segments(lengths, bench.device), sum(lengths)
    place: dict[str, Any] = {"device": bench.device, "dtype": torch.bfloat16}
    q, k, v = (torch.randn(total, count, width, **place) for count in (heads, groups, groups))
    row = bench.measured(partial(packed_attention, q, k, v, places, places))
    got, start, worst = packed_attention(q, k, v, places, places).float(), 0, 0.0
    for length in lengths:
        # The first queries alone: the whole matrix of scores would not fit.
        rows, keys = slice(start, start + min(length, 512)), slice(start, start + length)
        wide = (k[keys], v[keys])
        k32, v32 = (one.float().repeat_interleave(heads // groups, dim=1).transpose(0, 1) for one in wide)
        scores = q[rows].float().transpose(0, 1) @ k32.transpose(1, 2) / width**0.5
        want = (scores.softmax(-1) @ v32).transpose(0, 1)
        worst = max(worst, golden.relative_error(got[rows].cpu(), want.cpu()))
        start += length
    if worst > 1e-2:
        raise ValueError(f"relative error {worst:.1e}, over 1e-02")
    row.note = f"relative error {worst:.1e}"
    return row


def training(name: str, mode: Any, compiled: bool, bench: Bench) -> Row:
    """Forward and backward passes of one micro-batch at the finest scale, without the optimizer."""
    config, (size, clips) = bench.sizes.model, bench.sizes.latents[name]
    patch, text = config.patch_sizes[0], bench.sizes.text_tokens
    tokens = clips * cost.forward_cost(config, size, patch, text).tokens
    fixed = 2 * 2 * cost.parameters(config)
    counted = fixed + cost.activation_bytes(config, tokens, clips * text, 2, mode)
    room = bench.room()
    if room is not None and counted > room:
        return Row(counted=counted, note="left out: more than the GPU has")
    model, batch = bench.model, bench.batch(size, clips)
    model.checkpoint_blocks(mode)
    backend = "inductor" if bench.on_gpu else "eager"
    for block in model.layers:
        # Dropped, so that every mode is compiled as it is, and a row without is not.
        block._compiled_call_impl = None
    if compiled:
        torch._dynamo.reset()
        model.compile_blocks(backend)

    def step() -> None:
        model(*batch, patch).float().square().mean().backward()

    row = bench.measured(step, clips * cost.training_cost(config, size, patch, text))
    row.counted, row.released = counted, bench.released_seconds.get(name)
    return row


def released_training(name: str, bench: Bench) -> Row:
    """The same the released way: all blocks recomputed, factors gathered to tokens, texts padded."""
    config, (size, clips) = bench.sizes.model, bench.sizes.latents[name]
    patch = config.patch_sizes[0]
    plain = PlainNextDiT(bench.model, _grid(size, patch), recompute=True)
    batch = bench.batch(size, clips)

    def step() -> None:
        plain(*batch, patch).float().square().mean().backward()

    row = bench.measured(step, clips * cost.training_cost(config, size, patch, bench.sizes.text_tokens))
    bench.released_seconds[name] = row.seconds or 0.0
    return row


def _grid(size: cost.LatentSize, patch: PatchSize) -> tuple[int, int, int]:
    return size[0] // patch[0], size[1] // patch[1], size[2] // patch[2]


def sampling(name: str, patch: PatchSize, bench: Bench) -> Row:
    """One guided evaluation of one clip: two rows, as in most steps of the released schedules."""
    config, (size, _) = bench.sizes.model, bench.sizes.latents[name]
    x, _, texts, motion = bench.batch(size, 2)
    t = torch.tensor(0.5, device=bench.device, dtype=torch.bfloat16)
    model = bench.model
    for block in model.layers:
        block._compiled_call_impl = None
    with torch.inference_mode():
        text = model.encode_text(texts)
        ours = partial(guided_velocity, model, x[:1], t, text, motion, patch, [4.0], norm_cap=2.0)
        plain = PlainNextDiT(model, _grid(size, patch))
        released = bench.measured(partial(plain, x, t.expand(2), texts, motion, patch))
        bench.free()
        each = cost.forward_cost(config, size, patch, bench.sizes.text_tokens)
        row = bench.measured(ours, 2 * each.flops)
    row.counted = 2 * cost.parameters(config) + cost.evaluation_bytes(config, 2 * each.tokens, 2)
    row.released = released.seconds
    return row


def vae(name: str, way: Any, tiled: bool, bench: Bench) -> Row:
    """The CogVideoX VAE in bfloat16, against diffusers' own call."""
    from diffusers import AutoencoderKLCogVideoX

    bench.drop_model()
    if bench.tiny:
        network = tiny.autoencoder()
    else:
        with torch.device("meta"):
            large = AutoencoderKLCogVideoX(
                block_out_channels=(128, 256, 256, 512),
                layers_per_block=3,
                latent_channels=16,
                down_block_types=("CogVideoXDownBlock3D",) * 4,
                up_block_types=("CogVideoXUpBlock3D",) * 4,
            )
        filled = large.to_empty(device=bench.device).to(torch.bfloat16).eval().requires_grad_(False)
        for parameter in filled.parameters():
            parameter.normal_(std=0.02)
        network = VideoAutoencoder(filled)
    if tiled:
        network.enable_tiling()
    width, height, frames = bench.sizes.clips[name]
    latent = torch.randn(1, 16, frames // 4, height // 8, width // 8, device=bench.device, dtype=network.vae.dtype)
    clip = torch.zeros(frames + 1, height, width, 3, dtype=torch.uint8)
    given = frames if way == "decode" else frames + 1
    work = partial(network.decode, latent) if way == "decode" else partial(network.encode, clip)
    row = bench.measured(work, vae_cost.vae_flops(way, width, height, given, tiled), once=2)
    row.counted = vae_cost.vae_bytes(way, width, height, given, 2, tiled) + 2 * vae_cost.VAE_PARAMETERS
    pixels = clip.permute(3, 0, 1, 2)[None].to(bench.device, network.vae.dtype) / 127.5 - 1
    with torch.no_grad():
        official = partial(network.vae.decode, latent) if way == "decode" else partial(network.vae.encode, pixels)
        row.released = bench.measured(official, once=2).seconds
    return row


class _Tokenizer:
    """Prompts that are numbers of tokens."""

    def __call__(self, prompt: str, **_options: Any) -> dict[str, list[int]]:
        return {"input_ids": [2 + item % 20 for item in range(int(prompt))]}


def text_encoder(bench: Bench) -> Row:
    """Gemma-2 on prompts of unlike lengths, against one padded batch of 256 tokens, as the released code has them."""
    from transformers import Gemma2Config, Gemma2Model

    bench.drop_model()
    if bench.tiny:
        network: Any = tiny.text_encoder().model
    else:
        with torch.device("meta"):
            network = Gemma2Model(Gemma2Config(attn_implementation="eager"))
        network = network.to(torch.bfloat16).to_empty(device=bench.device)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(std=0.02)
            for buffer in network.buffers():
                buffer.normal_()
    network = network.eval().requires_grad_(False)
    longest = bench.sizes.text_tokens
    lengths = [max(2, longest * (1 + item) // (2 * bench.sizes.prompts)) for item in range(bench.sizes.prompts)]
    encoder = TextEncoder(network, _Tokenizer())  # type: ignore[arg-type]
    work = partial(encoder.encode, [str(length) for length in lengths])
    row = bench.measured(work, sum(map(vae_cost.text_flops, lengths)))
    ids = torch.full((len(lengths), longest), 2, device=bench.device)
    mask = torch.arange(longest, device=bench.device) < torch.tensor(lengths, device=bench.device)[:, None]

    def padded() -> None:
        with torch.no_grad():
            network(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True, use_cache=False)

    row.released = bench.measured(padded).seconds
    row.note = f"{len(lengths)} prompts"
    return row


def rows(sizes: Sizes) -> Iterator[tuple[str, Callable[[Bench], Row]]]:
    """All of them, those first that tell most."""
    for stem in STEMS:
        for dtype in (torch.float32, torch.bfloat16):
            yield f"fixture {stem}, {str(dtype).removeprefix('torch.')}", partial(fixture, stem, dtype)
    yield "attention, unlike lengths", kernel
    modes = {"512 px": "none", "960 px": "attention", "256 px": "none"}
    for name in sizes.latents:
        yield f"train {name}, the released way", partial(released_training, name)
        yield f"train {name}, {modes[name]}, compiled", partial(training, name, modes[name], True)
    for name in sizes.latents:
        for patch in sizes.model.patch_sizes:
            yield f"guided evaluation {name}, {'x'.join(map(str, patch))}", partial(sampling, name, patch)
    for name in sizes.clips:
        for way in ("encode", "decode"):
            yield f"VAE {way} {name}", partial(vae, name, way, False)
    yield "text encoder", text_encoder
    for name in sizes.latents:
        for mode in cost.CHECKPOINTING:
            if mode != modes[name]:
                yield f"train {name}, {mode}, compiled", partial(training, name, mode, True)
    yield "train 512 px, none, not compiled", partial(training, "512 px", "none", False)
    largest = list(sizes.clips)[min(1, len(sizes.clips) - 1)]
    for way in ("encode", "decode"):
        yield f"VAE {way} {largest}, tiled", partial(vae, largest, way, True)


def machine(device: torch.device) -> str:
    """GPU, driver, torch and commit."""
    git = shutil.which("git")
    commit = _said(git, "rev-parse", "HEAD", where=HERE) if git else ""
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, commit {commit or 'unknown'}"
    if device.type != "cuda":
        return f"{device.type}, {versions}"
    smi = shutil.which("nvidia-smi")
    driver = _said(smi, "--query-gpu=driver_version", "--format=csv,noheader", where=HERE) if smi else ""
    return f"{torch.cuda.get_device_name(device)}, driver {driver.partition(chr(10))[0] or 'unknown'}, {versions}"


def _said(program: str, *arguments: str, where: Path) -> str:
    done = subprocess.run([program, *arguments], cwd=where, capture_output=True, text=True)
    return done.stdout.strip()


def _line(name: str, row: Row) -> str:
    cells = [
        name,
        "" if row.seconds is None else f"{row.seconds * 1e3:.1f} ms",
        "" if row.utilisation is None else f"{row.utilisation:.0%}",
        "" if row.peak is None else f"{row.peak / 1e9:.2f} GB",
        "" if row.counted is None else f"{row.counted / 1e9:.2f} GB",
        "" if not row.released else f"{row.released * 1e3:.1f} ms",
        "" if not row.released or not row.seconds else f"{row.released / row.seconds:.2f}x",
        row.note,
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the number of rows that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=15.0, help="begin no row after so many")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to try the script")
    parser.add_argument("--only", nargs="*", default=[""], help="rows whose name holds one of these")
    args = parser.parse_args(arguments)
    begun, device = time.monotonic(), torch.device(args.device)
    sizes = SMALL if args.tiny else LARGE
    gpu = gpu_of_device(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    bench = Bench(device, sizes, args.tiny, None if gpu is None else gpu.peak_flops)
    print(machine(device))
    print(
        "| | time | utilisation | peak | counted | released | ratio | |\n|---|---|---|---|---|---|---|---|", flush=True
    )
    failed = 0
    for name, measure in rows(sizes):
        if not any(part in name for part in args.only):
            continue
        if time.monotonic() - begun > 60 * args.minutes:
            row = Row(note="left out: no time (--minutes)")
        else:
            try:
                row = measure(bench)
            except Exception as error:  # noqa: BLE001 - the next row may be well
                failed += 1
                row = Row(note=f"FAILED: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
            bench.free()
        print(_line(name, row), flush=True)
    print(f"{failed} rows failed; {time.monotonic() - begun:.0f} s")
    return failed


if __name__ == "__main__":
    sys.exit(min(main(), 1))
