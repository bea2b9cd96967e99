"""AudioLDM's codec (Liu et al. 2023, arXiv 2301.12503): a VAE of log-mels, and the HiFi-GAN that makes them sound.

100 mel frames a second of 64 bins become 25 latents of 16 rows and 8 channels; 100 frames are 16,000 samples again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lumina import weights_digest
from lumina.files import read_json
from lumina.pretrained import Place, locate
from lumina.tensor_files import check_shapes
from lumina.vbench.networks import weights
from lumina.video_to_audio import log_mel
from lumina.video_to_audio.griffin_lim import GriffinLim
from lumina.video_to_audio.networks import audioldm_names

_VAE, _VOCODER = "AudioLDM's VAE", "AudioLDM's vocoder"
_INSTEAD = "AudioLDM's checkpoint (.ckpt or .safetensors), or a directory with vae/ and vocoder/"
_LOGVAR = -30.0, 20.0


@dataclass(frozen=True, eq=False)
class Posterior:
    """What a latent is drawn from: mean + std * noise, each float32 [B, C, T / 4, 16] on the CPU."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True, eq=False)
class AudioCodec:
    """Log-mels to scaled latents and back, and log-mels to waves.

    Raises ValueError if the networks are not for log-mels of 64 bins and 160 samples.
    """

    vae: Any
    vocoder: Any
    """A trained SpeechT5HifiGan, or GriffinLim."""
    scale: float
    """What latents are multiplied by, the checkpoint's scale factor."""
    digest: str

    def __post_init__(self) -> None:
        """Check that the two networks are for the same spectrogram."""
        channels = self.vae.config.in_channels, self.vae.config.out_channels
        if channels != (1, 1):
            raise ValueError(
                f"{_VAE} takes and gives one channel, the log-mel; this one {channels[0]} and {channels[1]}"
            )
        if isinstance(self.vocoder, GriffinLim):
            return
        sound = self.vocoder.config
        found = sound.model_in_dim, math.prod(sound.upsample_rates), sound.sampling_rate
        wanted = log_mel.BINS, log_mel.HOP, log_mel.SAMPLE_RATE
        if found != wanted:
            raise ValueError(
                f"{_VOCODER} makes {found[1]} samples at {found[2]} Hz of {found[0]} mel bins; "
                f"needed are {wanted[1]} at {wanted[2]} Hz of {wanted[0]}"
            )

    @property
    def vocoder_name(self) -> str:
        """By what the log-mels sound: `hifigan` or `griffin_lim`."""
        return "griffin_lim" if isinstance(self.vocoder, GriffinLim) else "hifigan"

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        return int(self.vae.config.latent_channels)

    @property
    def factor(self) -> int:
        """Mel frames to a latent step, and mel bins to a latent row."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, mel: Tensor) -> Posterior:
        """Scaled posterior of log-mels [B, T, 64]; frames that do not fill a latent step are left out."""
        return encode(self.vae, self.scale, mel)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Log-mels float32 [B, 4 t, 64] on the CPU of scaled latents [B, C, t, 16]."""
        channels, rows = self.latent_channels, log_mel.BINS // self.factor
        if latents.ndim != 4 or (latents.shape[1], latents.shape[3]) != (channels, rows):
            raise ValueError(f"latents must be [B, {channels}, t, {rows}], got {list(latents.shape)}")
        weight = next(self.vae.parameters())
        mel: Tensor = self.vae.decode(latents.to(weight.device, weight.dtype) / self.scale).sample
        return mel[:, 0].float().cpu()

    @torch.no_grad()
    def vocode(self, mel: Tensor) -> Tensor:
        """Waves float32 [B, 160 T] on the CPU, -1 to 1, of log-mels [B, T, 64]; the 32 samples beyond are cut."""
        weight = next(self.vae.parameters())
        # Spectra are not computed in less than float32.
        dtype = torch.float32 if isinstance(self.vocoder, GriffinLim) else weight.dtype
        waves: Tensor = self.vocoder(_batch(mel)[:, 0].to(weight.device, dtype))
        return waves[:, : log_mel.HOP * mel.shape[1]].float().cpu()


@torch.no_grad()
def encode(vae: Any, scale: float, mel: Tensor) -> Posterior:
    """See `AudioCodec.encode`."""
    found = posterior(moments(vae, _batch(mel)))
    return Posterior(found.mean * scale, found.std * scale)


def moments(vae: Any, mel: Tensor) -> Tensor:
    """Mean and log-variance [B, 2 C, T / 4, 16] of log-mels [B, 1, T, 64], not scaled."""
    weight = next(vae.parameters())
    found: Tensor = vae.encode(mel.to(weight.device, weight.dtype)).latent_dist.parameters
    return found


def posterior(found: Tensor) -> Posterior:
    """Mean and deviation of what `moments` gives, the log-variance limited to -30..20."""
    mean, logvar = found.float().cpu().chunk(2, dim=1)
    return Posterior(mean, (0.5 * logvar.clamp(*_LOGVAR)).exp())


