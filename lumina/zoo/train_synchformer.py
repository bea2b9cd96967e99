"""Train the demo's synchronisation features: a small Synchformer visual tower on Shapes clips with sound.

    python -m lumina.zoo.train_synchformer --out lumina/zoo/synchformer

The published tower learns from sound which movements are heard; this one is told: along fixed directions of a token it
spells out in which of its two frames the main shape hops or touches the floor, and that shape's colour and kind. What
glides, stands still, or is heard off-screen is no event.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from lumina.randomness import generator
from lumina.shapes import COLORS, KINDS
from lumina.video_to_audio.config import SynchformerConfig
from lumina.video_to_audio.frames import sync_frames
from lumina.video_to_audio.lengths import SEGMENT, SEGMENT_TOKENS, sync_segments
from lumina.video_to_audio.networks.synchformer import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Synchformer,
    SynchformerVisual,
    load_synchformer,
)
from lumina.zoo.sound_films import SEED, SIDE, Film, sound_film, sound_films

CONFIG = SynchformerConfig(width=64, depth=3, heads=4, image_size=SIDE)
POOL, HELDOUT_CLIPS, BATCH = 1400, 64, 32
PER_TOKEN = SEGMENT // SEGMENT_TOKENS
FACTS = PER_TOKEN + len(COLORS) + len(KINDS)
FACT_SIZE = 4.0
PRIOR = -3.0
"""Log-odds of an event in a frame that shows nothing."""
RATE = 2e-3


def build() -> SynchformerVisual:
    """The network, with weights drawn by their names.

    Patches are first seen coarsely, in cells of a quarter of their side: at random pixel by pixel, all that a filter
    tells of a smooth picture is how bright it is.
    """
    with torch.device("meta"):
        model = SynchformerVisual(CONFIG)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                value.fill_(1)
            elif name.endswith("bias") or ".patch_embed." in name:
                value.zero_()
            elif ".patch_embed_3d." in name:
                cells = _drawn(name, *value.shape[:3], 4, 4)
                value.copy_(F.interpolate(cells, size=value.shape[2:]) / (CONFIG.patch * cells[0].numel() ** 0.5))
            else:
                value.copy_(_drawn(name, *value.shape) * (0.3 if value.ndim == 3 else value[0].numel() ** -0.5))
    return model


def _drawn(name: str, *shape: int) -> Tensor:
    rng = generator(SEED, "zoo/synchformer/weights", name)
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


@cache
def directions() -> Tensor:
    """[FACTS, D]: what a token is multiplied by to read its facts; rows of length FACT_SIZE, at right angles."""
    drawn = generator(SEED, "zoo/synchformer/directions").standard_normal((CONFIG.width, FACTS))
    return FACT_SIZE * torch.from_numpy(np.linalg.qr(drawn)[0].T.astype(np.float32))


def read(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-odds of events [..., 2] and of colours [..., 6] and kinds [..., 3] that tokens [..., D] tell."""
    events, colors, kinds = (tokens @ directions().T).split([PER_TOKEN, len(COLORS), len(KINDS)], dim=-1)
    return events + PRIOR, colors, kinds


