"""Sounds for training the audio codec: those of the Shapes world, as files give them back, and many others."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumina.audio_tracks import AudioEncoder, AudioTrack
from lumina.randomness import generator
from lumina.shapes.sounding import sample_sound_scene
from lumina.shapes.tones import SoundEvent, waveform
from lumina.video_to_audio.log_mel import HOP, SAMPLE_RATE, prepare

SEED = 20
FRAMES = 400
"""Of the mel of a sound, 4 s."""
SECONDS = FRAMES * HOP / SAMPLE_RATE
_MOST_LAYERS = 4
_Layer = Callable[[np.random.Generator, NDArray[np.float64]], NDArray[np.float64]]
"""Draws a wave of peak 1 or so at times in seconds."""


@dataclass(frozen=True, eq=False)
class Sound:
    """One sound, as `encode_sound` sees it."""

    wave: Tensor
    """[64,000] float32 at 16 kHz, centred, peak 0.5."""
    events: tuple[SoundEvent, ...]
    """What begins in it; of sounds that are not of the Shapes world none is told."""


def shapes_sound(split: str, index: int) -> Sound:
    """The sound of a Shapes scene: every second one through AAC, as the files of the demo have it."""
    scene = sample_sound_scene(generator(SEED, f"zoo/sounds/shapes/{split}", index))
    events = scene.events(SECONDS)
    wave = waveform(events, SECONDS)
    return Sound(prepare(torch.from_numpy(_through_aac(wave) if index % 2 else wave), FRAMES), events)


def other_sound(split: str, index: int) -> Sound:
    """A mixture of harmonic tones, noises, chirps and clicks at several levels, every second one over a noise floor."""
    rng = generator(SEED, f"zoo/sounds/other/{split}", index)
    wave = np.zeros(FRAMES * HOP)
    for _ in range(int(rng.integers(1, _MOST_LAYERS + 1))):
        layer = (_harmonics, _noise, _chirp, _clicks)[rng.choice(4, p=(0.4, 0.3, 0.2, 0.1))]
        wave += _level(rng, 0, -40) * _placed(rng, layer)
    if index % 2:
        wave += _level(rng, -40, -90) * rng.standard_normal(len(wave))
    return Sound(prepare(torch.from_numpy(wave), FRAMES), ())


def training_sound(index: int) -> Sound:
    """Two of three are sounds of the Shapes world."""
    return other_sound("train", index // 3) if index % 3 == 2 else shapes_sound("train", index - index // 3)


def _through_aac(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        for packet in AudioEncoder(container, AudioTrack(wave)).rest():
            container.mux(packet)
    file.seek(0)
    with av.open(file) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return np.ascontiguousarray(heard[: len(wave)])


def _placed(rng: np.random.Generator, layer: _Layer) -> NDArray[np.float64]:
    """A layer somewhere in the sound, with an attack and a decay."""
    wave = np.zeros(FRAMES * HOP)
    start = int(rng.uniform(0, 0.9) * len(wave))
    length = min(len(wave) - start, int(np.exp(rng.uniform(np.log(0.05), np.log(SECONDS))) * SAMPLE_RATE))
    t = np.arange(length) / SAMPLE_RATE
    decay, attack = np.exp(rng.uniform(np.log(0.03), np.log(2.0))), np.exp(rng.uniform(np.log(0.001), np.log(0.3)))
    envelope = np.minimum(t / attack, 1) * np.exp(-t / decay) * np.clip((t[-1] - t) / 0.02, 0, 1)
    wave[start : start + length] = envelope * layer(rng, t)
    return wave


def _harmonics(rng: np.random.Generator, t: NDArray[np.float64]) -> NDArray[np.float64]:
    hertz = np.exp(rng.uniform(np.log(60), np.log(3000)))
    vibrato = rng.uniform(0, 0.02) * np.sin(2 * np.pi * rng.uniform(2, 8) * t) / rng.uniform(2, 8)
    fall = rng.uniform(0.3, 2.5)
    wave = np.zeros_like(t)
    for k in range(1, min(int(rng.integers(1, 25)), int(7900 / hertz)) + 1):
        turn = rng.uniform(0, 2 * np.pi)
        wave += rng.uniform(0.1, 1) * k**-fall * np.sin(2 * np.pi * k * hertz * (t + vibrato) + turn)
    return wave / (np.abs(wave).max() + 1e-9)


def _noise(rng: np.random.Generator, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Noise whose spectrum is a random curve over the logarithm of the frequency."""
    spectrum = np.fft.rfft(rng.standard_normal(len(t)))
    octaves = np.log2(np.fft.rfftfreq(len(t), 1 / SAMPLE_RATE) + 30)
    curve = np.interp(octaves, np.linspace(np.log2(30), 13, 8), rng.uniform(-50, 0, 8))
    wave = np.fft.irfft(spectrum * 10 ** (curve / 20), len(t))
    return wave / (np.abs(wave).max() + 1e-9)


def _chirp(rng: np.random.Generator, t: NDArray[np.float64]) -> NDArray[np.float64]:
    first, last = np.exp(rng.uniform(np.log(60), np.log(7000), 2))
    hertz = first * (last / first) ** (t / t[-1])
    return np.sin(2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE)


def _clicks(rng: np.random.Generator, t: NDArray[np.float64]) -> NDArray[np.float64]:
    wave = np.zeros_like(t)
    wave[:: max(1, int(SAMPLE_RATE / np.exp(rng.uniform(np.log(3), np.log(200)))))] = 1.0
    return wave


def _level(rng: np.random.Generator, loud_db: float, faint_db: float) -> float:
    return float(10 ** (rng.uniform(faint_db, loud_db) / 20))
