"""Tiny parts of the real classes, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from lumina.flow_matching.schedules import SamplerConfig
from lumina.generate import TextToVideo
from lumina.generation_config import GenerationConfig
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.config import NextDiTConfig
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.models.text_encoder import TextEncoder
from lumina.system_prompts import SystemPrompt

TEXTS = ["a red circle moves left. <Prompt Start> ", "two blue squares stay still on a dark ground"]
TINY = NextDiTConfig(dim=64, n_layers=2, n_heads=4, n_kv_heads=2, multiple_of=32, cap_feat_dim=24, in_channels=4)
SAMPLER = SamplerConfig(
    steps=4,
    patches=((0.0, (2, 4, 4)), (0.2, (1, 2, 2))),
    guidance=((0.0, 2.0), (0.5, 0.0)),
)


def dit_without_zeros(spread: float, config: NextDiTConfig = TINY) -> MultiScaleNextDiT:
    """A network in which normal noise of this standard deviation has opened every zero branch."""
    model = MultiScaleNextDiT(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=spread)
    return model


def autoencoder() -> VideoAutoencoder:
    """A CogVideoX VAE of the smallest width."""
    from diffusers import AutoencoderKLCogVideoX

    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKLCogVideoX(
            block_out_channels=(4, 4, 4, 4),
            layers_per_block=1,
            norm_num_groups=2,
            latent_channels=16,
            scaling_factor=0.7,
        )
    return VideoAutoencoder(vae.eval().requires_grad_(False))


def text_encoder() -> TextEncoder:
    """A two-layer Gemma-2 of width 24 with a tokenizer trained on a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "<bos>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    specials = {"pad_token": "<pad>", "bos_token": "<bos>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials)
    config = Gemma2Config(
        vocab_size=len(fast),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,
        max_position_embeddings=256,
        attn_implementation="eager",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Gemma2Model(config)
    return TextEncoder(model.eval().requires_grad_(False), fast)


def save_parts(directory: Path) -> tuple[Path, Path]:
    """Write both parts; returns (vae, text_encoder) directories."""
    autoencoder().save_pretrained(directory / "vae")
    text_encoder().save_pretrained(directory / "text_encoder")
    return directory / "vae", directory / "text_encoder"


def text_to_video() -> TextToVideo:
    """All parts, with the system prompts of two sources."""
    model = dit_without_zeros(0.1, NextDiTConfig(dim=32, n_layers=1, n_heads=2, multiple_of=32, cap_feat_dim=24))
    prompts = {name: SystemPrompt(name, f"{name} clips. <Prompt Start> ") for name in ("clean", "web")}
    defaults = GenerationConfig(num_frames=8, width=64, height=32, sampler=SAMPLER, source="clean")
    return TextToVideo(model.eval(), autoencoder(), text_encoder(), prompts, defaults)
