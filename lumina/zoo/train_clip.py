"""Train the demo's CLIP: a small `transformers.CLIPModel` and its byte-level BPE tokenizer, on Shapes frames.

    python -m lumina.zoo.train_clip --out lumina/zoo/clip

Contrastive, as CLIP, but for what counts as a pair: a batch has only so many colours and shapes, so a text belongs to
every frame of which all that it says of colours, shapes and brightness is true. What moves how is not seen in a frame.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from lumina.randomness import generator
from lumina.shapes import (
    COLORS,
    KINDS,
    SOURCES,
    Scene,
    SoundScene,
    caption,
    render,
    sample_scene,
    sample_sound_scene,
    sound_caption,
)
from lumina.video_to_audio.networks.clip import ClipFeatures, load_clip_features
from lumina.zoo.sound_films import SEED, SIDE, Film, sound_film, sound_films

POOL, HELDOUT_CLIPS, BATCH = 1400, 64, 64
VOCABULARY, LONGEST = 768, 32
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
END_OF_WORD, FIRST, LAST = "</w>", "<|startoftext|>", "<|endoftext|>"
RATE = 1e-3
SHORT = ("{}", "a photo of {}", "{}.", "a video of {}")


@dataclass(frozen=True)
class Pair:
    """A frame and a text about it."""

    frame: np.ndarray
    """[64, 64, 3] uint8."""
    text: str
    seen: frozenset[str]
    """What is true of the frame: `red`, `circle`, `red circle`, `dark`."""
    said: frozenset[str]
    """What the text says of that."""


def facts(scene: Scene | SoundScene) -> frozenset[str]:
    """What is true of a frame of the scene."""
    shapes = (fact for one in scene.shapes for fact in (one.color, one.kind, f"{one.color} {one.kind}"))
    return frozenset((*shapes, scene.background.brightness))


def training_pair(pool: Sequence[Film], index: int) -> Pair:
    """Pair `index` of the training stream: frames of the pool, and new scenes with sound and without."""
    rng = generator(SEED, "zoo/clip/train", index)
    which = rng.random()
    scene: Scene | SoundScene
    if which < 0.5:
        film = pool[int(rng.integers(len(pool)))]
        scene, frame = film.scene, film.frames[rng.integers(len(film.frames))]
        text = sound_caption(film.scene, rng)
    else:
        if which < 0.85:
            scene = sample_sound_scene(rng)
            text = sound_caption(scene, rng)
        else:
            scene = sample_scene(rng)
            text = caption(scene, rng, image=bool(rng.random() < 0.5))
        source = list(SOURCES.values())[rng.integers(len(SOURCES))]
        frames = render(scene, num_frames=1, height=SIDE, width=SIDE, fps=1, start_s=float(rng.uniform(0, 2)))
        frame = source.degrade(frames, rng)[0]
    seen = facts(scene)
    if rng.random() < 0.4:
        shape = scene.shapes[rng.integers(len(scene.shapes))]
        fact = (f"{shape.color} {shape.kind}", shape.color, shape.kind)[rng.choice(3, p=(0.7, 0.15, 0.15))]
        text = SHORT[rng.integers(len(SHORT))].format(fact if fact == shape.color else f"a {fact}")
        return Pair(frame, text, seen, frozenset([fact]))
    return Pair(frame, text, seen, seen)


def corpus(count: int = 4000) -> list[str]:
    """Captions of scenes with sound and without."""
    texts = []
    for index in range(count):
        rng = generator(SEED, "zoo/clip/corpus", index)
        scene = sample_scene(rng)
        texts += [sound_caption(sample_sound_scene(rng), rng), caption(scene, rng), SHORT[index % len(SHORT)]]
    return texts


def train_tokenizer(texts: Sequence[str]) -> CLIPTokenizer:
    """CLIP's tokenizer with merges of these texts; every byte has a token, so that no text is unknown."""
    trained = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, end_of_word_suffix=END_OF_WORD, initial_alphabet=ALPHABET, show_progress=False
    )
    trained.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    names = [*ALPHABET, *(letter + END_OF_WORD for letter in ALPHABET), *("".join(pair) for pair in merges)]
    # The pooling of the text tower may take the largest id for the end.
    names = [*dict.fromkeys(names), FIRST, LAST]
    vocabulary = {name: number for number, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LONGEST)


