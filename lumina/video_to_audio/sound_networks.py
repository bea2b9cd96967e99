"""Write the networks around a VideoToAudioDiT in one layout, whatever they were published in."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file

from lumina.parts import copy_part
from lumina.pretrained import local_folder
from lumina.video_to_audio.networks.clip import load_clip_features
from lumina.video_to_audio.networks.codec import load_codec
from lumina.video_to_audio.networks.synchformer import CONFIG_FILE, WEIGHTS_FILE, load_synchformer
from lumina.video_to_audio.sound_parts import CLIP, CODEC, SYNCHFORMER

_CODEC_PARTS = ("vae", "vocoder")


def write_networks(sources: Mapping[str, str | Path], out: Path) -> None:
    """Write `codec`, `clip` and `synchformer` into a directory: folders in our layout are copied, others converted.

    Others are AudioLDM's original checkpoint, open_clip's directory, and `synchformer_state_dict.pth`. Raises
    FileNotFoundError for what is missing, ValueError for what is damaged or another network's.
    """
    _write_codec(sources[CODEC], out / CODEC)
    _write_clip(sources[CLIP], out / CLIP)
    _write_synchformer(sources[SYNCHFORMER], out / SYNCHFORMER)


def _write_codec(source: str | Path, out: Path) -> None:
    if Path(source).is_file():
        codec = load_codec(source)
        codec.vae.register_to_config(scaling_factor=codec.scale)
        codec.vae.save_pretrained(out / "vae")
        codec.vocoder.save_pretrained(out / "vocoder")
        return
    folder = local_folder(source)
    out.mkdir()
    for name in _CODEC_PARTS:
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"{folder} does not hold an audio codec: no {name}")
        copy_part(folder / name, out / name)


def _write_clip(source: str | Path, out: Path) -> None:
    folder = local_folder(source)
    if any(folder.glob("model*.safetensors")):
        copy_part(folder, out)
        return
    clip = load_clip_features(folder).clip
    clip.model.save_pretrained(out)
    clip.tokenizer.save_pretrained(out)
    for path in sorted([*folder.glob("LICENSE*"), *folder.glob("NOTICE*")]):
        shutil.copyfile(path, out / path.name)


def _write_synchformer(source: str | Path, out: Path) -> None:
    if Path(source).is_dir():
        copy_part(Path(source), out)
        return
    model = load_synchformer(source).model
    out.mkdir()
    save_file(model.state_dict(), out / WEIGHTS_FILE)
    (out / CONFIG_FILE).write_text(model.config.model_dump_json(indent=1) + "\n", encoding="utf-8")
