"""Parts of a video-to-audio directory: their names, where they lie, and what a sound is made with. No torch in here."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from lumina.config import Config
from lumina.files import read_json
from lumina.parts import GENERATION_FILE, SOUND_FILE, TRANSFORMER, parts_of
from lumina.pretrained import local_folder, locate
from lumina.video_to_audio.config import SoundSamplerConfig
from lumina.video_to_audio.lengths import SAMPLE_RATE, Lengths, lengths

CODEC, CLIP, SYNCHFORMER = "codec", "clip", "synchformer"
MOST_S = 10.0
"""Seconds of a clip that gets a sound, at most: quality falls far from the lengths of the training clips."""


class SoundGenerationConfig(Config):
    """Defaults of `lumina sound`."""

    sampler: SoundSamplerConfig = SoundSamplerConfig()
    """Steps and guidance."""
    seed: int = 0
    """Of the initial noise, where none is named."""
    most_s: float = Field(default=MOST_S, ge=0.64, le=120)
    """Seconds of a clip at most; a longer one is refused. The least is 0.64 s, one segment of Synchformer's."""

    def lengths(self, duration_s: float) -> Lengths:
        """Lengths of a sound for a clip of `duration_s` seconds; ValueError for one too short or too long."""
        if duration_s > self.most_s + 1 / SAMPLE_RATE:
            raise ValueError(
                f"a sound needs a clip of {self.most_s:g} s or shorter, got {duration_s:g} s: cut it first"
            )
        return lengths(duration_s)


def read_sound_settings(file: Path) -> SoundGenerationConfig:
    """Read a `sound.json`. Raises FileNotFoundError if there is none, ValueError for what is not one."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}: give a {SOUND_FILE}")
    try:
        return SoundGenerationConfig.model_validate(read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"{file} holds no settings of sounds: {where}: {first['msg']}") from error


def find_sound_parts(directory: str | Path) -> dict[str, Path]:
    """Where the parts of a video-to-audio directory lie, or of a model of the hub; by their names, `sound.json` too.

    Reads no weights and fetches nothing. Raises FileNotFoundError naming the part that is missing, or the command that
    fetches a model of the hub; ValueError for a text-to-video checkpoint.
    """
    folder = local_folder(directory)
    if not (folder / SOUND_FILE).is_file():
        if (folder / GENERATION_FILE).is_file():
            raise ValueError(
                f"{folder} is a text-to-video checkpoint, which makes no sound: give the export of a video-to-audio run"
            )
        raise FileNotFoundError(
            f"{folder} does not hold a video-to-audio checkpoint: no {SOUND_FILE}; the stage `export` of a "
            "video-to-audio run writes one"
        )
    root = locate(directory, "a video-to-audio checkpoint", (SOUND_FILE,)).folder
    names = (TRANSFORMER, CODEC, CLIP, SYNCHFORMER, SOUND_FILE)
    return parts_of(root, names, {}, "video-to-audio checkpoint")
