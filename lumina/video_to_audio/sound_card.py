"""Model card of a video-to-audio export, its README.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lumina.diffusers_export.model_card import CARD_FILE, Origin, licences, table, trained
from lumina.video_to_audio.sound_parts import SoundGenerationConfig


def write_sound_card(directory: Path, defaults: SoundGenerationConfig, origin: Origin, vocoder: str) -> None:
    """Write the README.md of a video-to-audio directory; `vocoder` is the class of what makes the waves."""
    parts: Mapping[str, str] = {
        "transformer": "VideoToAudioDiT: the velocity of audio latents",
        "codec": f"AutoencoderKL of log-mels, of AudioLDM's class, and the vocoder {vocoder}",
        "clip": "CLIP: what is seen at 8 frames a second, and what the text says",
        "synchformer": "Synchformer's visual tower: what moves when, at 25 frames a second",
    }
    sections = [
        "---\npipeline_tag: video-to-audio\ntags:\n- video-to-audio\n- lumina-video\n---",
        "# Video to audio",
        "A Next-DiT that gives a silent clip a sound, trained by rectified flow, after appendix D of the paper "
        f"Lumina-Video (arXiv 2502.06782). Mono at 16 kHz, for clips of 0.64 to {defaults.most_s:g} s at any frame "
        f"rate; {defaults.sampler.steps} steps when nothing else is asked for.",
        "## Use\n\nWith lumina-video:\n\n```sh\nlumina sound CLIP.mp4 --checkpoint . --out FILE.mp4\n```",
        "## Parts\n\n" + table(("folder", "is"), list(parts.items())),
        *trained(origin),
        f"## Licences\n\n{licences(directory)} Weights, data and code may each have others.",
    ]
    (directory / CARD_FILE).write_text("\n\n".join(sections) + "\n", encoding="utf-8")
