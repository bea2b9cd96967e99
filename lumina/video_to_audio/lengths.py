"""How many samples, frames, latents and features a sound of some seconds has. No torch in here.

Lengths are whole latent steps, 40 ms: what is left of a step is not covered.
"""

from __future__ import annotations

from dataclasses import dataclass

SAMPLE_RATE = 16_000
MEL_RATE = 100
LATENT_RATE = 25
"""Latents a second: four mel frames each."""
VISUAL_FPS = 8
SYNC_FPS = 25
SEGMENT, STRIDE, SEGMENT_TOKENS = 16, 8, 8
"""Frames of a segment, from one segment to the next, and tokens of one."""
TUBELET = SEGMENT // SEGMENT_TOKENS
"""Frames that a token sees."""
_TIE = 1e-6


def sync_segments(frames: int) -> list[int]:
    """First frames of the segments of 16 frames that fit, 8 apart; ValueError if none does."""
    if frames < SEGMENT:
        raise ValueError(f"Synchformer needs {SEGMENT} frames at {SYNC_FPS} fps, {SEGMENT / SYNC_FPS} s, got {frames}")
    return list(range(0, frames - SEGMENT + 1, STRIDE))


@dataclass(frozen=True)
class Lengths:
    """Of one clip."""

    latents: int
    """Steps of the latent, 25 a second."""
    visual_frames: int
    """At 8 fps."""
    sync_frames: int
    """At 25 fps."""

    @property
    def samples(self) -> int:
        """At 16 kHz."""
        return self.latents * SAMPLE_RATE // LATENT_RATE

    @property
    def mel_frames(self) -> int:
        """At 100 a second."""
        return self.latents * MEL_RATE // LATENT_RATE

    @property
    def sync_tokens(self) -> int:
        """Of all segments; segments overlap."""
        return SEGMENT_TOKENS * len(sync_segments(self.sync_frames))


def lengths(duration_s: float) -> Lengths:
    """Lengths for a clip of `duration_s` seconds; ValueError below 0.64 s, which is one segment of Synchformer's."""
    found = Lengths(*(int(duration_s * rate + _TIE) for rate in (LATENT_RATE, VISUAL_FPS, SYNC_FPS)))
    if found.sync_frames < SEGMENT:
        raise ValueError(f"a sound needs a clip of {SEGMENT / SYNC_FPS} s or longer, got {duration_s:g} s")
    return found


def sync_token_times(tokens: int) -> list[float]:
    """Seconds in the middle of what each token sees: token j of segment i sees frames 8 i + 2 j and the next."""
    return [
        (STRIDE * (token // SEGMENT_TOKENS) + 2 * (token % SEGMENT_TOKENS) + 1) / SYNC_FPS for token in range(tokens)
    ]
