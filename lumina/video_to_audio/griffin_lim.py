"""Griffin-Lim vocoder: waves of log-mels without a trained network, by fast iterations on the phase.

Griffin and Lim 1984, with the momentum of Perraudin, Balazs and Sondergaard 2013. Magnitudes are those, none negative,
that the mel filter bank takes to the mel. The phase starts at zero, so that the same log-mel gives the same wave.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from lumina.config import Config
from lumina.video_to_audio.log_mel import BINS, FLOOR, HOP, MAX_HZ, SAMPLE_RATE, WINDOW, mel_filters

ITERATIONS = 32
MOMENTUM = 0.99
_UPDATES = 32
"""Of the magnitudes, from the pseudo-inverse on: Lee and Seung's multiplicative ones (2001)."""
_TINY = 1e-12


class GriffinLimConfig(Config):
    """The `config.json` of a vocoder that is not trained."""

    vocoder: Literal["griffin_lim"] = "griffin_lim"
    """What it is: a trained one's config has no such key."""
    iterations: int = Field(default=ITERATIONS, ge=0, le=1000)
    """Estimates of the phase after the first."""
    momentum: float = Field(default=MOMENTUM, ge=0, lt=1)
    """How far an estimate goes beyond the one before; 0 is Griffin and Lim's own."""


class GriffinLim(nn.Module):
    """`griffin_lim` with its settings, in the place of a trained vocoder."""

    def __init__(self, config: GriffinLimConfig | None = None) -> None:
        super().__init__()
        self.config = config or GriffinLimConfig()

    def forward(self, mel: Tensor) -> Tensor:
        """Waves [B, 160 T] of log-mels [B, T, 64]."""
        return griffin_lim(mel, self.config.iterations, self.config.momentum)

    def numbers(self) -> dict[str, Tensor]:
        """What its waves depend on, for digests."""
        values = self.config.iterations, self.config.momentum, _UPDATES
        return {"griffin_lim": torch.tensor(values, dtype=torch.float64)}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "config.json").write_text(self.config.model_dump_json(indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> GriffinLim:
        """Read `config.json`; ValueError naming it if a setting is unknown or out of range."""
        path = Path(folder, "config.json")
        try:
            return cls(GriffinLimConfig.model_validate_json(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise ValueError(f"{path} does not fit Griffin-Lim: {where}: {first['msg']}") from error


def magnitudes(mel: Tensor) -> Tensor:
    """Magnitudes float32 [B, 513, T], 0 or more, of log-mels [B, T, 64]; what is at the floor is silent."""
    filters, inverse = (one.to(mel.device) for one in _filters())
    linear = (mel.float().exp() - FLOOR).clamp(min=0).transpose(1, 2)
    # An update keeps zeros: what the pseudo-inverse makes negative begins at a small share of the frame's loudest.
    found = inverse @ linear
    found = torch.maximum(found, 1e-3 * found.amax(1, keepdim=True).clamp(min=0))
    wanted = filters.T @ linear
    for _ in range(_UPDATES):
        found = found * wanted / (filters.T @ (filters @ found) + _TINY)
    return found


def griffin_lim(mel: Tensor, iterations: int = ITERATIONS, momentum: float = MOMENTUM) -> Tensor:
    """Waves float32 [B, 160 T], -1 to 1, of log-mels [B, T, 64], whose frame k lies around sample 160 k.

    Args:
        mel: as `log_mel.log_mel` gives it.
        iterations: estimates of the phase after the first.
        momentum: how far an estimate goes beyond the one before; 0 is Griffin and Lim's own.

    Each wave is computed alone: how a batch's products are rounded depends on its size, and the iterations make of that
    another phase.

    Raises ValueError for another shape.
    """
    if mel.ndim != 3 or mel.shape[2] != BINS or not mel.shape[1]:
        raise ValueError(f"log-mels must be [B, T, {BINS}] with T >= 1, got {list(mel.shape)}")
    return torch.cat([_wave(one[None], iterations, momentum) for one in mel])


def _wave(mel: Tensor, iterations: int, momentum: float) -> Tensor:
    """The wave [1, 160 T] of one log-mel [1, T, 64]."""
    # The last 160 samples end at the middle of a frame that the log-mel has no more.
    wanted = magnitudes(torch.cat([mel, mel[:, -1:]], dim=1))
    samples = mel.shape[1] * HOP
    window = torch.hann_window(WINDOW, device=mel.device)

    def heard(spectrum: Tensor) -> Tensor:
        return torch.istft(spectrum, WINDOW, HOP, window=window, length=samples)

    phase, before = torch.ones_like(wanted, dtype=torch.complex64), torch.zeros_like(wanted, dtype=torch.complex64)
    for _ in range(iterations):
        now = torch.stft(heard(wanted * phase), WINDOW, HOP, window=window, pad_mode="constant", return_complex=True)
        ahead = now - before * (momentum / (1 + momentum))
        before, phase = now, ahead / ahead.abs().clamp(min=_TINY)
    return heard(wanted * phase).clamp(-1, 1)


@cache
def _filters() -> tuple[Tensor, Tensor]:
    """The mel filter bank [64, 513] and its pseudo-inverse."""
    filters = mel_filters(SAMPLE_RATE, WINDOW, BINS, MAX_HZ)
    return filters.float(), torch.linalg.pinv(filters).float()
