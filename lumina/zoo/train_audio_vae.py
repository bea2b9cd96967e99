"""Train the demo's audio autoencoder: a narrow `diffusers.AutoencoderKL` on log-mels.

    python -m lumina.zoo.train_audio_vae --out lumina/zoo/audio_codec/vae --threads 1

Same class, compression (4x in time and in frequency) and latent channels (8) as AudioLDM's VAE, which Lumina-V2A uses,
with 1/230 of its parameters, and without attention: what it does to a frame depends on the sound's length by its norms
alone. Two of three sounds are those of the Shapes world, one is any other (`sounds.py`).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from lumina.randomness import generator
from lumina.video_to_audio.log_mel import BINS, log_mel
from lumina.zoo.sounds import FRAMES, SEED, other_sound, shapes_sound, training_sound

POOL = 1800
CROPS = ((8, 64), (4, 128), (2, 256), (1, FRAMES))
"""Sounds of a batch and frames of each, in turns: norms see all of a sound, so lengths differ."""
RATE = 3e-3
KL_WEIGHT = 3e-3
TYPICAL = -9.0
"""A log-mel's mean, where the network begins."""
HELDOUT = 64


def build() -> AutoencoderKL:
    """The network, with weights drawn from the fixed seed."""
    torch.manual_seed(SEED)
    model = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=BINS,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    with torch.no_grad():
        _start_near_linear(model)
    return model


def _start_near_linear(model: AutoencoderKL) -> None:
    """Silence the residual branches and the posterior's noise, and take the mean out, as `train_vae` does."""
    for name, weight in model.named_parameters():
        if weight.ndim == 4 and "resnets" not in name:
            torch.nn.init.kaiming_normal_(weight, nonlinearity="linear")
        if name.endswith("conv2.weight"):
            weight.zero_()
    first = model.encoder.conv_in
    first.bias.copy_(-TYPICAL * first.weight.sum((1, 2, 3)))
    model.decoder.conv_out.bias.fill_(TYPICAL)
    model.quant_conv.weight[8:] *= 0.1
    model.quant_conv.bias[8:] = -6.0


def batch(pool: Tensor, step: int) -> Tensor:
    """Crops of the pool's log-mels [N, T, 64] as float32 [B, 1, t, 64]."""
    rng, (size, frames) = generator(SEED, "zoo/audio_vae/batch", step), CROPS[step % len(CROPS)]
    crops = []
    for index in rng.integers(len(pool), size=size):
        first = int(rng.integers(0, FRAMES - frames + 1))
        crops.append(pool[index, first : first + frames])
    return torch.stack(crops)[:, None]


def loss(model: AutoencoderKL, mel: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """What is minimised, and of it the mean absolute error and the divergence of the posterior."""
    found = model.encode(mel).latent_dist
    off = model.decode(found.sample(generator=noise)).sample - mel
    kl = 0.5 * (found.mean.pow(2) + found.logvar.exp() - 1 - found.logvar).mean()
    return off.abs().mean() + 0.2 * off.square().mean() + KL_WEIGHT * kl, off.abs().mean(), kl


@torch.no_grad()
def figures(model: AutoencoderKL, count: int = HELDOUT) -> dict[str, float]:
    """Of unseen sounds: mean absolute error in nepers of log-mels, and the scaled posterior's mean and deviation."""
    model.eval()
    found: dict[str, float] = {}
    for name, sound in (("shapes", shapes_sound), ("other", other_sound)):
        means, stds, errors = [], [], []
        for index in range(count):
            mel = log_mel(sound("test", index).wave)[None, None, :FRAMES]
            drawn = model.encode(mel).latent_dist
            errors.append((model.decode(drawn.mode()).sample - mel).abs().mean().item())
            means.append(drawn.mean * model.config.scaling_factor)
            stds.append(drawn.std * model.config.scaling_factor)
        found |= {
            f"mel_l1_{name}": sum(errors) / count,
            f"latent_std_{name}": torch.cat(means).std().item(),
            f"posterior_std_{name}": torch.cat(stds).mean().item(),
        }
    model.train()
    return found


@torch.no_grad()
def latent_std(model: AutoencoderKL, pool: Tensor) -> float:
    """Standard deviation of the latents' means over 96 sounds of the pool, of which two of three are of Shapes."""
    return torch.cat([model.encode(pool[index, None, None]).latent_dist.mode() for index in range(96)]).std().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pool = torch.stack([log_mel(training_sound(index).wave)[:FRAMES] for index in range(POOL)])
    model, noise = build(), torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    started, total = time.monotonic(), torch.zeros(3)
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / args.steps))
        values = loss(model, batch(pool, step), noise)
        optimizer.zero_grad()
        values[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += torch.stack(values).detach()
        if step % 100 == 99:
            print(f"step {step + 1} {(total / 100).tolist()} {time.monotonic() - started:.0f} s", flush=True)
            total.zero_()
        last = step == args.steps - 1
        if last or step % 1000 == 999:
            model.register_to_config(scaling_factor=1.0 / latent_std(model, pool))
            model.save_pretrained(args.out)
            print(step + 1, found := figures(model, HELDOUT if last else 16), flush=True)
    card = {"trained_by": "python -m lumina.zoo.train_audio_vae", "steps": args.steps, "heldout_sounds": HELDOUT}
    (args.out / "figures.json").write_text(json.dumps(card | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
