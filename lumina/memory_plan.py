"""GPU memory of one generation: whether frames are decoded in tiles, and which networks wait on the CPU meanwhile.

Whole frames come first, since tiles give slightly other numbers and offloading gives the same: networks are moved to
the CPU before frames are cut. On a CPU nothing is moved or cut unless it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from lumina.hardware import USABLE
from lumina.offload import Offload, OffloadSetting

_WAITS = {
    "none": "all networks stay there",
    "text": "the text encoder waits on the CPU",
    "model": "each network waits on the CPU for its turn",
}


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of a generation."""

    transformer: int
    """Of weights, as the next two."""
    text_encoder: int
    vae: int
    sampling: int
    """Live while a batch is sampled, as the next two while a clip is decoded."""
    decoding: int
    decoding_tiled: int

    def peak(self, tiling: bool, offload: Offload) -> int:
        """Bytes at the fullest moment."""
        decoding = self.decoding_tiled if tiling else self.decoding
        if offload == "model":
            return max(self.text_encoder, self.transformer + self.sampling, self.vae + decoding)
        without = self.transformer + self.vae
        if offload == "text":
            return without + max(self.text_encoder, self.sampling, decoding)
        return without + self.text_encoder + max(self.sampling, decoding)


@dataclass(frozen=True)
class MemoryPlan:
    """What a generation does to fit."""

    device: str
    dtype: str
    tiling: bool
    offload: Offload

    def __str__(self) -> str:
        tiles = "in tiles" if self.tiling else "whole"
        return f"{self.device}, {self.dtype}, frames decoded {tiles}, {_WAITS[self.offload]}"


def plan_memory(
    need: MemoryNeed, free: int | None, tiling: bool | None = None, offload: OffloadSetting = "auto"
) -> tuple[bool, Offload]:
    """Choose (tiling, offload): the first that fits, or what takes least.

    Args:
        need: of the generation.
        free: bytes of the device that it may fill; None does not count them.
        tiling: whether to decode in tiles; None is what fits.
        offload: what waits on the CPU; "auto" is what fits.
    """
    tilings = (False, True) if tiling is None else (tiling,)
    offloads: tuple[Offload, ...] = ("none", "text", "model") if offload == "auto" else (offload,)
    choices = [(tiled, waiting) for tiled in tilings for waiting in offloads]
    if free is None:
        return choices[0]
    usable = int(USABLE * free)
    fitting = (choice for choice in choices if need.peak(*choice) <= usable)
    return next(fitting, min(choices, key=lambda choice: need.peak(*choice)))
