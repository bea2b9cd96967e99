"""Cost of a video-to-audio model, from arithmetic alone; how it is counted is told in `lumina.cost`."""

from __future__ import annotations

import torch

from lumina import cost
from lumina.models.blocks import SINUSOID_WIDTH
from lumina.models.config import Recompute
from lumina.training.muon import update_flops
from lumina.video_to_audio.config import VideoToAudioConfig
from lumina.video_to_audio.lengths import LATENT_RATE, SEGMENT_TOKENS, TUBELET, VISUAL_FPS
from lumina.video_to_audio.networks.dit import VideoToAudioDiT

_KERNELS = 7, 3
"""Of the two convolutions over the synchronisation features."""


def parameters(config: VideoToAudioConfig) -> int:
    """Number of weights."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in VideoToAudioDiT(config).parameters())


def muon_flops(config: VideoToAudioConfig) -> int:
    """Operations by which Muon orthogonalises all matrices for one step; workers share them."""
    with torch.device("meta"):
        return update_flops(VideoToAudioDiT(config).named_parameters())


def token_cost(config: VideoToAudioConfig) -> tuple[int, int]:
    """Return (a, b): one evaluation of N tokens takes a N + b N^2 operations, what is seen and said left out."""
    return cost.token_cost(config, (*config.patch, 1))


def media_tokens_cost(config: VideoToAudioConfig, steps: int) -> int:
    """Operations of one token's attention to what is seen and said beside `steps` latent steps, the text in full."""
    seen = steps * VISUAL_FPS // LATENT_RATE + config.text_tokens
    return 2 * config.n_layers * 2 * seen * config.dim


def forward_cost(config: VideoToAudioConfig, steps: int, visual: int, text: int, sync: int) -> int:
    """Count one evaluation of `steps` latent steps with its embedded media: `visual`, `text` and `sync` tokens."""
    d, a, kv = config.dim, config.condition_dim, config.kv_heads * config.head_dim
    times = steps // config.patch[0]
    tokens = times * (config.latent_rows // config.patch[1])
    per_token, per_pair = token_cost(config)
    blocks = per_token * tokens + per_pair * tokens * tokens
    blocks += config.n_layers * 2 * (2 * tokens * (visual + text) * d + 2 * (visual + text) * d * kv)
    modulation = 2 * times * a * d * (4 * config.n_layers + 1)
    embedders = 2 * (visual * config.visual_dim + text * config.text_dim) * d
    condition = 2 * (SINUSOID_WIDTH * a + a * a) + 2 * (d * a + a * a)
    looks = 1
    if config.sync_grid == "time":
        # Half of a segment's tokens are at times of the one before; each tells of all its frames.
        sync, looks = (sync + SEGMENT_TOKENS) // 2, TUBELET
    convolutions = 2 * sync * a * (_KERNELS[0] * config.sync_dim + _KERNELS[1] * looks * a)
    return blocks + modulation + embedders + condition + convolutions


def training_cost(config: VideoToAudioConfig, steps: int, visual: int, text: int, sync: int) -> int:
    """Operations for one sample, forward and backward."""
    return 3 * forward_cost(config, steps, visual, text, sync)


def activation_bytes(
    config: VideoToAudioConfig, steps: int, media: int, samples: int, number: int, checkpointing: Recompute
) -> int:
    """Most bytes of activations that a training pass has at once; see `lumina.cost.activation_bytes`.

    Beside what the video model keeps, 4 D numbers of scales and gates per block and time step, which are spread over
    the step's tokens. The convolutions over the synchronisation features are left out.

    Args:
        config: of the network.
        steps: latent steps of a sample.
        media: tokens of what is seen and said of a sample.
        samples: of the pass.
        number: bytes of one.
        checkpointing: what the backward pass computes again.
    """
    times = samples * (steps // config.patch[0])
    tokens = times * (config.latent_rows // config.patch[1])
    kept = cost.activation_bytes(config, tokens, samples * media, number, checkpointing, unlike=True)
    return kept + number * times * 4 * config.dim * (1 if checkpointing == "full" else config.n_layers)
