"""TextToVideo: prompts to frames, from one directory that holds every part."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from lumina import clip_frames
from lumina.adapters import load_adapted
from lumina.checkpoints import load_config, load_model, save_model, write_whole
from lumina.clip_frames import check_fit, fit_memory, make_frames
from lumina.evaluation_cost import Generation as Clips
from lumina.evaluation_cost import memory_need
from lumina.flow_matching.sampler import Progress
from lumina.flow_matching.schedules import SamplerConfig, sampler_config
from lumina.generation_config import GenerationConfig, read_settings
from lumina.latents import initial_noise, latent_shape
from lumina.memory_plan import MemoryPlan, plan_memory
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.models.text_encoder import TextEncoder
from lumina.offload import OffloadSetting
from lumina.parts import (
    GENERATION_FILE,
    SYSTEM_PROMPTS_FILE,
    TEXT_ENCODER,
    TRANSFORMER,
    VAE,
    find_parts,
    find_source,
    write_texts,
)
from lumina.precision import precision_on
from lumina.prompt_length import MAX_TOKENS
from lumina.system_prompts import SystemPrompt, compose, read_system_prompts

_SHOWN_CHARACTERS = 200
"""Of what is cut off a prompt."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Generation:
    """Generated clips."""

    frames: NDArray[np.uint8]
    """[B, T, H, W, 3] RGB."""
    fps: float


