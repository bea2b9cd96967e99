"""AudioLDM's codec: its original checkpoint, directories, lengths, and networks of the wrong kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lumina.video_to_audio.griffin_lim import GriffinLim, GriffinLimConfig
from lumina.video_to_audio.networks.codec import AudioCodec, load_codec
from tests.lumina.reference_numbers import draw
from tests.lumina.video_to_audio.reference_numbers import SCALE


@pytest.fixture(scope="module")
def codec(published: dict[str, Path]) -> AudioCodec:
    return load_codec(published["codec"])


@pytest.fixture(scope="module")
def folder(codec: AudioCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as `cvssp/audioldm-s-full-v2` is one."""
    where = tmp_path_factory.mktemp("audioldm")
    codec.vae.register_to_config(scaling_factor=SCALE)
    codec.vae.save_pretrained(where / "vae")
    codec.vocoder.save_pretrained(where / "vocoder")
    return where


def test_lengths_and_attributes(codec: AudioCodec) -> None:
    assert (codec.latent_channels, codec.factor, codec.scale) == (8, 4, SCALE)
    found = codec.encode(draw("mel", 1, 43, 64))
    assert found.mean.shape == found.std.shape == (1, 8, 10, 16)
    mel = codec.decode(found.mean)
    assert mel.shape == (1, 40, 64)
    assert codec.vocode(mel).shape == (1, 6400)


def test_latents_are_scaled_both_ways(codec: AudioCodec) -> None:
    doubled = AudioCodec(codec.vae, codec.vocoder, 2 * SCALE, "")
    mel, latents = draw("mel", 1, 16, 64), draw("latents", 1, 8, 4, 16)
    once, twice = codec.encode(mel), doubled.encode(mel)
    torch.testing.assert_close(twice.mean, 2 * once.mean)
    torch.testing.assert_close(twice.std, 2 * once.std)
    torch.testing.assert_close(doubled.decode(2 * latents), codec.decode(latents))


def test_a_directory_is_the_same_codec(codec: AudioCodec, folder: Path) -> None:
    again = load_codec(folder)
    assert (again.digest, again.scale) == (codec.digest, codec.scale)
    mel = draw("mel", 1, 16, 64)
    assert torch.equal(again.encode(mel).mean, codec.encode(mel).mean)
    assert torch.equal(again.vocode(mel), codec.vocode(mel))


def test_griffin_lim_takes_the_vocoders_place(codec: AudioCodec, tmp_path: Path) -> None:
    assert codec.vocoder_name == "hifigan"
    codec.vae.save_pretrained(tmp_path / "vae")

    def with_iterations(count: int) -> AudioCodec:
        GriffinLim(GriffinLimConfig(iterations=count)).save_pretrained(tmp_path / "vocoder")
        return load_codec(tmp_path, dtype=torch.bfloat16)

    once, more = with_iterations(1), with_iterations(2)
    assert once.vocoder_name == "griffin_lim"
    assert len({codec.digest, once.digest, more.digest}) == 3
    mel = draw("mel", 2, 8, 64)
    assert torch.equal(once.vocode(mel), once.vocoder(mel))
    assert once.vocode(mel).shape == (2, 1280)
    with pytest.raises(ValueError, match=r"log-mels must be \[B, T, 64\]"):
        once.vocode(torch.zeros(1, 8, 80))


def test_weight_norm_is_folded(codec: AudioCodec, published: dict[str, Path], tmp_path: Path) -> None:
    tensors = torch.load(published["codec"], weights_only=True)["state_dict"]
    for name in [name for name in tensors if ".vocoder." in name and name.endswith(".weight")]:
        value = tensors.pop(name)
        norm = value.flatten(1).norm(dim=1).view(-1, *(1,) * (value.ndim - 1))
        tensors |= {f"{name}_g": norm, f"{name}_v": 3 * value}
    torch.save(tensors, tmp_path / "model.ckpt")
    mel = draw("mel", 1, 8, 64)
    torch.testing.assert_close(load_codec(tmp_path / "model.ckpt").vocode(mel), codec.vocode(mel), rtol=1e-4, atol=1e-5)


def test_what_is_no_checkpoint_of_audioldm_is_named(published: dict[str, Path], tmp_path: Path) -> None:
    tensors = torch.load(published["codec"], weights_only=True)["state_dict"]

    def without(part: str) -> Path:
        path = tmp_path / "model.ckpt"
        torch.save({name: value for name, value in tensors.items() if part not in name}, path)
        return path

    for part, message in {
        "scale_factor": "is no checkpoint of AudioLDM: it has no scale_factor",
        "encoder.conv_in": r"does not fit AudioLDM's VAE: there is no encoder.conv_in.weight; give",
        "encoder.down.0": r"does not fit AudioLDM's VAE: there is no encoder.down.0",
        "quant_conv": r"does not fit AudioLDM's VAE.*quant_conv",
        "resblocks.14": r"does not fit AudioLDM's vocoder.*resblocks.14",
        "vocoder": r"does not fit AudioLDM's vocoder: there is no conv_pre.weight; give",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_codec(without(part))
    with pytest.raises(FileNotFoundError, match="is no folder"):
        load_codec(tmp_path / "nowhere")


def test_parts_of_another_kind_are_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    config = json.loads((folder / "vocoder" / "config.json").read_text())
    (tmp_path / "vocoder" / "config.json").write_text(json.dumps(config | {"sampling_rate": 22_050}))
    with pytest.raises(ValueError, match=r"160 samples at 22050 Hz of 64 mel bins; needed are 160 at 16000 Hz of 64"):
        load_codec(tmp_path)
    (tmp_path / "vocoder" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"does not hold AudioLDM's vocoder: no model\*.safetensors"):
        load_codec(tmp_path)


def test_bad_shapes_are_named(codec: AudioCodec) -> None:
    with pytest.raises(ValueError, match=r"log-mels must be \[B, T, 64\]"):
        codec.encode(torch.zeros(1, 8, 80))
    with pytest.raises(ValueError, match=r"latents must be \[B, 8, t, 16\]"):
        codec.decode(torch.zeros(1, 4, 8, 16))
