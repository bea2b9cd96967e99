"""Numbers of the parts of Lumina-V2A, stored when they agreed with the published ones: the check without ../shared.

    python -m tests.lumina.video_to_audio.reference_numbers    # writes them anew; only when the golden tests pass

Small networks with drawn weights by the published names, which the file holds too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lumina.video_to_audio import av_align, log_mel, motion_peaks, onsets
from lumina.video_to_audio.config import SynchformerConfig
from lumina.video_to_audio.frames import clip_frames, sync_frames
from lumina.video_to_audio.networks.clip import load_clip_features
from lumina.video_to_audio.networks.codec import load_codec
from lumina.video_to_audio.networks.synchformer import SynchformerVisual, load_synchformer
from lumina.video_to_audio.waveforms import resample
from tests.lumina.reference_numbers import draw
from tests.lumina.vbench.networks.reference_numbers import frames
from tests.lumina.video_to_audio.scenes import bursts, jumps

FILE = Path(__file__).parent / "fixtures" / "reference_numbers.safetensors"
SYNC = SynchformerConfig(width=32, depth=2, heads=2, patch=56)
SCALE = 0.75
OPEN_CLIP: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 16, "patch_size": 32},
    "text_cfg": {"context_length": 6, "vocab_size": 10, "width": 64, "heads": 2, "layers": 2},
}
WORDS = ["a</w>", "b</w>", "o", "i", "l</w>", "oi", "oil</w>", "c</w>", "<|startoftext|>", "<|endoftext|>"]
"""Of a tokenizer like CLIP's, by id."""
GAINS = {"pos_embed": 8.0, "temp_embed": 8.0, "cls_token": 4.0, "token_embedding": 4.0, "conv_pre": 3.0}
"""What a network sees and where it is must weigh as much as what it adds."""

Shapes = dict[str, list[int]]


def weights(network: str, shapes: Shapes) -> dict[str, Tensor]:
    """Drawn weights of a network by its published names."""
    found = {}
    for name, shape in shapes.items():
        gain = next((gain for part, gain in GAINS.items() if part in name), 1.0)
        drawn = draw(f"{network}.{name}", *shape)
        if len(shape) > 1:
            found[name] = gain * drawn / math.sqrt(math.prod(shape[1:]))
        else:
            found[name] = 1 + 0.2 * drawn if name.endswith((".weight", "logit_scale")) else 0.2 * drawn
    return found


def manifests() -> dict[str, Shapes]:
    """Published names and shapes of each network, from the stored file."""
    with safe_open(FILE, "pt") as stored:
        found: dict[str, Shapes] = json.loads(stored.metadata()["manifests"])
    return found


def save_weights(folder: Path) -> dict[str, Path]:
    """What is published of each network: two files, and open_clip's directory."""
    from transformers import CLIPTokenizer

    found = {network: folder / f"{network}.pth" for network in ("codec", "sync")}
    shapes = manifests()
    codec = weights("codec", shapes["codec"]) | {"scale_factor": torch.tensor(SCALE)}
    torch.save({"state_dict": codec | {"model.diffusion_model.out.bias": torch.zeros(3)}}, found["codec"])
    torch.save(weights("sync", shapes["sync"]) | {"afeat_extractor.norm.weight": torch.ones(2)}, found["sync"])
    found["clip"] = folder / "clip"
    merges = [("o", "i"), ("oi", "l</w>")]
    words = {word: number for number, word in enumerate(WORDS)}
    CLIPTokenizer(vocab=words, merges=merges).save_pretrained(found["clip"])
    torch.save(weights("clip", shapes["clip"]), found["clip"] / "open_clip_pytorch_model.bin")
    (found["clip"] / "open_clip_config.json").write_text(json.dumps({"model_cfg": OPEN_CLIP}))
    return found


def of_mel(_: Path) -> dict[str, Tensor]:
    """A clip that is filled up, one that is cut, and one at another rate."""
    wave = bursts(16_000, 1.0, 0.2, 0.6) + 0.01
    return {
        "filled": log_mel.filter_bank(wave, 120),
        "cut": log_mel.filter_bank(wave, 80),
        "resampled": log_mel.filter_bank(resample(bursts(44_100, 0.5, 0.1), 44_100, 16_000), 50),
    }


