"""Measure what step caching saves and costs on the Shapes world.

    python benchmarks/step_cache.py CHECKPOINT

CHECKPOINT is what the demo exports. Every row is the same prompts from the same noise; times are those of sampling
alone, in units of sampling without the cache in the same run.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import torch

from lumina.evaluation.metrics import judge_shape
from lumina.evaluation.prompts import Prompt, ShapesSuite, build
from lumina.flow_matching.sampler import sample
from lumina.flow_matching.schedules import SamplerConfig
from lumina.generate import TextToVideo
from lumina.latents import initial_noise
from lumina.system_prompts import compose

BATCH = 20


def latents(model: TextToVideo, prompts: list[Prompt], sampler: SamplerConfig) -> torch.Tensor:
    """[N, C, F, h, w]: one latent per prompt."""
    defaults, system_prompt = model.defaults, model.system_prompt(None)
    shape = model.latent_shape(defaults.num_frames, defaults.width, defaults.height, sampler)
    text = model.text_encoder.encode([compose(system_prompt, prompt.caption) for prompt in prompts])
    [negative] = model.text_encoder.encode([compose(system_prompt, "")])
    parts = []
    for at in range(0, len(prompts), BATCH):
        some = text[at : at + BATCH]
        noise = torch.stack([initial_noise(shape, 0, prompt.prompt_id) for prompt in prompts[at : at + BATCH]])
        parts.append(sample(model.transformer, noise, some, [negative] * len(some), sampler))
    return torch.cat(parts)


def accuracy(model: TextToVideo, found: torch.Tensor, prompts: list[Prompt]) -> str:
    """Share of clips that show the asked colour, shape and direction."""
    right: Counter[str] = Counter()
    for latent, prompt in zip(found, prompts, strict=True):
        if prompt.truth is None:
            raise AssertionError("the Shapes suite knows what its prompts ask for")
        judged = judge_shape(model.vae.decode(latent[None])[0].numpy(), model.defaults.fps, prompt.truth)
        right.update({name: value == 1 for name, value in judged.items() if name.endswith("_acc")})
    return ", ".join(f"{name.removeprefix('shapes/')} {count / len(prompts):.0%}" for name, count in right.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.1, 0.2, 0.4, 0.8])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = TextToVideo.from_pretrained(args.checkpoint)
    prompts = list(build(ShapesSuite(kind="shapes", count=args.prompts), "report", 0, ()).prompts)
    exact, base = None, 0.0
    for threshold in (None, *args.thresholds):
        sampler = model.defaults.sampler.model_copy(update={"cache_threshold": threshold})
        begun = time.perf_counter()
        found = latents(model, prompts, sampler)
        seconds = time.perf_counter() - begun
        if exact is None:
            exact, base = found, seconds
        change = float((found - exact).norm() / exact.norm())
        name = "without" if threshold is None else f"threshold {threshold:g}"
        share = f"{seconds / base:.2f} of the time, latents differ by {change:.2f}"
        print(f"{name}: {share}; {accuracy(model, found, prompts)}", flush=True)


if __name__ == "__main__":
    main()
