"""Train the demo's text encoder: a small Gemma-2 language model and its tokenizer, on Shapes captions.

    python -m lumina.zoo.train_text_encoder --out lumina/zoo/text_encoder

Used the way Lumina-Video uses gemma-2-2b: `hidden_states[-2]` of the prompt, at most 256 tokens. It learns next-token
prediction on system prompts followed by captions and, beside it, to spell the caption's facts out along fixed
directions of the mean feature: the demo's video model has some thousand steps to learn what the words mean, and in a
language model's features the one word that names the colour drowns among the others. The figures are its loss on
held-out captions and how well a linear read-out of the mean features tells colour, shape and direction apart.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from lumina.randomness import generator
from lumina.shapes import COLORS, DIRECTIONS, KINDS, Scene, caption, sample_scene

SEED = 20
ROLES = ("synthetic", "handheld", "web", "natural", "studio", "animated", "test", "home")
SYSTEMS = (
    "You are an assistant designed to generate {} videos with the highest degree of image-text alignment "
    "based on user prompts. <Prompt Start> ",
    "You generate {} videos. <Prompt Start> ",
)
QUALITIES = ("high-quality {}", "{}", "clean {}", "low-quality {}", "realistic {}")


FACTS = (*COLORS, *KINDS, *DIRECTIONS, "slow", "fast")
FACT_SIZE = 3.0
FACT_WEIGHT = 0.3


def facts(scene: Scene, text: str, image: bool) -> np.ndarray:
    """What the caption says of the first and of the second shape, each one 0/1 per word of FACTS; float32 [32]."""
    said = np.zeros((2, len(FACTS)), np.float32)
    for row, shape in zip(said, scene.shapes, strict=False):
        words = {shape.color, shape.kind} if image else {shape.color, shape.kind, shape.direction, shape.speed}
        row[:] = [name in words for name in FACTS]
    if not any(word in text for word in ("slow", "fast", "quick")):
        said[:, -2:] = 0
    return said.reshape(-1)


def sample(split: str, index: int) -> tuple[np.ndarray, str]:
    """The facts and the text of a caption, preceded in most cases by a system prompt."""
    rng = generator(SEED, f"zoo/text/{split}", index)
    scene = sample_scene(rng)
    image = rng.random() < 0.2
    text = caption(scene, rng, image=image)
    said = facts(scene, text, image)
    if rng.random() < 0.8:
        quality = QUALITIES[rng.integers(len(QUALITIES))].format(ROLES[rng.integers(len(ROLES))])
        text = SYSTEMS[rng.integers(len(SYSTEMS))].format(quality) + text
    return said, text


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text can be encoded, none is unknown."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=256,
        padding_side="right",
    )


def build(vocab_size: int) -> Gemma2ForCausalLM:
    """The network, with weights drawn from the fixed seed."""
    torch.manual_seed(SEED)
    return Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            query_pre_attn_scalar=32,
            max_position_embeddings=512,
            sliding_window=256,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
            attn_implementation="eager",
        )
    )


def losses(
    model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerFast, batch: list[tuple[np.ndarray, str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy in nats per token, and mean squared error of the facts along their directions."""
    tokens = tokenizer([text for _, text in batch], padding=True, return_tensors="pt")
    labels = tokens.input_ids.masked_fill(tokens.attention_mask == 0, -100)
    out = model(
        input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, labels=labels, output_hidden_states=True
    )
    mask = tokens.attention_mask[..., None]
    mean = (out.hidden_states[-2] * mask).sum(dim=1) / mask.sum(dim=1)
    spelled = torch.nn.functional.layer_norm(mean, mean.shape[-1:])[:, : 2 * len(FACTS)]
    target = FACT_SIZE * torch.from_numpy(np.stack([said for said, _ in batch]))
    return out.loss, (spelled - target).pow(2).mean()


@torch.no_grad()
def probe(model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """Held-out accuracy of ridge regression from the mean of `hidden_states[-2]` to the first shape's attributes."""

    def features(split: str, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        rows, truth = [], []
        for index in range(count):
            rng = generator(SEED, f"zoo/text/probe-{split}", index)
            scene = sample_scene(rng, num_shapes=1)
            tokens = tokenizer(caption(scene, rng), return_tensors="pt")
            hidden = model(**tokens, output_hidden_states=True).hidden_states[-2]
            rows.append(hidden[0].mean(dim=0).numpy())
            shape = scene.shapes[0]
            truth.append(
                (list(COLORS).index(shape.color), KINDS.index(shape.kind), list(DIRECTIONS).index(shape.direction))
            )
        columns = np.array(truth).T
        return np.stack(rows), dict(zip(("color", "shape", "direction"), columns, strict=True))

    x, y = features("train", 800)
    x_test, y_test = features("test", 300)
    x, x_test = (np.hstack([part, np.ones((len(part), 1))]) for part in (x, x_test))
    scores = {}
    for name, labels in y.items():
        onehot = np.eye(labels.max() + 1)[labels]
        weights = np.linalg.solve(x.T @ x + 1e-3 * np.eye(x.shape[1]), x.T @ onehot)
        scores[f"probe_{name}_accuracy"] = float(((x_test @ weights).argmax(axis=1) == y_test[name]).mean())
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    corpus = [sample("train", index) for index in range(20_000)]
    tokenizer = train_tokenizer([text for _, text in corpus], vocab_size=512)
    model = build(len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(args.steps):
        picked = generator(SEED, "zoo/text/batch", step).integers(len(corpus), size=args.batch_size)
        rate = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * rate * min(1.0, (step + 1) / 50)
        language, spelling = losses(model, tokenizer, [corpus[i] for i in picked])
        optimizer.zero_grad()
        (language + FACT_WEIGHT * spelling).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step} nats per token {language.item():.4f} facts {spelling.item():.4f}", flush=True)
    model.eval()
    with torch.no_grad():
        language, spelling = losses(model, tokenizer, [sample("heldout", index) for index in range(256)])
    figures = {
        "heldout_nats_per_token": language.item(),
        "heldout_facts_mse": spelling.item(),
        **probe(model, tokenizer),
    }
    print(figures)
    # Only the body is used: the language-model head is tied to the embedding.
    model.model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    card = {"trained_by": "python -m lumina.zoo.train_text_encoder", "steps": args.steps, **figures}
    (args.out / "figures.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
