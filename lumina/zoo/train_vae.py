"""Train the demo's video autoencoder: a narrow `diffusers.AutoencoderKLCogVideoX` on Shapes clips.

    python -m lumina.zoo.train_vae --out lumina/zoo/vae

Same class, compression (8x8 in space, 4x in time) and latent channels (16) as the CogVideoX-2b VAE that Lumina-Video
uses, with about 1/150 of its parameters. As in the released recipe a clip of 4n+1 frames becomes n+1 latents, the first
of which is dropped; the decoder makes 4n frames of the other n. A still image keeps its one latent.

Training runs from cheap to dear: still crops first, then short clips (small crops and whole frames in turn), then whole
clips, which alone see the state that the network carries from one chunk of frames to the next.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX

from lumina.randomness import generator
from lumina.shapes import SOURCES, film, sample_scene

SEED = 20
SIZE, FRAMES, FILE_SIZE, FPS = 64, 17, 96, 8
POOL = 1500
KL_WEIGHT = 1e-4


def clip(split: str, index: int) -> np.ndarray:
    """One Shapes clip as the demo's latents stage sees it: filmed large, resized; uint8 [17, 64, 64, 3]."""
    rng = generator(SEED, f"zoo/vae/{split}", index)
    source = list(SOURCES.values())[index % len(SOURCES)]
    frames = film(sample_scene(rng), source, rng, num_frames=FRAMES, height=FILE_SIZE, width=FILE_SIZE, fps=FPS)
    return np.stack([cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for frame in frames])


def build() -> AutoencoderKLCogVideoX:
    """The network, with weights drawn from the fixed seed."""
    torch.manual_seed(SEED)
    model = AutoencoderKLCogVideoX(
        block_out_channels=(8, 16, 32, 64),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=16,
        scaling_factor=1.0,
    )
    with torch.no_grad():
        _start_near_linear(model)
    return model


def _start_near_linear(model: AutoencoderKLCogVideoX) -> None:
    """Silence the residual branches and the posterior's noise, and keep the variance along what is left.

    The default initialisation shrinks the signal by about 0.6 per layer: the latents start far below their noise.
    """
    for name, weight in model.named_parameters():
        if weight.ndim >= 4 and "resnets" not in name and "norm" not in name:
            torch.nn.init.kaiming_normal_(weight, nonlinearity="linear")
        if name.endswith("conv2.conv.weight"):
            weight.zero_()
    head = model.encoder.conv_out.conv
    head.weight[16:] *= 0.1
    head.bias[16:] = -6.0


def to_model(frames: np.ndarray) -> torch.Tensor:
    """uint8 [B, T, H, W, 3] to float32 [B, 3, T, H, W] in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def reconstruct(
    model: AutoencoderKLCogVideoX, x: torch.Tensor, noise: torch.Generator | None
) -> tuple[torch.Tensor, ...]:
    """Return (reconstruction, target, posterior mean, posterior log-variance); the mode is decoded without `noise`."""
    posterior = model.encode(x).latent_dist
    z = posterior.sample(generator=noise) if noise is not None else posterior.mode()
    if x.shape[2] > 1:
        z, x = z[:, :, 1:], x[:, :, 1:]
    return model.decode(z).sample, x, posterior.mean, posterior.logvar


def batch(pool: np.ndarray, step: int, size: int, crop: int, frames: int) -> torch.Tensor:
    """Random crops (flipped and transposed at random) of the pool, float32 [size, 3, frames, crop, crop]."""
    rng = generator(SEED, "zoo/vae/batch", step)
    crops = []
    for index in rng.integers(len(pool), size=size):
        t, y, x = (rng.integers(0, full - part + 1) for full, part in ((FRAMES, frames), (SIZE, crop), (SIZE, crop)))
        piece = pool[index, t : t + frames, y : y + crop, x : x + crop]
        crops.append(piece[:, :, ::-1] if rng.random() < 0.5 else piece)
    return to_model(np.stack(crops))


@torch.no_grad()
def psnr(model: AutoencoderKLCogVideoX, count: int, frames: int) -> float:
    """Mean PSNR in dB over held-out clips, of uint8 frames."""
    model.eval()
    scores = []
    for index in range(count):
        pixels = clip("heldout", index)[None, :frames]
        y, x, *_ = reconstruct(model, to_model(pixels), None)
        error = ((y.clamp(-1, 1) - x) * 127.5).pow(2).mean().item()
        scores.append(10 * math.log10(255**2 / error))
    model.train()
    return float(np.mean(scores))


@torch.no_grad()
def latent_std(model: AutoencoderKLCogVideoX, pool: np.ndarray) -> float:
    """Standard deviation of the kept latents (posterior mode) over 64 clips."""
    return (
        torch.cat([model.encode(to_model(pool[i : i + 1])).latent_dist.mode()[:, :, 1:] for i in range(64)])
        .std()
        .item()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--image-steps", type=int, default=1500)
    parser.add_argument("--video-steps", type=int, default=3500)
    parser.add_argument("--clip-steps", type=int, default=120)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pool = np.stack([clip("train", index) for index in range(POOL)])
    model, noise = build(), torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    total, started = args.image_steps + args.video_steps + args.clip_steps, time.monotonic()
    for step in range(total):
        rate = 2e-3 * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / total)))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20)
        if step < args.image_steps or step % 5 == 4:
            size, crop, frames = 16, (32, SIZE)[step % 5 == 4], 1
        elif step < args.image_steps + args.video_steps:
            size, crop, frames = ((8, 32), (2, SIZE))[step % 2] + (9,)
        else:
            size, crop, frames = 2, SIZE, FRAMES
        x = batch(pool, step, size, crop, frames)
        y, target, mean, logvar = reconstruct(model, x, noise)
        kl = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
        mse = (y - target).pow(2).mean()
        optimizer.zero_grad()
        (mse + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step} mse {mse.item():.5f} kl {kl.item():.3f} {time.monotonic() - started:.0f} s", flush=True)
        if step % 500 == 499 or step == total - 1:
            model.register_to_config(scaling_factor=1.0 / latent_std(model, pool))
            model.save_pretrained(args.out)
            count = 64 if step == total - 1 else 8
            figures = {"psnr_video_db": psnr(model, count, FRAMES), "psnr_image_db": psnr(model, count, 1)}
            print(step, figures, "latent std", 1 / model.config.scaling_factor, flush=True)
    card = {"trained_by": "python -m lumina.zoo.train_vae", "steps": total, "heldout_clips": count, **figures}
    (args.out / "figures.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
