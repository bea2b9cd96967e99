"""Train the demo's flow network: a narrow UniMatch on Shapes scenes and on textures that move at random.

    python -m lumina.zoo.train_unimatch --out lumina/zoo/unimatch

Shapes scenes have exact flow, but bare areas; the textures teach the network to match, and that backgrounds can move.
Both get the noise and the changes of exposure of real cameras.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from lumina.evaluation.subsets import rank_correlation
from lumina.models.config import UniMatchConfig
from lumina.models.unimatch import UniMatch
from lumina.motion import UniMatchFlow
from lumina.randomness import generator
from lumina.shapes import optical_flow, render, sample_scene

SEED = 20
SIZE, FPS = 64, 8
CONFIG = UniMatchConfig(
    feature_channels=48,
    backbone_channels=(24, 32, 48),
    num_transformer_layers=4,
    ffn_dim_expansion=2,
    # Windows as wide as the coarse map, and sides that are multiples of 8.
    attn_splits=(1, 2),
    corr_radius=(-1, 4),
    prop_radius=(-1, 1),
    reg_refine=False,
)
BATCH = 16
PREDICTION_DECAY = 0.9
"""Weight of a prediction in units of the next better one's."""
HELDOUT_CLIPS = 64


@dataclass(frozen=True)
class Pair:
    """Two images and the flow between them."""

    first: np.ndarray
    """[H, W, 3] float32, 0..255."""
    second: np.ndarray
    """As `first`."""
    flow: np.ndarray
    """[2, H, W] pixels (x, y) from first to second."""


def shapes_pair(rng: np.random.Generator) -> Pair:
    """Two frames of a scene, 1/8 to 1/2 s apart."""
    scene, gap = sample_scene(rng), int(rng.integers(1, 5))
    start = int(rng.integers(0, 17 - gap))
    frames = render(scene, num_frames=gap + 1, height=SIZE, width=SIZE, fps=FPS, start_s=start / FPS)
    flow = optical_flow(scene, num_frames=start + 2, height=SIZE, width=SIZE, fps=FPS)[start]
    return Pair(frames[0].astype(np.float32), frames[-1].astype(np.float32), flow * gap)


