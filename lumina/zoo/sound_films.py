"""H.264 clips of Shapes scenes with sound, as the networks that look at them see them: decoded, at 25 fps, 64 px."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lumina.randomness import generator
from lumina.shapes import SOURCES, SoundScene, film, sample_sound_scene
from lumina.video import read_frames, write_h264
from lumina.video_to_audio.frames import grid_indices, resize
from lumina.video_to_audio.lengths import SYNC_FPS

SEED = 22
SIDE, DURATION_S = 64, 4.0
FILE_SIDES = (64, 96)
FILE_FPS = (25, 25, 25, 25, 25, 25, 16, 24, 30)
"""Most files have the rate that the frames are taken at."""


@dataclass(frozen=True)
class Film:
    """A clip, and what it shows."""

    frames: np.ndarray
    """[T, 64, 64, 3] uint8 at 25 fps."""
    scene: SoundScene

    @property
    def onsets(self) -> np.ndarray:
        """Whether the main shape hops or touches the floor from one frame to the next: bool [T]."""
        found = np.zeros(len(self.frames), bool)
        steps = [int(time * SYNC_FPS) for time in self.scene.shapes[-1].times_s]
        found[[step for step in steps if step < len(found)]] = True
        return found


def sound_film(split: str, index: int) -> Film:
    """Clip `index` of a split; the three sources take turns."""
    rng = generator(SEED, f"zoo/sound films/{split}", index)
    source = list(SOURCES.values())[index % len(SOURCES)]
    side, fps = (int(options[rng.integers(len(options))]) for options in (FILE_SIDES, FILE_FPS))
    scene, count = sample_sound_scene(rng), round(DURATION_S * fps)
    filmed = film(scene, source, rng, num_frames=count, height=side, width=side, fps=fps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_h264(path, filmed, fps, crf=source.crf)
        frames = read_frames(path)
    taken = grid_indices([number / fps for number in range(count)], SYNC_FPS, round(DURATION_S * SYNC_FPS))
    return Film(resize(frames[taken], SIDE, SIDE).permute(0, 2, 3, 1).contiguous().numpy(), scene)


def sound_films(split: str, count: int) -> list[Film]:
    """The first clips of a split."""
    return [sound_film(split, index) for index in range(count)]
