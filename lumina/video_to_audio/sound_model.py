"""SoundModel: a silent clip to its waveform, from one directory that holds every part of the video-to-audio model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lumina.parts import SOUND_FILE, TRANSFORMER
from lumina.video_to_audio import log_mel
from lumina.video_to_audio.checkpoints import load_dit
from lumina.video_to_audio.frames import Frames, grid_indices
from lumina.video_to_audio.generation import make_sounds, sound_noise
from lumina.video_to_audio.lengths import LATENT_RATE, SAMPLE_RATE, SYNC_FPS, VISUAL_FPS, Lengths
from lumina.video_to_audio.networks.clip import ClipFeatures, load_clip_features
from lumina.video_to_audio.networks.codec import AudioCodec, load_codec
from lumina.video_to_audio.networks.dit import Media, VideoToAudioDiT
from lumina.video_to_audio.networks.synchformer import Synchformer, load_synchformer
from lumina.video_to_audio.sound_parts import (
    CLIP,
    CODEC,
    SYNCHFORMER,
    SoundGenerationConfig,
    find_sound_parts,
    read_sound_settings,
)
from lumina.video_to_audio.waveforms import from_pcm16, to_pcm16

_FADE = 160
"""Samples over which a sound ends before a silence, so that it does not click."""


@dataclass(frozen=True, eq=False)
class SoundModel:
    """All parts of a video-to-audio model."""

    transformer: VideoToAudioDiT
    codec: AudioCodec
    clip: ClipFeatures
    synchformer: Synchformer
    defaults: SoundGenerationConfig

    @classmethod
    def load(cls, directory: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Self:
        """Load what the stage `export` wrote: a directory, or a model of the hub, "hf:owner/name".

        Args:
            directory: or hub id.
            device: of all parts.
            dtype: in which the transformer computes; None keeps the stored one. All else computes in float32.

        Raises FileNotFoundError naming the part that is missing, ValueError if one is damaged, does not fit the others,
        or the directory is a text-to-video checkpoint.
        """
        parts = find_sound_parts(directory)
        defaults = read_sound_settings(parts[SOUND_FILE])
        transformer = load_dit(parts[TRANSFORMER], device, dtype)
        codec = load_codec(parts[CODEC], device)
        clip = load_clip_features(parts[CLIP], device)
        synchformer = load_synchformer(parts[SYNCHFORMER], device=device)
        check_fit(transformer, codec, clip, synchformer, {name: str(path) for name, path in parts.items()})
        return cls(transformer, codec, clip, synchformer, defaults)

    def sound(
        self,
        frames: Frames,
        stamps_s: Sequence[float],
        duration_s: float,
        prompt: str = "",
        seed: int | None = None,
        steps: int | None = None,
    ) -> NDArray[np.float32]:
        """The sound of a clip: float32 [round(16000 duration_s)], mono at 16 kHz, in -1..1, in steps of 16 bits.

        What is left of a latent step of 40 ms at the end is silent. It depends on the arguments alone.

        Args:
            frames: RGB uint8 [T, H, W, 3], T >= 1.
            stamps_s: T times, ascending: when each frame is first shown, in seconds from the clip's start.
            duration_s: when the last one ends.
            prompt: what is heard; empty is unknown.
            seed: of the noise; None is the model's default, as for the next.
            steps: of the sampler.

        Raises ValueError for a clip shorter than 0.64 s or longer than the model's settings allow, and for one without
        frames.
        """
        known = self.lengths(duration_s)
        if len(frames) != len(stamps_s):
            raise ValueError(f"got {len(frames)} frames and {len(stamps_s)} times")
        seen = frames[grid_indices(stamps_s, VISUAL_FPS, known.visual_frames)]
        moving = frames[grid_indices(stamps_s, SYNC_FPS, known.sync_frames)]
        return self.sound_of(seen, moving, duration_s, prompt, seed, steps)

    @torch.inference_mode()
    def sound_of(
        self,
        seen: Frames,
        moving: Frames,
        duration_s: float,
        prompt: str = "",
        seed: int | None = None,
        steps: int | None = None,
    ) -> NDArray[np.float32]:
        """As `sound`, of the frames at 8 fps, and of those at 25 fps."""
        known = self.lengths(duration_s)
        if (len(seen), len(moving)) != (known.visual_frames, known.sync_frames):
            raise ValueError(
                f"a clip of {duration_s:g} s needs {known.visual_frames} frames at {VISUAL_FPS} fps and "
                f"{known.sync_frames} at {SYNC_FPS} fps, got {len(seen)} and {len(moving)}"
            )
        text = self.clip.text([prompt])[0] if prompt.strip() else None
        media = Media(self.clip.visual(seen), text, self.synchformer.features(moving))
        patch = self.transformer.config.patch[0]
        noise = sound_noise(
            self.transformer, known.latents // patch * patch, self.defaults.seed if seed is None else seed
        )
        sampler = self.defaults.sampler
        sampler = sampler if steps is None else sampler.model_copy(update={"steps": steps})
        wave = make_sounds(self.transformer, self.codec, noise[None], [media], sampler).waves[0]
        if not wave.isfinite().all():
            raise ValueError("the sound holds values that are no numbers: the checkpoint's weights are damaged")
        return from_pcm16(to_pcm16(ended(wave, round(duration_s * SAMPLE_RATE)))).numpy()

    @property
    def sides(self) -> tuple[int, int]:
        """Pixels of the squares in which CLIP and Synchformer see a frame."""
        return self.clip.side, self.synchformer.model.config.image_size

    def lengths(self, duration_s: float) -> Lengths:
        """Lengths of a sound for a clip of `duration_s` seconds; ValueError for one too short or too long."""
        return self.defaults.lengths(duration_s)


def check_fit(
    transformer: VideoToAudioDiT,
    codec: AudioCodec,
    clip: ClipFeatures,
    synchformer: Synchformer,
    places: dict[str, str],
) -> None:
    """Check that networks were trained together, as far as shapes tell. Raises ValueError naming those that were not.

    Args:
        transformer: takes the features.
        codec: of its latents.
        clip: features of frames and text.
        synchformer: features of motion.
        places: where each lies, by its name.
    """
    config = transformer.config
    rate = log_mel.SAMPLE_RATE / log_mel.HOP / codec.factor
    for part, what, found, wanted in (
        (CODEC, "latent channels", codec.latent_channels, config.in_channels),
        (CODEC, "rows of its latents", log_mel.BINS // codec.factor, config.latent_rows),
        (CODEC, "latents a second", rate, LATENT_RATE),
        (CLIP, "as width of its visual features", clip.visual_width, config.visual_dim),
        (CLIP, "as width of its text features", clip.text_width, config.text_dim),
        (SYNCHFORMER, "as width of its features", synchformer.width, config.sync_dim),
    ):
        if found != wanted:
            raise ValueError(
                f"{places[part]} has {found:g} {what}, but the transformer {places[TRANSFORMER]} takes {wanted}: "
                f"name the {part} that it was trained with"
            )


def ended(wave: Tensor, samples: int) -> Tensor:
    """A wave [n] cut to `samples`, or faded out over 10 ms and followed by silence."""
    if samples <= len(wave):
        return wave[:samples]
    wave = wave.clone()
    wave[-_FADE:] *= torch.linspace(1, 0, min(_FADE, len(wave)))
    return F.pad(wave, (0, samples - len(wave)))