def texture_pair(rng: np.random.Generator) -> Pair:
    """A textured background and up to three textured patches, each with an affine motion of its own."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    places = np.stack([x, y])
    still = rng.random() < 0.3
    moved = places if still else _affine(rng, places, most=4.0)
    pair = _layer(rng, np.ones((SIZE, SIZE), np.float32), places, moved, None)
    for _ in range(int(rng.integers(0, 4))):
        moved = _affine(rng, places, most=10.0)
        pair = _layer(rng, _blob(rng), places, moved, pair)
    return pair


def _affine(rng: np.random.Generator, places: np.ndarray, most: float) -> np.ndarray:
    """Where every place goes: a shift of up to `most` pixels along each axis, with a little turning and scaling."""
    angle, scale = rng.normal(0, 0.04), 1 + rng.normal(0, 0.03)
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], np.float32)
    shift = rng.uniform(-most, most, 2).astype(np.float32)
    centre = (SIZE - 1) / 2
    return np.einsum("ij,jhw->ihw", turn, places - centre) + centre + shift[:, None, None]


def _layer(
    rng: np.random.Generator, mask: np.ndarray, places: np.ndarray, moved: np.ndarray, below: Pair | None
) -> Pair:
    """Draw one textured layer over what is `below` it."""
    texture = _texture(rng)
    # An affine motion is undone by an affine motion, which three points determine.
    corners = [(0, 0), (0, SIZE - 1), (SIZE - 1, 0)]
    source = np.array([places[:, v, u] for v, u in corners], np.float32)
    target = np.array([moved[:, v, u] for v, u in corners], np.float32)
    forward = cv2.getAffineTransform(source, target)
    second = _moved(texture, forward, cv2.BORDER_REFLECT_101)
    flow = moved - places
    if below is None:
        return Pair(texture, second, flow)
    alpha, alpha_moved = mask[..., None], _moved(mask, forward, cv2.BORDER_CONSTANT)[..., None]
    return Pair(
        below.first + alpha * (texture - below.first),
        below.second + alpha_moved * (second - below.second),
        np.where(mask >= 0.5, flow, below.flow),
    )


def _moved(image: np.ndarray, forward: np.ndarray, border: int) -> np.ndarray:
    return cv2.warpAffine(image, forward, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=border)


def _texture(rng: np.random.Generator) -> np.ndarray:
    """[H, W, 3]: a colour with noise of several grains."""
    image = np.broadcast_to(rng.uniform(20, 235, 3), (SIZE, SIZE, 3)).astype(np.float32)
    contrast = rng.uniform(5, 60)
    for cells in (4, 8, 16, 32):
        grain = rng.standard_normal((cells, cells, 3)).astype(np.float32)
        image = image + contrast * rng.uniform(0, 1) * cv2.resize(grain, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255)


def _blob(rng: np.random.Generator) -> np.ndarray:
    """[H, W] coverage of a random convex patch."""
    centre, radius = rng.uniform(0.1, 0.9, 2) * SIZE, rng.uniform(0.08, 0.3) * SIZE
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
    points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.6, 1.2, (1, 2))
    zoom = 4
    mask = np.zeros((SIZE * zoom, SIZE * zoom), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull((points * zoom).astype(np.int32)), 255)
    return cv2.resize(mask, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _filmed(pair: Pair, rng: np.random.Generator) -> Pair:
    """With the noise and the exposure of a camera, in half of the pairs."""
    if rng.random() < 0.5:
        return pair
    noise = rng.uniform(0, 8)
    images = [
        np.clip(image * rng.uniform(0.85, 1.15) + rng.normal(0, noise, image.shape), 0, 255).astype(np.float32)
        for image in (pair.first, pair.second)
    ]
    return Pair(images[0], images[1], pair.flow)


def training_pair(index: int) -> Pair:
    """Pair `index` of the training stream: Shapes and textures in turn."""
    rng = generator(SEED, "zoo/unimatch/train", index)
    pair = shapes_pair(rng) if index % 2 == 0 else texture_pair(rng)
    return _filmed(pair, rng)


def _images(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def loss(model: UniMatch, pairs: list[Pair]) -> torch.Tensor:
    """Mean absolute error of all predictions; the better ones count more."""
    flow = torch.from_numpy(np.stack([pair.flow for pair in pairs]))
    found = model.predictions(_images([pair.first for pair in pairs]), _images([pair.second for pair in pairs]))
    weights = [PREDICTION_DECAY ** (len(found) - 1 - number) for number in range(len(found))]
    errors = [weight * (prediction - flow).abs().mean() for weight, prediction in zip(weights, found, strict=True)]
    return torch.stack(errors).sum()


def figures(model: UniMatch, clips: int = HELDOUT_CLIPS) -> dict[str, float]:
    """How good the network is on held-out Shapes clips, half a second between two frames.

    End-point errors in pixels over whole frames, and over the shapes that move, which cover a tenth of them; the rank
    correlation of the motion score with the true mean flow.
    """
    estimator = UniMatchFlow(model.eval(), "unimatch")
    errors, moving, scores, truths = [], [], [], []
    for index in range(clips):
        scene = sample_scene(generator(SEED, "zoo/unimatch/test", index))
        frames = render(scene, num_frames=5, height=SIZE, width=SIZE, fps=2)
        flow = optical_flow(scene, num_frames=5, height=SIZE, width=SIZE, fps=2)
        found = estimator(frames[:-1], frames[1:])
        error = np.hypot(*(found - flow).transpose(1, 0, 2, 3))
        errors.append(error.mean())
        moving.append(error[np.hypot(flow[:, 0], flow[:, 1]) > 0])
        scores.append(np.abs(found).mean())
        truths.append(np.abs(flow).mean())
    once = np.ones((1, clips), np.int64)
    measured, true = (np.array(values, np.float64)[:, None] for values in (scores, truths))
    correlation = rank_correlation(once, measured, true)
    model.train()
    return {
        "epe_px": float(np.mean(errors)),
        "epe_moving_px": float(np.concatenate(moving).mean()),
        "spearman": float(correlation[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    model = UniMatch(CONFIG).train()
    print(f"{sum(parameter.numel() for parameter in model.parameters())} parameters")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    started, total = time.monotonic(), 0.0
    for step in range(args.steps):
        rate = 1e-3 * min(1.0, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        value = loss(model, [training_pair(step * BATCH + item) for item in range(BATCH)])
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += value.item()
        if step % 100 == 99:
            print(f"step {step + 1} loss {total / 100:.4f} {time.monotonic() - started:.0f} s", flush=True)
            total = 0.0
        if step % 1000 == 999 or step == args.steps - 1:
            print(step + 1, found := figures(model), flush=True)
            model.save_pretrained(args.out)
    card = {
        "trained_by": "python -m lumina.zoo.train_unimatch",
        "steps": args.steps,
        "heldout_clips": HELDOUT_CLIPS,
        **found,
    }
    (args.out / "figures.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
