"""Sounds of generated clips: one video-to-audio model for all of a worker's clips."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lumina.audio_tracks import AudioTrack
from lumina.files import sha256_file
from lumina.parts import SOUND_FILE
from lumina.video_to_audio.sound_parts import find_sound_parts, read_sound_settings

if TYPE_CHECKING:
    from lumina.video_to_audio.sound_model import SoundModel

_READ = (".json", ".safetensors", ".model", ".txt", ".jinja")
"""Files of a network or tokenizer that are read."""


@dataclass(frozen=True)
class ClipSound:
    """A video-to-audio directory that gives clips sounds: see `jobs.clips.GivesSound`."""

    directory: str
    use_gpu: bool

    @classmethod
    def find(cls, checkpoint: str, use_gpu: bool) -> ClipSound:
        """Check that all parts are there, without loading them; errors as of `SoundModel.load`."""
        parts = find_sound_parts(checkpoint)
        read_sound_settings(parts[SOUND_FILE])
        return cls(str(parts[SOUND_FILE].parent.absolute()), use_gpu)

    def check(self, frames: int, fps: float) -> None:
        """ValueError if a clip of so many frames is too short or too long to get a sound."""
        read_sound_settings(find_sound_parts(self.directory)[SOUND_FILE]).lengths(frames / fps)

    def track(self, frames: NDArray[np.uint8], fps: float, prompt: str, seed: int) -> AudioTrack:
        """The sound of frames [T, H, W, 3] that are shown `fps` a second."""
        model = _loaded(self.directory, self.use_gpu)
        stamps_s = [index / fps for index in range(len(frames))]
        return AudioTrack(model.sound(frames, stamps_s, len(frames) / fps, prompt, seed))

    def digest(self) -> str:
        """Of the content of its networks, tokenizer and settings: "sha256:<hex>"."""
        content: dict[str, Any] = {}
        for name, part in find_sound_parts(self.directory).items():
            files = [part] if part.is_file() else sorted(part.rglob("*"))
            content[name] = {
                path.relative_to(part.parent).as_posix(): sha256_file(path)
                for path in files
                if path.suffix in _READ and path.is_file()
            }
        return "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def bytes(self) -> int:
        """Of the files with its weights."""
        parts: list[Path] = [path for path in find_sound_parts(self.directory).values() if path.is_dir()]
        return sum(path.stat().st_size for part in parts for path in part.rglob("*.safetensors"))


@cache
def _loaded(directory: str, use_gpu: bool) -> SoundModel:
    from lumina.video_to_audio.sound_model import SoundModel

    return SoundModel.load(directory, "cuda" if use_gpu else "cpu")
