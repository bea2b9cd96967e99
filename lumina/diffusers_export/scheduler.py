"""LuminaVideoScheduler: Euler steps of the multi-scale rectified flow with time shift, as a diffusers scheduler.

t runs from 0 (noise) to 1 (data), so `timesteps` ascend (paper Eq. 2 and 4, sections 3.1.4 and 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from torch import Tensor

from lumina.flow_matching.sampler import euler_step, time_grid
from lumina.flow_matching.schedules import SamplerConfig

Pieces = Sequence[Sequence[object]]
"""A schedule over t: [start, value] each, the first start 0."""


class LuminaVideoScheduler(SchedulerMixin, ConfigMixin):
    """Times and steps, and what else depends on t: patch size, guidance and motion; see `SamplerConfig` for each.

    `from_config(scheduler.config, steps=10)` changes some of it. Raises ValueError for a schedule that is none.
    """

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        steps: int = 25,
        time_shift: float = 8.0,
        patches: Pieces = ((0.0, (1, 2, 2)),),
        guidance: Pieces = ((0.0, 4.0),),
        norm_cap: float | None = None,
        motion: Pieces = ((0.0, 6.0),),
        negative_motion: Pieces = ((0.0, 2.0), (0.05, "positive")),
        cache_threshold: float | None = None,
        time_dtype: str = "model",
    ) -> None:
        self.sampler = SamplerConfig.model_validate(
            {
                "steps": steps,
                "time_shift": time_shift,
                "patches": patches,
                "guidance": guidance,
                "norm_cap": norm_cap,
                "motion": motion,
                "negative_motion": negative_motion,
                "cache_threshold": cache_threshold,
                "time_dtype": time_dtype,
            }
        )
        self.set_timesteps(steps)

    def set_timesteps(self, num_inference_steps: int | None = None, device: torch.device | str | None = None) -> None:
        """Take this many steps; None takes the config's. `timesteps` [K] float32 stay on the CPU."""
        self.num_inference_steps = num_inference_steps or self.sampler.steps
        self._grid = time_grid(self.num_inference_steps, self.sampler.time_shift)
        self.timesteps = self._grid[:-1]
        self._number = 0

    def scale_model_input(self, sample: Tensor, timestep: Tensor | None = None) -> Tensor:
        """The sample as it is."""
        return sample

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor]:
        """One Euler step of a sample [N, C, F, H, W] float32 by the velocity at `timestep`, the next of `timesteps`."""
        latents = euler_step(sample, model_output, timestep, self._grid[self._number + 1])
        self._number += 1
        return SchedulerOutput(prev_sample=latents) if return_dict else (latents,)
