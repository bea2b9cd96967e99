"""LuminaVideoPipeline: prompts to videos by a diffusers pipeline, with the frames of `TextToVideo`.

The file in an export is made of this module and of what it uses: it needs torch, diffusers, transformers and pydantic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import snapshot_download
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lumina.adapter_files import CONFIG_FILE, TENSORS_FILE
from lumina.adapters import Adapter, adapter_in, add_adapter
from lumina.flow_matching.sampler import velocity_field
from lumina.latents import initial_noise, latent_shape
from lumina.models.autoencoder import decode_latents, tile, use_onednn
from lumina.models.text_encoder import encode_tokens, tokenize
from lumina.system_prompts import compose


@dataclass
class LuminaVideoOutput(BaseOutput):
    """What a call gives."""

    frames: Any
    """Of each video, in the form that was asked for."""
    fps: float
    """Frame rate of the training clips."""


class LuminaVideoPipeline(DiffusionPipeline):
    """Text to video, after the paper Lumina-Video (arXiv 2502.06782).

    Args:
        transformer: predicts velocities, at several patch sizes.
        vae: of CogVideoX.
        text_encoder: a decoder-only language model without its head.
        tokenizer: of the text encoder.
        scheduler: times, patch sizes, guidance and motion.
        system_prompts: source to the text before a prompt.
        default_source: whose text is used when none is named.
        num_frames: what is generated when nothing else is asked for, as the others.
        width: in pixels.
        height: in pixels.
        fps: frame rate of the training clips, which the model is not told.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        transformer: torch.nn.Module,
        vae: AutoencoderKLCogVideoX,
        text_encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        scheduler: SchedulerMixin,
        system_prompts: dict[str, str] | None = None,
        default_source: str | None = None,
        num_frames: int = 16,
        width: int = 64,
        height: int = 64,
        fps: float = 8.0,
    ) -> None:
        super().__init__()
        # Gemma-2 caps its attention scores, which the fused kernels leave out.
        text_encoder.set_attn_implementation("eager")
        use_onednn(vae)
        self.register_modules(
            transformer=transformer, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
        )
        self.register_to_config(
            system_prompts=system_prompts or {},
            default_source=default_source,
            num_frames=num_frames,
            width=width,
            height=height,
            fps=fps,
        )
        self._adapters: dict[str, tuple[Adapter, float]] = {}
        self._plain: dict[str, Tensor] = {}
        self._interrupt = False

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set `_interrupt`: the steps that are left are skipped."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str = "",
        *,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_videos_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        source: str | None = None,
        motion: float | Sequence[float] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> LuminaVideoOutput | tuple[Any]:
        """Generate videos; those of one prompt lie behind one another.

        Args:
            prompt: one or several, without the system prompt.
            negative_prompt: what to stay away from.
            height: in pixels, a multiple of 8 times the largest patch.
            width: as height.
            num_frames: 1, or a multiple of 4 from 8 on.
            num_inference_steps: Euler steps; the scheduler's own otherwise.
            guidance_scale: s of v_negative + s (v - v_negative) at all times, instead of the scheduler's schedule of
                s - 1; 1 guides nothing.
            num_videos_per_prompt: n videos of each prompt.
            seed: of all prompts, or one for each: the noise, and on a CPU in float32 the bits, of our own program. The
                videos of one prompt have seed, seed + 1, ... 0 if no other noise is given.
            generator: draws the noise instead, one for all or one for each video.
            latents: [N, C, F, h, w] standard normal noise instead.
            source: whose system prompt to use; None takes the default one.
            motion: motion score of all prompts or of each, instead of the scheduler's schedule.
            output_type: "pil", "np" [N, T, H, W, 3] in 0..1, "pt" [N, T, 3, H, W] in 0..1, or "latent".
            return_dict: whether to return a `LuminaVideoOutput`, or a tuple of the frames alone.
            callback_on_step_end: called with (pipeline, number of the step, t, tensors) after each; may return others.
            callback_on_step_end_tensor_inputs: which of them: "latents".

        Raises ValueError, in one line, for what does not fit, naming what does.
        """
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type must be 'pil', 'np', 'pt' or 'latent', got {output_type!r}")
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"callback_on_step_end_tensor_inputs: there is latents, got {', '.join(sorted(unknown))}")
        captions = [prompt] if isinstance(prompt, str) else list(prompt)
        if not captions or num_videos_per_prompt < 1:
            raise ValueError("need one or more prompts, and num_videos_per_prompt from 1 on")
        changes = {"guidance": ((0.0, guidance_scale - 1),)} if guidance_scale is not None else {}
        sampler = self.scheduler.sampler.model_copy(update=changes)
        shape = latent_shape(
            self.transformer.config,
            self.config.num_frames if num_frames is None else num_frames,
            self.config.width if width is None else width,
            self.config.height if height is None else height,
            sampler,
        )
        count = len(captions) * num_videos_per_prompt
        noise = self._noise(shape, len(captions), num_videos_per_prompt, seed, generator, latents)
        scores = _each(motion, len(captions), num_videos_per_prompt, "motion")
        system_prompt = self._system_prompt(source)

        self._wake(self.text_encoder)
        ids = [tokenize(self.tokenizer, compose(system_prompt, text)) for text in [*captions, negative_prompt]]
        *text, negative = encode_tokens(self.text_encoder, ids)
        text = [features for features in text for _ in range(num_videos_per_prompt)]

        self._wake(self.transformer)
        network = self.transformer
        field = velocity_field(network, text, [negative] * count, sampler, shape[1], scores)
        self.scheduler.set_timesteps(num_inference_steps)
        state = noise.to(network.device, network.dtype).float()
        self._interrupt = False
        with self.progress_bar(total=len(self.scheduler.timesteps)) as bar:
            for number, t in enumerate(self.scheduler.timesteps):
                if self.interrupt:
                    continue
                velocity = field(state.to(network.dtype), t)
                [state] = self.scheduler.step(velocity, t, state, return_dict=False)
                if callback_on_step_end is not None:
                    tensors = {"latents": state} if callback_on_step_end_tensor_inputs else {}
                    state = (callback_on_step_end(self, number, t, tensors) or {}).get("latents", state)
                bar.update()
        frames: Any = state
        if output_type != "latent":
            self._wake(self.vae)
            frames = _in_form(decode_latents(self.vae, state), output_type)
        self.maybe_free_model_hooks()
        return LuminaVideoOutput(frames=frames, fps=self.config.fps) if return_dict else (frames,)

    def enable_vae_tiling(self) -> None:
        """Decode in tiles of 360x240 pixels: a few GB for frames of any size, and slightly other numbers."""
        tile(self.vae)

    def disable_vae_tiling(self) -> None:
        """Decode whole frames."""
        self.vae.disable_tiling()

    def enable_sequential_cpu_offload(self, *_args: Any, **_unused: Any) -> None:
        """Not there: NotImplementedError."""
        raise NotImplementedError("layers cannot be offloaded one by one: take enable_model_cpu_offload()")

    def save_pretrained(self, save_directory: str | Path, **_unused: Any) -> None:
        """Not there: NotImplementedError, since diffusers would save no code."""
        raise NotImplementedError(f"copy the directory that this pipeline was loaded from to {save_directory} instead")

    def load_lora_weights(self, source: str | Path, adapter_name: str = "default", adapter_weight: float = 1.0) -> None:
        """Add a LoRA adapter as peft saves it to the transformer's weights; for others `set_adapters` tells how much.

        Args:
            source: a directory with adapter_config.json and adapter_model.safetensors, or a repository of the hub.
            adapter_name: of your choice.
            adapter_weight: the adapter's alpha / r is multiplied by it.

        Raises FileNotFoundError if a file is missing, ValueError if the adapter is of another kind or network.
        """
        if adapter_name in self._adapters:
            raise ValueError(f"there is an adapter {adapter_name!r} already: name this one, or unload_lora_weights()")
        folder = Path(source)
        if not folder.is_dir():
            folder = Path(snapshot_download(str(source), allow_patterns=[CONFIG_FILE, TENSORS_FILE]))
        if not (folder / CONFIG_FILE).is_file():
            raise FileNotFoundError(f"{folder} does not hold an adapter: no {CONFIG_FILE}")
        found = adapter_in(folder, self.transformer.state_dict())
        self._set({**self._adapters, adapter_name: (found, adapter_weight)})

    def set_adapters(
        self, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float] | None = None
    ) -> None:
        """Add these of the loaded adapters, each by its weight, and no others. ValueError for an unknown name."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        if unknown := [name for name in names if name not in self._adapters]:
            raise ValueError(f"no adapter {unknown[0]!r} is loaded; there are {', '.join(self._adapters) or 'none'}")
        weights = _each(1.0 if adapter_weights is None else adapter_weights, len(names), 1, "adapter_weights") or []
        scales = dict(zip(names, weights, strict=True))
        self._set({name: (found, scales.get(name, 0.0)) for name, (found, _) in self._adapters.items()})

    def get_active_adapters(self) -> list[str]:
        """Names of the adapters that are added."""
        return [name for name, (_, scale) in self._adapters.items() if scale]

    def unload_lora_weights(self) -> None:
        """Take all adapters out: the weights are bit for bit as they were."""
        self._set({})

    def _set(self, adapters: Mapping[str, tuple[Adapter, float]]) -> None:
        tensors = self.transformer.state_dict()
        touched = {f"{name}.weight" for found, _ in adapters.values() for name in found.pairs}
        # Kept on the CPU: a sum that is taken back would leave its rounding.
        self._plain |= {name: tensors[name].cpu().clone() for name in sorted(touched - self._plain.keys())}
        weights = dict(self._plain)
        for found, scale in adapters.values():
            weights = add_adapter(weights, found, scale)
        for name, value in weights.items():
            tensors[name].copy_(value)
        self._adapters = dict(adapters)
        self._plain = {name: value for name, value in self._plain.items() if name in touched}

    def _noise(
        self,
        shape: tuple[int, ...],
        prompts: int,
        videos: int,
        seed: int | Sequence[int] | None,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: Tensor | None,
    ) -> Tensor:
        if sum(given is not None for given in (seed, generator, latents)) > 1:
            raise ValueError("seed, generator and latents all give the noise: leave out all but one")
        wanted = (prompts * videos, *shape)
        if latents is not None:
            if tuple(latents.shape) != wanted:
                raise ValueError(f"latents must have shape {list(wanted)}, got {list(latents.shape)}")
            return latents
        if generator is not None:
            if isinstance(generator, list) and len(generator) != wanted[0]:
                raise ValueError(f"need a generator for each of {wanted[0]} videos, got {len(generator)}")
            return randn_tensor(wanted, generator=generator, dtype=torch.float32)
        seeds = _each(0 if seed is None else seed, prompts, 1, "seed") or []
        return torch.stack([initial_noise(shape, int(first) + more) for first in seeds for more in range(videos)])

    def _system_prompt(self, source: str | None) -> str:
        texts = self.config.system_prompts
        name = source or self.config.default_source
        if name is None and len(texts) == 1:
            [name] = texts
        if name is None or name not in texts:
            asked = "name a source" if name is None else f"no system prompt for source {name!r}"
            raise ValueError(f"{asked}; there are {', '.join(texts)}")
        return str(texts[name])

    @staticmethod
    def _wake(module: torch.nn.Module) -> None:
        """Let offloading bring a network to its device, which it else does when `forward` is called."""
        hook = getattr(module, "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(module)


def _each(value: Any, prompts: int, videos: int, name: str) -> list[Any] | None:
    """One value for each video, of one for all or one for each prompt."""
    if value is None:
        return None
    values = [value] * prompts if isinstance(value, int | float) else list(value)
    if len(values) != prompts:
        raise ValueError(f"{name}: need one value, or one for each of {prompts}, got {len(values)}")
    return [one for one in values for _ in range(videos)]


def _in_form(frames: Tensor, output_type: str) -> Any:
    """uint8 [N, T, H, W, 3] in the form of diffusers."""
    if output_type == "pil":
        return [[Image.fromarray(frame) for frame in clip] for clip in frames.numpy()]
    if output_type == "np":
        return frames.numpy().astype(np.float32) / 255
    return frames.permute(0, 1, 4, 2, 3).float() / 255
