"""A tiny video-to-audio directory: the real classes with drawn weights, and films to give a sound to."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from lumina.video_to_audio.config import SoundSamplerConfig, VideoToAudioConfig
from lumina.video_to_audio.networks.clip import load_clip_features
from lumina.video_to_audio.networks.codec import load_codec
from lumina.video_to_audio.networks.dit import VideoToAudioDiT
from lumina.video_to_audio.networks.synchformer import load_synchformer
from lumina.video_to_audio.sound_parts import SoundGenerationConfig
from tests.lumina.reference_numbers import fill
from tests.lumina.video_to_audio.reference_numbers import SCALE, SYNC, save_weights

CONFIG = VideoToAudioConfig(
    dim=32, n_layers=1, n_heads=2, multiple_of=32, patch=(1, 16), visual_dim=24, text_dim=64, sync_dim=32
)
SETTINGS = SoundGenerationConfig(sampler=SoundSamplerConfig(steps=2), seed=7)


def save_dit(folder: Path, config: VideoToAudioConfig = CONFIG) -> VideoToAudioDiT:
    """Write a network with no zero in it, as training leaves one."""
    folder.mkdir(parents=True)
    model = VideoToAudioDiT(config).eval().requires_grad_(False)
    fill(model)
    for name, parameter in model.named_parameters():
        if name.endswith("attention.gate"):
            parameter.fill_(0.7)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(config.model_dump_json())
    return model


def save_networks(folder: Path) -> dict[str, Path]:
    """Write the networks around it as directories: audio_codec, clip, synchformer."""
    with tempfile.TemporaryDirectory() as temporary:
        files = save_weights(Path(temporary))
        codec = load_codec(files["codec"])
        codec.vae.register_to_config(scaling_factor=SCALE)
        codec.vae.save_pretrained(folder / "codec" / "vae")
        codec.vocoder.save_pretrained(folder / "codec" / "vocoder")
        clip = load_clip_features(files["clip"]).clip
        clip.model.save_pretrained(folder / "clip")
        clip.tokenizer.save_pretrained(folder / "clip")
        synchformer = load_synchformer(files["sync"], SYNC)
    (folder / "synchformer").mkdir()
    save_file(synchformer.model.state_dict(), folder / "synchformer" / "model.safetensors")
    (folder / "synchformer" / "config.json").write_text(SYNC.model_dump_json())
    return {"audio_codec": folder / "codec", "clip": folder / "clip", "synchformer": folder / "synchformer"}


def save_sound_model(folder: Path, settings: SoundGenerationConfig = SETTINGS) -> Path:
    """Write all of it."""
    folder.mkdir(parents=True)
    save_networks(folder)
    save_dit(folder / "transformer")
    (folder / "sound.json").write_text(settings.model_dump_json())
    return folder


def film(count: int, height: int = 48, width: int = 64, every: int = 7) -> NDArray[np.uint8]:
    """Frames of a bright square on noise that jumps now and then."""
    rng = np.random.Generator(np.random.Philox(count))
    frames = rng.integers(0, 60, (count, height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        left = 13 * (index // every) % (width - 16)
        frame[8:24, left : left + 16] = (240, 200, 30)
    return frames
