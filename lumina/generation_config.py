"""Generation defaults that are saved with a TextToVideo. No torch in here."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from lumina.config import Config
from lumina.files import read_json
from lumina.flow_matching.schedules import Sampler, SamplerConfig, sampler_config


class GenerationConfig(Config):
    """Defaults of `lumina generate`."""

    num_frames: int = Field(default=16, ge=1)
    """Frames of a clip: 1, or a multiple of 4 from 8 on."""
    fps: float = Field(default=8.0, gt=0)
    """Frame rate of the written file: that of the training clips, since the model is not told it."""
    width: int = Field(default=64, ge=16)
    """Pixels; a multiple of 8 times the largest patch."""
    height: int = Field(default=64, ge=16)
    """Pixels; a multiple of 8 times the largest patch."""
    sampler: Sampler = SamplerConfig()
    """Steps, scales, guidance and motion."""
    source: str | None = None
    """Source whose system prompt is used when none is named; None asks for one unless there is only one."""


_CLIPS = {
    "f16F64R512": {"num_frames": 64, "fps": 16, "width": 672, "height": 384},
    "f24F96R960": {"num_frames": 96, "fps": 24, "width": 1248, "height": 704},
}
"""The clips that the released presets were made for, by the first word of their names."""


def released_settings(preset: str) -> GenerationConfig:
    """What the released model generates with a preset of the sampler; ValueError for an unknown name."""
    sampler = sampler_config(preset)
    return GenerationConfig.model_validate({**_CLIPS[preset.partition("-")[0]], "sampler": sampler})


def read_settings(file: Path) -> GenerationConfig:
    """Read a `generation.json`. Raises FileNotFoundError if there is none, ValueError for what is not one."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}: give a generation.json")
    try:
        return GenerationConfig.model_validate(read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"{file} holds no settings of generation: {where}: {first['msg']}") from error
