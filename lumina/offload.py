"""Offloading to the CPU: which networks of a generation wait there. Without torch, as a command line needs it."""

from __future__ import annotations

from typing import Literal

Offload = Literal["none", "text", "model"]
"""What waits on the CPU: nothing, the text encoder once prompts are encoded, or all networks but the one at work."""
OffloadSetting = Literal["auto", "none", "text", "model"]
"""A setting: one of these, or `auto`, the first that fits the GPU."""