def of_codec(file: Path) -> dict[str, Tensor]:
    """Both halves of the VAE, and a wave, through the original checkpoint."""
    codec = load_codec(file)
    found = codec.encode(draw("mel", 2, 26, 64) - 4)
    mel = codec.decode(draw("latents", 1, 8, 5, 16))
    return {"mean": found.mean, "std": found.std, "mel": mel, "wave": codec.vocode(draw("mel", 2, 26, 64)[:1, :12])}


def of_sync(file: Path) -> dict[str, Tensor]:
    """Tokens of two segments of frames of another shape, and these frames."""
    clip = frames(27, 90, 160)
    tokens = load_synchformer(file, SYNC).features(clip)
    return {"tokens": tokens, "frames": sync_frames(clip[:2])[:, :, ::16, ::16].contiguous()}


def of_clip(folder: Path) -> dict[str, Tensor]:
    """Frames, and a text that is cut."""
    clip = load_clip_features(folder)
    squashed = clip_frames(frames(1, 90, 160))[:, :, ::24, ::24].contiguous()
    return {"visual": clip.visual(frames(3, 90, 160)), "text": clip.text(["a oil b c a"])[0], "frames": squashed}


def of_alignment(_: Path) -> dict[str, Tensor]:
    """Onsets, motion and both scores, with their chance levels."""
    wave, clip = bursts(22_050, 2.0, 0.3, 0.9, 1.5), jumps(25, 2.0, 0.28, 0.92, 1.2)
    trajectory = motion_peaks.flow_trajectory(clip)
    sounds = onsets.onset_times(wave, 22_050)
    numbers = {"envelope": torch.from_numpy(onsets.onset_envelope(wave)), "trajectory": torch.tensor(trajectory)}
    for version in ("v2023", "v2025"):
        motions = motion_peaks.peak_times(trajectory, 25, version)
        found = av_align.align(sounds, motions, 25, 2.0, version)
        assert found.score is not None
        assert found.chance is not None
        numbers[version] = torch.tensor([found.score, found.chance, found.onsets, found.peaks])
    return numbers


GROUPS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    "mel": of_mel,
    "codec": of_codec,
    "sync": of_sync,
    "clip": of_clip,
    "alignment": of_alignment,
}


def compute(group: str, files: dict[str, Path]) -> dict[str, Tensor]:
    """The numbers of one group."""
    return {f"{group}.{name}": value for name, value in GROUPS[group](files.get(group, Path())).items()}


def _write() -> None:
    """From the names of the golden fixtures, with the sizes of here."""
    import tempfile

    from lumina.vbench.networks import clip_names
    from tests.conftest import SHARED

    def published(stem: str, case: str) -> Shapes:
        cases = json.loads((SHARED / "golden_v2a" / f"{stem}.json").read_text())["cases"]
        return {name: shape for name, shape, _ in cases[case]["manifest"]}

    with torch.device("meta"):
        sync = SynchformerVisual(SYNC)
    tower = clip_names._Tower(64, 2)
    codec = {f"first_stage_model.{name}": shape for name, shape in published("V_audio_vae", "eps").items()}
    codec |= {f"first_stage_model.vocoder.{name}": shape for name, shape in published("V_hifigan", "small").items()}
    shapes = {
        "codec": codec,
        "sync": {name: list(value.shape) for name, value in sync.state_dict().items()},
        "clip": clip_names._shapes(clip_names._Sizes(24, tower, tower, vocabulary=10, context=6)),
    }
    FILE.parent.mkdir(exist_ok=True)
    metadata = {"manifests": json.dumps({network: dict(sorted(names.items())) for network, names in shapes.items()})}
    save_file({"none": torch.zeros(1)}, FILE, metadata)
    with tempfile.TemporaryDirectory() as folder:
        files = save_weights(Path(folder))
        found = {name: value for group in GROUPS for name, value in compute(group, files).items()}
        save_file({name: value.contiguous() for name, value in found.items()}, FILE, metadata)


if __name__ == "__main__":
    _write()
