"""Save and load the weights of a VideoToAudioDiT, in files as in `lumina.checkpoints`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lumina.checkpoints import read_config, read_weights, write_weights
from lumina.video_to_audio.config import VideoToAudioConfig
from lumina.video_to_audio.networks.dit import VideoToAudioDiT


def save_dit(model: VideoToAudioDiT, directory: Path) -> str:
    """Write a model to a directory that must not exist yet; return the weights' digest."""
    return save_weights(model.config, model.state_dict(), directory)


def save_weights(config: VideoToAudioConfig, weights: Mapping[str, Tensor], directory: Path) -> str:
    """Write a config and its weights, as `lumina.checkpoints.save_weights` does."""
    return write_weights(config, tensors_of(config), weights, directory)


def load_config(directory: Path) -> VideoToAudioConfig:
    """Read the config of a saved model.

    Raises FileNotFoundError if the directory holds none, ValueError if it is of something else, such as a text-to-video
    model.
    """
    return read_config(directory, VideoToAudioConfig, "video-to-audio")


def load_weights(directory: Path) -> dict[str, Tensor]:
    """Read the weights of a saved model to the CPU, checked against its config; errors as in `lumina.checkpoints`."""
    return read_weights(directory, tensors_of(load_config(directory)))


def load_dit(directory: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> VideoToAudioDiT:
    """Load a model in evaluation mode; dtype None keeps the stored one. Raises as `load_weights`."""
    with torch.device("meta"):
        model = VideoToAudioDiT(load_config(directory))
    model.load_state_dict(load_weights(directory), strict=True, assign=True)
    return model.to(device=device, dtype=dtype).eval()


def tensors_of(config: VideoToAudioConfig) -> dict[str, Tensor]:
    """The tensors of a network by name, with shapes and without content."""
    with torch.device("meta"):
        return VideoToAudioDiT(config).state_dict()
