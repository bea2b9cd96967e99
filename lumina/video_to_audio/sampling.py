"""From noise to audio latents: Euler integration of the rectified flow, guided away from what fits no clip."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lumina.flow_matching.sampler import guide, integrate, time_grid
from lumina.flow_matching.schedules import value_at
from lumina.video_to_audio.config import SoundSamplerConfig
from lumina.video_to_audio.networks.dit import Media, VideoToAudioDiT


@torch.inference_mode()
def sample(
    model: VideoToAudioDiT, noise: Tensor, media: Sequence[Media], config: SoundSamplerConfig | None = None
) -> Tensor:
    """Sample one latent per clip.

    Items do not influence each other; a batch and its items alone differ by rounding only.

    Args:
        model: predicts the velocities, in its own type and on its own device.
        noise: [N, C, T, R] standard normal, one draw per item.
        media: what N sounds shall fit; the null features are guided away from.
        config: steps and guidance.

    Returns:
        [N, C, T, R] float32 latents as the codec has them.
    """
    config = config or SoundSamplerConfig()
    n = len(noise)
    if len(media) != n:
        raise ValueError(f"got {n} noises and the media of {len(media)} clips")
    guided = any(weight > 0 for _, weight in config.guidance)
    # One call of the model for both sides, while there are two.
    alone = model.encode(media)
    both = model.encode([*media, *(Media() for _ in media)]) if guided else alone

    def field(x: Tensor, t: Tensor) -> Tensor:
        weight = value_at(config.guidance, t.item())
        t = t.to(model.device)
        if weight <= 0:
            return model(x, t.expand(n), alone).float()
        positive, negative = model(x.repeat(2, 1, 1, 1), t.expand(2 * n), both).float().chunk(2)
        return guide(positive, [negative], [weight], config.norm_cap)

    grid = time_grid(config.steps, config.time_shift)
    return model.restore(integrate(field, noise.to(model.device, model.dtype), grid))
