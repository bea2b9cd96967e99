"""Adapter: the parts under the names that the fixtures' own checker calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumina.pretrained import Place
from lumina.video_to_audio import av_align, log_mel, motion_peaks, onsets
from lumina.video_to_audio.config import SynchformerConfig
from lumina.video_to_audio.frames import clip_frames, sync_frames
from lumina.video_to_audio.lengths import sync_segments
from lumina.video_to_audio.networks import codec
from lumina.video_to_audio.networks.clip import ClipFeatures
from lumina.video_to_audio.networks.synchformer import Synchformer, SynchformerVisual
from lumina.video_to_audio.waveforms import from_pcm16, mono, resample, to_pcm16

PLACE = Place(Path("fixture"), "the fixture's network")


def functions() -> SimpleNamespace:
    """All that the checker asks for but the tokenizer, whose words are not here."""
    return SimpleNamespace(
        sync_model=_sync_model,
        sync_video=lambda model, frames: Synchformer(model, "").video(frames),
        sync_segments=sync_segments,
        sync_preprocess=lambda frames: sync_frames(frames.numpy()),
        clip_preprocess=lambda frames: clip_frames(frames.numpy()),
        audioldm_fbank=_filter_bank,
        log_mel=lambda wave: log_mel.log_mel(torch.from_numpy(wave)).T,
        vae_from_original=_vae,
        posterior=_posterior,
        vocoder_from_original=_vocoder,
        vocoder_from_weight_norm=_vocoder,
        wave_to_int16=lambda wave: to_pcm16(torch.as_tensor(wave)),
        load_audio=lambda pcm, rate: resample(mono(from_pcm16(pcm)), rate, onsets.SAMPLE_RATE),
        onset_envelope=lambda wave: onsets.onset_envelope(torch.as_tensor(wave)),
        onset_frames=onsets.onset_frames,
        flow_magnitude=motion_peaks.flow_magnitude,
        video_peaks=motion_peaks.peak_times,
        av_align=_av_align,
        clip_from_open_clip=_clip,
    )


def _sync_model(cfg: Mapping[str, int]) -> SynchformerVisual:
    size = SynchformerConfig(
        width=cfg["embed_dim"],
        depth=cfg["depth"],
        heads=cfg["num_heads"],
        patch=cfg["patch_size"],
        mlp_ratio=cfg["mlp_ratio"],
        image_size=cfg["img_size"],
    )
    with torch.device("meta"):
        model = SynchformerVisual(size)
    return model.to_empty(device="cpu")


def _filter_bank(pcm: NDArray[np.int16], frames: int) -> Tensor:
    wave = from_pcm16(pcm)
    # AudioLDM hears the first channel alone.
    return log_mel.filter_bank(wave if wave.ndim == 1 else wave[:, 0], frames)


def _vae(tensors: dict[str, Tensor], _: Mapping[str, Any]) -> SimpleNamespace:
    vae = codec.vae_from_original(tensors, PLACE)
    return SimpleNamespace(moments=lambda mel: codec.moments(vae, mel), decode=lambda z: vae.decode(z).sample)


def _posterior(found: Tensor) -> dict[str, Tensor]:
    drawn = codec.posterior(found)
    return {"mean": drawn.mean, "std": drawn.std, "logvar": 2 * drawn.std.log()}


def _vocoder(tensors: dict[str, Tensor], config: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    rates, dilations = tuple(config["upsample_rates"]), tuple(map(tuple, config["resblock_dilation_sizes"]))
    vocoder: Callable[[Tensor], Tensor] = codec.vocoder_from_original(tensors, PLACE, rates=rates, dilations=dilations)
    return vocoder


def _av_align(sounds: list[float], motions: list[float], fps: float, version: motion_peaks.Version) -> float:
    score = av_align.av_align(sounds, motions, fps, version)
    return float("nan") if score is None else score


def _clip(tensors: dict[str, Tensor], config: Mapping[str, Any]) -> SimpleNamespace:
    from transformers import CLIPConfig, CLIPModel

    from lumina.vbench.networks import clip_names, weights
    from lumina.vbench.networks.clip import Clip

    published = clip_names.fit(tensors, "fixture")
    settings = clip_names.settings(
        published, {"quick_gelu": config["quick_gelu"], "vision_cfg": config["vision"], "text_cfg": config["text"]}
    )
    model = weights.build(CLIPModel, CLIPConfig(**settings), clip_names.to_hub(published), PLACE)
    # As the fixtures feed it: the larger square of the two.
    features = ClipFeatures(Clip(model, ""), {42: 48}.get(model.config.vision_config.image_size, 32))
    return SimpleNamespace(
        visual=lambda frames: features.visual(frames.permute(0, 2, 3, 1).contiguous().numpy()), text=features.tokens
    )