def batch(pool: Sequence[Film], step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Segments of the pool, half of them mirrored: frames, events [N, 8, 2], and colour and kind [N, 2]."""
    rng = generator(SEED, "zoo/synchformer/batch", step)
    segments, events, classes = [], [], []
    for index in rng.integers(len(pool), size=BATCH):
        film = pool[index]
        start = int(rng.integers(0, len(film.frames) - SEGMENT + 1))
        frames = film.frames[start : start + SEGMENT]
        segments.append(sync_frames(np.ascontiguousarray(frames[:, :, ::-1]) if rng.random() < 0.5 else frames, SIDE))
        events.append(film.onsets[start : start + SEGMENT].reshape(SEGMENT_TOKENS, PER_TOKEN))
        shape = film.scene.shapes[-1]
        classes.append((list(COLORS).index(shape.color), KINDS.index(shape.kind)))
    return torch.stack(segments), torch.from_numpy(np.stack(events)).float(), torch.tensor(classes)


def losses(model: SynchformerVisual, segments: Tensor, events: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies in nats of the events of a token, and of colour and kind; these count more at an event."""
    found, *names = read(model(segments))
    happens = F.binary_cross_entropy_with_logits(found, events) * PER_TOKEN
    weight = 0.2 + events.amax(dim=-1)
    told = [
        F.cross_entropy(logits.transpose(1, 2), truth[:, None].expand(-1, SEGMENT_TOKENS), reduction="none")
        for logits, truth in zip(names, classes.T, strict=True)
    ]
    return happens, (weight * (told[0] + told[1])).sum() / weight.sum()


def peaks(odds: Tensor) -> list[int]:
    """Where log-odds [T] are positive and largest among their neighbours; of equal ones the first."""
    padded = [-math.inf, *odds.tolist(), -math.inf]
    return [
        place - 1
        for place in range(1, len(padded) - 1)
        if padded[place] > 0 and padded[place - 1] < padded[place] >= padded[place + 1]
    ]


def matched(found: Sequence[int], true: Sequence[int], tolerance: int) -> list[tuple[int, int]]:
    """Pairs of places at most `tolerance` apart, each used once, from the first on."""
    pairs: list[tuple[int, int]] = []
    rest = list(found)
    for place in true:
        near = next((one for one in rest if abs(one - place) <= tolerance), None)
        if near is not None:
            rest.remove(near)
            pairs.append((near, place))
    return pairs


def figures(network: Synchformer, clips: int = HELDOUT_CLIPS) -> dict[str, float]:
    """How good the features are on held-out clips, where looks of two segments at the same frames are averaged.

    F1 of events among the tokens' times, one token (80 ms) or none apart; colour and kind at the events that are found.
    """
    hits, exact, found_count, true_count, colors, kinds = 0, 0, 0, 0, 0, 0
    for index in range(clips):
        film = sound_film("heldout", index)
        tokens = network.features(film.frames)
        places = torch.tensor([
            start // PER_TOKEN + token for start in sync_segments(len(film.frames)) for token in range(SEGMENT_TOKENS)
        ])  # fmt: skip
        count = int(places.max()) + 1
        looks = torch.bincount(places, minlength=count)[:, None]
        mean = torch.zeros(count, network.width).index_add_(0, places, tokens) / looks
        events, *names = read(mean)
        found = peaks(events.amax(dim=-1))
        true = np.flatnonzero(film.onsets[: count * PER_TOKEN]) // PER_TOKEN
        pairs = matched(found, true.tolist(), 1)
        hits += len(pairs)
        exact += len(matched(found, true.tolist(), 0))
        found_count, true_count = found_count + len(found), true_count + len(true)
        shape = film.scene.shapes[-1]
        color, kind = list(COLORS).index(shape.color), KINDS.index(shape.kind)
        colors += sum(int(names[0][place].argmax()) == color for place, _ in pairs)
        kinds += sum(int(names[1][place].argmax()) == kind for place, _ in pairs)
    return {
        "event_f1": 2 * hits / max(1, found_count + true_count),
        "event_f1_same_token": 2 * exact / max(1, found_count + true_count),
        "event_color_accuracy": colors / max(1, hits),
        "event_kind_accuracy": kinds / max(1, hits),
    }


def save(model: SynchformerVisual, out: Path) -> Synchformer:
    """Write the directory, and read it back."""
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, out / WEIGHTS_FILE)
    (out / CONFIG_FILE).write_text(CONFIG.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return load_synchformer(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pool = sound_films("train", POOL)
    model = build()
    print(f"{sum(parameter.numel() for parameter in model.parameters())} parameters")
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    started, total = time.monotonic(), np.zeros(2)
    for step in range(args.steps):
        rate = RATE * min(1.0, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        happens, told = losses(model, *batch(pool, step))
        optimizer.zero_grad()
        (happens * 4 + told).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += happens.item(), told.item()
        if step % 100 == 99:
            print(f"step {step + 1} nats {total / 100} {time.monotonic() - started:.0f} s", flush=True)
            total[:] = 0
        if step % 500 == 499 or step == args.steps - 1:
            last = step == args.steps - 1
            found = figures(save(model, args.out), HELDOUT_CLIPS if last else 16)
            print(step + 1, found, flush=True)
            model.train()
    card = {
        "trained_by": "python -m lumina.zoo.train_synchformer",
        "steps": args.steps,
        "heldout_clips": HELDOUT_CLIPS,
        **found,
    }
    (args.out / "figures.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