@dataclass(frozen=True, eq=False)
class TextToVideo:
    """All parts of a text-to-video model."""

    transformer: MultiScaleNextDiT
    vae: VideoAutoencoder
    text_encoder: TextEncoder
    system_prompts: Mapping[str, SystemPrompt]
    """Source to system prompt."""
    defaults: GenerationConfig
    device: torch.device | None = None
    """Where the networks work; None is where the transformer is."""
    tiling: bool | None = None
    """See `from_pretrained`, as for the next."""
    offload: OffloadSetting = "auto"

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        *,
        adapter: str | Path | None = None,
        adapter_scale: float = 1.0,
        tiling: bool | None = None,
        offload: OffloadSetting = "auto",
    ) -> Self:
        """Load what `save_pretrained` wrote: a directory, or a model of the hub, "hf:owner/name".

        Args:
            directory: or hub id.
            device: of all parts.
            dtype: in which all parts compute; None is bfloat16 on GPUs and float32 on CPUs.
            adapter: directory or hub id of a LoRA adapter as the library peft saves it, which is added to the
                transformer's weights.
            adapter_scale: the adapter's alpha / r is multiplied by it; at 0 the frames are those without.
            tiling: whether frames are decoded in tiles of 360x240 pixels, which changes them slightly; None is where
                they do not fit a GPU whole.
            offload: which networks wait on the CPU; "auto" is what fits a GPU, and changes no frame.

        Raises FileNotFoundError naming the part that is missing, ValueError if one is damaged or does not fit
        the others, or the adapter is of another network.
        """
        parts = find_parts(directory)
        dtype = dtype or getattr(torch, precision_on(str(device)))
        defaults = read_settings(parts[GENERATION_FILE])
        folders = {name: parts[name] for name in (TRANSFORMER, VAE, TEXT_ENCODER)}
        home = _home(folders, torch.device(device), dtype, defaults, tiling, offload)
        if adapter is None:
            transformer = load_model(folders[TRANSFORMER], home[TRANSFORMER], dtype)
        else:
            transformer = load_adapted(folders[TRANSFORMER], adapter, adapter_scale, home[TRANSFORMER], dtype)
        vae = VideoAutoencoder.from_pretrained(folders[VAE], home[VAE], dtype)
        text_encoder = TextEncoder.from_pretrained(folders[TEXT_ENCODER], home[TEXT_ENCODER], dtype)
        places = {name: str(folder) for name, folder in folders.items()}
        check_fit(
            transformer.config,
            places[TRANSFORMER],
            vae.latent_channels,
            places[VAE],
            text_encoder.feature_dim,
            places[TEXT_ENCODER],
        )
        return cls(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            system_prompts=read_system_prompts(parts[SYSTEM_PROMPTS_FILE]),
            defaults=defaults,
            device=torch.device(device),
            tiling=tiling,
            offload=offload,
        )

    def save_pretrained(self, directory: str | Path) -> None:
        """Write all parts to a directory that must not exist yet: it appears whole, or not at all."""
        with write_whole(Path(directory)) as part:
            save_model(self.transformer, part / TRANSFORMER)
            self.vae.save_pretrained(part / VAE)
            self.text_encoder.save_pretrained(part / TEXT_ENCODER)
            write_texts(part, self.system_prompts.values(), self.defaults)

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        source: str | None = None,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        num_frames: int | None = None,
        width: int | None = None,
        height: int | None = None,
        fps: float | None = None,
        sampler: SamplerConfig | str | None = None,
        motion: float | Sequence[float] | None = None,
        negative_prompt: str = "",
        progress: Progress | None = None,
    ) -> Generation:
        """Generate one clip per prompt.

        A clip depends on its prompt and seed, and on the batch it is in by the rounding of batched sums only (below
        one grey level in float32).

        Args:
            prompts: captions, without the system prompt.
            source: whose system prompt to use; None takes the default one.
            seed: of the initial noise of every prompt.
            seeds: one seed per prompt instead.
            num_frames: 1, or a multiple of 4 from 8 on.
            width: pixels, a multiple of 8 times the largest patch; of 16 for a single frame.
            height: as width.
            fps: frame rate, which the model is not told; None is that of the training clips.
            sampler: settings, or the name of a released preset.
            motion: motion score of all clips or of each, instead of the sampler's schedule; negative is unspecified.
                The negative side follows where its schedule says "positive".
            negative_prompt: what to stay away from; empty is the system prompt alone, as released.
            progress: called with (evaluations done, evaluations in all).

        A prompt that is longer than the text encoder takes is cut off there, with a warning in the log that
        quotes what is left out.

        Raises ValueError for an unknown source or preset, or a size that does not fit, naming what does.
        """
        captions = [prompts] if isinstance(prompts, str) else list(prompts)
        each_seed = [seed] * len(captions) if seeds is None else list(seeds)
        if not captions or len(each_seed) != len(captions):
            raise ValueError(f"need one or more prompts and a seed for each, got {len(captions)} and {len(each_seed)}")
        config = sampler_config(self.defaults.sampler if sampler is None else sampler)
        shape = self.latent_shape(
            self.defaults.num_frames if num_frames is None else num_frames,
            self.defaults.width if width is None else width,
            self.defaults.height if height is None else height,
            config,
        )
        system_prompt = self.system_prompt(source)
        composed = [compose(system_prompt, caption) for caption in captions]
        one = len(captions) == 1
        for number, prompt in enumerate(composed, start=1):
            self._warn_of_cut("the prompt" if one else f"prompt {number}", prompt)
        without = compose(system_prompt, negative_prompt)
        self._warn_of_cut("the negative prompt", without)
        plan = self.memory_plan(num_frames, width, height, config, len(captions))
        logger.info("%s", plan)
        frames = make_frames(
            self.transformer,
            self.vae,
            self.text_encoder,
            composed,
            without,
            torch.stack([initial_noise(shape, each) for each in each_seed]),
            config,
            device=torch.device(plan.device),
            tiling=plan.tiling,
            offload=plan.offload,
            motion=[float(motion)] * len(captions) if isinstance(motion, int | float) else motion,
            progress=progress,
        )
        return Generation(frames, self.defaults.fps if fps is None else fps)

    def memory_plan(
        self,
        num_frames: int | None = None,
        width: int | None = None,
        height: int | None = None,
        sampler: SamplerConfig | str | None = None,
        clips: int = 1,
    ) -> MemoryPlan:
        """How a call with these arguments fits the device's memory; its `str` is one line. Raises as a call."""
        device = self.device or self.transformer.device
        networks = {TRANSFORMER: self.transformer, VAE: self.vae.vae, TEXT_ENCODER: self.text_encoder.model}
        settings = self.defaults.model_copy(
            update={
                "num_frames": self.defaults.num_frames if num_frames is None else num_frames,
                "width": self.defaults.width if width is None else width,
                "height": self.defaults.height if height is None else height,
                "sampler": sampler_config(self.defaults.sampler if sampler is None else sampler),
            }
        )
        self.latent_shape(settings.num_frames, settings.width, settings.height, settings.sampler)
        wanted = True if self.vae.vae.use_tiling else self.tiling
        generation = Clips(settings.width, settings.height, settings.num_frames, clips, self.transformer.dtype.itemsize)
        need = memory_need(self.transformer.config, settings.sampler, generation)
        tiling, offload = fit_memory(need, networks, device, wanted, self.offload)
        return MemoryPlan(str(device), str(self.transformer.dtype).removeprefix("torch."), tiling, offload)

    def _warn_of_cut(self, name: str, prompt: str) -> None:
        cut = self.text_encoder.tokens_cut(prompt)
        if cut:
            logger.warning(
                "%s has %s tokens with its system prompt, and the text encoder takes %d: the last %s are cut off, %r; "
                "shorten it",
                name,
                f"{MAX_TOKENS + cut:,}",
                MAX_TOKENS,
                f"{cut:,}",
                _begin(self.text_encoder.text_cut(prompt)),
            )

    def system_prompt(self, source: str | None) -> str:
        """Text of a source's system prompt; None is the default source, or the only one."""
        return self.system_prompts[find_source(self.system_prompts, source or self.defaults.source)].text

    def latent_shape(self, num_frames: int, width: int, height: int, sampler: SamplerConfig) -> tuple[int, ...]:
        """[C, F, h, w] of a clip; raises ValueError, naming what fits, if a scale of the sampler does not divide it."""
        return latent_shape(self.transformer.config, num_frames, width, height, sampler)


def _home(
    folders: Mapping[str, Path],
    device: torch.device,
    dtype: torch.dtype,
    defaults: GenerationConfig,
    tiling: bool | None,
    offload: OffloadSetting,
) -> dict[str, torch.device | str]:
    """Where each network is loaded to: those that will wait on the CPU, there."""
    free = clip_frames.free_bytes(device)
    if free is not None and offload == "auto":
        # Of files, which may have wider numbers: what is loaded to the CPU for that is moved by the first call.
        sizes = {name: sum(file.stat().st_size for file in one.glob("*.safetensors")) for name, one in folders.items()}
        generation = Clips(defaults.width, defaults.height, defaults.num_frames, 1, dtype.itemsize)
        need = memory_need(load_config(folders[TRANSFORMER]), defaults.sampler, generation, **sizes)
        _, offload = plan_memory(need, free, tiling, offload)
    waiting = {"text": (TEXT_ENCODER,), "model": (TRANSFORMER, VAE, TEXT_ENCODER)}.get(offload, ())
    return {name: "cpu" if name in waiting else device for name in folders}


def _begin(text: str) -> str:
    """A text on one line, of a long one its beginning."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}..."
