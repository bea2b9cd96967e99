"""Limits of decoding: time and memory. Apart from the decoder, whose code counts for no stage that decodes nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DecodeLimits:
    """What one clip may cost."""

    timeout_s: float = 120.0
    """Seconds until its decoder is killed."""
    memory_bytes: int = 4 << 30
    """Resident memory at which its decoder is killed."""
