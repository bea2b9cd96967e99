"""TextToVideo: prompts to frames, from one directory that holds every part."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from lumina.adapters import load_adapted
from lumina.checkpoints import load_model, save_model, write_whole
from lumina.flow_matching.sampler import Progress, sample
from lumina.flow_matching.schedules import SamplerConfig, sampler_config
from lumina.generation_config import GenerationConfig
from lumina.latents import initial_noise, latent_shape
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.models.text_encoder import TextEncoder
from lumina.parts import read_references
from lumina.precision import precision_on
from lumina.pretrained import local_folder, locate
from lumina.prompt_length import MAX_TOKENS
from lumina.system_prompts import SystemPrompt, compose, read_system_prompts, write_system_prompts

TRANSFORMER, VAE, TEXT_ENCODER = "transformer", "vae", "text_encoder"
SYSTEM_PROMPTS_FILE, GENERATION_FILE = "system_prompts.json", "generation.json"
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

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        *,
        adapter: str | Path | None = None,
        adapter_scale: float = 1.0,
    ) -> Self:
        """Load what `save_pretrained` wrote: a directory, or a model of the hub, "hf:owner/name".

        Args:
            directory: or hub id.
            device: of all parts.
            dtype: in which all parts compute; None is bfloat16 on GPUs and float32 on CPUs.
            adapter: directory or hub id of a LoRA adapter as the library peft saves it, which is added to the
                transformer's weights.
            adapter_scale: the adapter's alpha / r is multiplied by it; at 0 the frames are those without.

        Raises FileNotFoundError naming the part that is missing, ValueError if the adapter is of another network.
        """
        root = _local(directory)
        dtype = dtype or getattr(torch, precision_on(str(device)))
        elsewhere = read_references(root)
        for name in (TRANSFORMER, VAE, TEXT_ENCODER, SYSTEM_PROMPTS_FILE, GENERATION_FILE):
            if name not in elsewhere and not (root / name).exists():
                raise FileNotFoundError(f"{root} is no text-to-video checkpoint: it holds no {name}")
        if adapter is None:
            transformer = load_model(root / TRANSFORMER, device, dtype)
        else:
            transformer = load_adapted(root / TRANSFORMER, adapter, adapter_scale, device, dtype)
        return cls(
            transformer=transformer,
            vae=VideoAutoencoder.from_pretrained(elsewhere.get(VAE, root / VAE), device, dtype),
            text_encoder=TextEncoder.from_pretrained(elsewhere.get(TEXT_ENCODER, root / TEXT_ENCODER), device, dtype),
            system_prompts=read_system_prompts(root / SYSTEM_PROMPTS_FILE),
            defaults=GenerationConfig.model_validate_json((root / GENERATION_FILE).read_text(encoding="utf-8")),
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
        text = self.text_encoder.encode(composed)
        without = compose(system_prompt, negative_prompt)
        self._warn_of_cut("the negative prompt", without)
        [negative] = self.text_encoder.encode([without])
        latents = sample(
            self.transformer,
            torch.stack([initial_noise(shape, each) for each in each_seed]),
            text,
            [negative] * len(captions),
            config,
            motion=[float(motion)] * len(captions) if isinstance(motion, int | float) else motion,
            progress=progress,
        )
        return Generation(self.vae.decode(latents).numpy(), self.defaults.fps if fps is None else fps)

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
        name = source or self.defaults.source
        if name is None and len(self.system_prompts) == 1:
            [name] = self.system_prompts
        if name is None or name not in self.system_prompts:
            asked = "name a source" if name is None else f"no system prompt for source {name!r}"
            raise ValueError(f"{asked}; there are {', '.join(self.system_prompts)}")
        return self.system_prompts[name].text

    def latent_shape(self, num_frames: int, width: int, height: int, sampler: SamplerConfig) -> tuple[int, ...]:
        """[C, F, h, w] of a clip; raises ValueError, naming what fits, if a scale of the sampler does not divide it."""
        return latent_shape(self.transformer.config, num_frames, width, height, sampler)


def _local(source: str | Path) -> Path:
    """The directory `source`, or a snapshot of the hub repository of that name."""
    folder = local_folder(source)
    if not (folder / GENERATION_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} does not hold a text-to-video checkpoint: no {GENERATION_FILE}; `lumina assemble` makes one of "
            "a transformer and its parts"
        )
    return locate(source, "a text-to-video checkpoint", (GENERATION_FILE,)).folder


def _begin(text: str) -> str:
    """A text on one line, of a long one its beginning."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}..."


def write_texts(directory: Path, prompts: Iterable[SystemPrompt], defaults: GenerationConfig) -> None:
    """Write the JSON files of a text-to-video directory."""
    write_system_prompts(directory / SYSTEM_PROMPTS_FILE, prompts)
    (directory / GENERATION_FILE).write_text(defaults.model_dump_json(indent=1) + "\n", encoding="utf-8")