def load_codec(
    source: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> AudioCodec:
    """Load a directory with `vae` and `vocoder`, such a repository of the hub, or AudioLDM's original checkpoint.

    A `vocoder/config.json` with `"vocoder": "griffin_lim"` stands for Griffin-Lim, which has no weights.

    Args:
        source: e.g. "hf:cvssp/audioldm-s-full-v2", or the path of a `.ckpt` or `.safetensors` file.
        device: where it runs.
        dtype: of the weights.

    The scale factor is the checkpoint's. Raises FileNotFoundError naming what is missing, ValueError if it is damaged,
    or the tensors are another network's.
    """
    if Path(source).is_file():
        vae, vocoder, scale = _read_original(Path(source))
    else:
        vae, vocoder = load_vae(_inside(source, "vae")), _read_vocoder(_inside(source, "vocoder"))
        scale = float(vae.config.scaling_factor)
    sounding = vocoder.numbers() if isinstance(vocoder, GriffinLim) else vocoder.state_dict()
    digest = weights_digest.digest({"vae": vae.state_dict(), "vocoder": sounding})
    # Diffusers' own `to` warns of layers that are kept in float32, of which there are none.
    vae, vocoder = (nn.Module.to(network, device, dtype) for network in (vae, vocoder))
    return AudioCodec(vae, vocoder, scale, digest)


def load_encoder(
    source: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Any, float]:
    """The VAE of `load_codec` and its scale factor, for `encode` alone: the vocoder of a directory is not read."""
    if Path(source).is_file():
        vae, _, scale = _read_original(Path(source))
    else:
        vae = load_vae(_inside(source, "vae"))
        scale = float(vae.config.scaling_factor)
    return nn.Module.to(vae, device, dtype), scale


def vae_from_original(tensors: dict[str, Tensor], place: Place) -> Any:
    """AutoencoderKL of AudioLDM's tensors, without their prefix; ValueError if they do not fit."""
    from diffusers import AutoencoderKL

    try:
        config = audioldm_names.vae_config(tensors)
    except ValueError as error:
        raise ValueError(f"{place.folder} does not fit {place.what}: {error}; give {_INSTEAD}") from error
    with torch.device("meta"):
        vae = AutoencoderKL(**config)
    wanted = {name: list(value.shape) for name, value in vae.state_dict().items()}
    renamed = audioldm_names.vae_tensors(tensors)
    check_shapes(wanted, renamed, str(place.folder), place.what)
    vae.load_state_dict({name: value.clone().float() for name, value in renamed.items()}, assign=True)
    return vae.eval().requires_grad_(False)


def vocoder_from_original(tensors: dict[str, Tensor], place: Place, **sizes: Any) -> Any:
    """SpeechT5HifiGan of AudioLDM's tensors, without their prefix; `sizes` as of `audioldm_names.vocoder_config`."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    renamed = audioldm_names.vocoder_tensors(tensors)
    try:
        config = SpeechT5HifiGanConfig(**audioldm_names.vocoder_config(renamed, **sizes))
    except ValueError as error:
        raise ValueError(f"{place.folder} does not fit {place.what}: {error}; give {_INSTEAD}") from error
    return weights.build(SpeechT5HifiGan, config, renamed, place)


def _read_original(path: Path) -> tuple[Any, Any, float]:
    tensors = weights.read_entry(path, "state_dict", _VAE, _INSTEAD)
    if audioldm_names.SCALE not in tensors or tensors[audioldm_names.SCALE].numel() != 1:
        raise ValueError(f"{path} is no checkpoint of AudioLDM: it has no {audioldm_names.SCALE}; give {_INSTEAD}")
    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    first = _without(tensors, audioldm_names.PREFIX)
    vae = vae_from_original({name: value for name, value in first.items() if name.startswith(parts)}, Place(path, _VAE))
    vocoder = vocoder_from_original(_without(tensors, audioldm_names.VOCODER_PREFIX), Place(path, _VOCODER))
    return vae, vocoder, float(tensors[audioldm_names.SCALE])


def _without(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _inside(source: str | Path, part: str) -> str:
    """The folder of a part of a directory or of a repository, whose revision comes last."""
    if Path(source).is_dir():
        return str(Path(source) / part)
    name, at, revision = str(source).partition("@")
    return f"{name}/{part}{at}{revision}"


def load_vae(source: str) -> Any:
    """AutoencoderKL of a folder or of the hub; FileNotFoundError or ValueError as `load_codec`."""
    from diffusers import AutoencoderKL

    place = locate(source, _VAE, ("config.json", "*.safetensors"))
    with place.explained():
        vae, info = AutoencoderKL.from_pretrained(
            place.folder,
            local_files_only=True,
            torch_dtype=torch.float32,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    place.check(vae.state_dict().keys(), info)
    return vae.eval().requires_grad_(False)


def _read_vocoder(source: str) -> Any:
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    folder = locate(source, _VOCODER, ("config.json",)).folder
    settings = read_json(folder / "config.json")
    if isinstance(settings, dict) and "vocoder" in settings:
        return GriffinLim.from_pretrained(folder)
    place = locate(source, _VOCODER, ("config.json", "model*.safetensors"))
    with place.explained():
        config = SpeechT5HifiGanConfig.from_pretrained(place.folder)
    return weights.build(SpeechT5HifiGan, config, weights.read_folder(place), place)


def _batch(mel: Tensor) -> Tensor:
    if mel.ndim != 3 or mel.shape[2] != log_mel.BINS:
        raise ValueError(f"log-mels must be [B, T, {log_mel.BINS}], got {list(mel.shape)}")
    return mel[:, None]