def build(tokenizer: CLIPTokenizer) -> CLIPModel:
    """The network, with weights drawn from the fixed seed."""
    torch.manual_seed(SEED)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    body = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "projection_dim": 64}
    text = {**body, **ends, "num_hidden_layers": 2, "vocab_size": len(tokenizer), "max_position_embeddings": LONGEST}
    vision = {**body, "num_hidden_layers": 3, "image_size": SIDE, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def normalised(frames: np.ndarray) -> Tensor:
    """What the network takes of frames uint8 [N, 64, 64, 3]."""
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    x = (torch.from_numpy(frames).float() / 255 - torch.tensor(mean)) / torch.tensor(deviation)
    return x.permute(0, 3, 1, 2).contiguous()


def loss(model: Any, tokenizer: CLIPTokenizer, pairs: Sequence[Pair]) -> Tensor:
    """Mean cross-entropy in nats of the texts of a frame and the frames of a text, each among those of the batch."""
    tokens = tokenizer([pair.text.lower() for pair in pairs], padding=True, truncation=True, return_tensors="pt")
    found = model(
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        pixel_values=normalised(np.stack([pair.frame for pair in pairs])),
    )
    belongs = torch.tensor([[one.said <= pair.seen for one in pairs] for pair in pairs]).float()
    ways = [(found.logits_per_image, belongs), (found.logits_per_text, belongs.T)]
    parts = [
        torch.nn.functional.cross_entropy(logits, truth / truth.sum(dim=1, keepdim=True)) for logits, truth in ways
    ]
    return torch.stack(parts).mean()


def figures(network: ClipFeatures, clips: int = HELDOUT_CLIPS) -> dict[str, float]:
    """Zero-shot accuracy on frames of held-out clips, 8 each, among `a red circle` and the 17 other prompts.

    Of clips with one shape; with two, a single frame does not tell which is the main one: what is found is right if it
    is one of both.
    """
    names = [(color, kind) for color in COLORS for kind in KINDS]
    prompts = [f"a {color} {kind}" for color, kind in names]
    texts = torch.nn.functional.normalize(network.clip.texts(prompts), dim=-1)
    alone, pairs = [], []
    for index in range(clips):
        film = sound_film("heldout", index)
        best = (network.visual(film.frames[::12][:8]) @ texts.T).argmax(dim=1)
        shown = {(shape.color, shape.kind) for shape in film.scene.shapes}
        for color, kind in (names[int(place)] for place in best):
            if len(shown) == 1:
                alone.append((color in {one for one, _ in shown}, kind in {one for _, one in shown}))
            else:
                pairs.append((color, kind) in shown)
    color_accuracy, kind_accuracy = np.mean(alone, axis=0)
    return {
        "color_accuracy": float(color_accuracy),
        "kind_accuracy": float(kind_accuracy),
        "one_of_two_accuracy": sum(pairs) / max(1, len(pairs)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pool = sound_films("train", POOL)
    tokenizer = train_tokenizer(corpus())
    model = build(tokenizer)
    print(f"{sum(parameter.numel() for parameter in model.parameters())} parameters, {len(tokenizer)} tokens")
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.05)
    started, total = time.monotonic(), 0.0
    for step in range(args.steps):
        rate = RATE * min(1.0, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        value = loss(model, tokenizer, [training_pair(pool, step * BATCH + item) for item in range(BATCH)])
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        total += value.item()
        if step % 100 == 99:
            print(f"step {step + 1} nats {total / 100:.4f} {time.monotonic() - started:.0f} s", flush=True)
            total = 0.0
        if step % 500 == 499 or step == args.steps - 1:
            model.save_pretrained(args.out)
            tokenizer.save_pretrained(args.out)
            last = step == args.steps - 1
            found = figures(load_clip_features(args.out), HELDOUT_CLIPS if last else 16)
            print(step + 1, found, flush=True)
    card = {
        "trained_by": "python -m lumina.zoo.train_clip",
        "steps": args.steps,
        "heldout_clips": HELDOUT_CLIPS,
        **found,
    }
    (args.out / "figures.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
