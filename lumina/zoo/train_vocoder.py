"""Train a small `transformers.SpeechT5HifiGan`, and ship it if it is better than Griffin-Lim.

    python -m lumina.zoo.train_vocoder --codec lumina/zoo/audio_codec --threads 1

Same class, input (log-mels of 64 bins) and upsampling (5 * 4 * 2 * 2 * 2 = 160) as AudioLDM's vocoder, with 1/120 of
its parameters. It learns from magnitudes alone, without a discriminator: mels, and spectra of three window lengths. If
it does not keep more onsets and more pitches of unseen Shapes sounds, `config.json` names Griffin-Lim; `--steps 0` does
not try.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from lumina.randomness import generator
from lumina.video_to_audio.griffin_lim import GriffinLim
from lumina.video_to_audio.log_mel import BINS, FLOOR, HOP, MAX_HZ, SAMPLE_RATE, WINDOW, log_mel, mel_filters
from lumina.video_to_audio.networks.codec import AudioCodec, load_codec, load_vae
from lumina.zoo.sound_figures import figures
from lumina.zoo.sounds import FRAMES, SEED, Sound, other_sound, shapes_sound, training_sound

POOL = 900
BATCH, CROP = 8, 48
RATE = 2e-3
_WINDOWS = (128, 512, 2048)
HELDOUT = 64


def build() -> SpeechT5HifiGan:
    """The network, with weights drawn from the fixed seed."""
    torch.manual_seed(SEED)
    # Kernels as odd or even as their rates: 160 samples a frame, and none beyond.
    model = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=BINS,
            sampling_rate=SAMPLE_RATE,
            upsample_initial_channel=128,
            upsample_rates=[5, 4, 2, 2, 2],
            upsample_kernel_sizes=[15, 8, 4, 4, 4],
            resblock_kernel_sizes=[3, 7],
            resblock_dilation_sizes=[[1, 3], [1, 3]],
            leaky_relu_slope=0.1,
            normalize_before=True,
        )
    )
    model.mean.fill_(-9.0)
    model.scale.fill_(3.0)
    with torch.no_grad():
        for layer in model.upsampler:
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            layer.weight /= math.sqrt(layer.kernel_size[0] / layer.stride[0])
    return model


def batch(sounds: list[Sound], mels: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Crops of log-mels [B, t, 64] and of the waves [B, 160 t] that they are of; few of them are silent."""
    rng = generator(SEED, "zoo/vocoder/batch", step)
    pieces: list[Tensor] = []
    waves: list[Tensor] = []
    while len(pieces) < BATCH:
        index, first = int(rng.integers(len(sounds))), int(rng.integers(0, FRAMES - CROP + 1))
        wave = sounds[index].wave[first * HOP : (first + CROP) * HOP]
        if wave.abs().max() > 1e-3 or rng.random() < 0.1:
            pieces.append(mels[index, first : first + CROP])
            waves.append(wave)
    return torch.stack(pieces), torch.stack(waves)


def loss(found: Tensor, wave: Tensor) -> Tensor:
    """Errors of log-mels, and of spectra of several window lengths and of their logarithms; float32 throughout."""
    filters = mel_filters(SAMPLE_RATE, WINDOW, BINS, MAX_HZ).float()
    mel, true = ((filters @ _magnitudes(one, WINDOW, HOP)).clamp(min=FLOOR).log() for one in (found, wave))
    total = 2 * F.l1_loss(mel, true)
    for window in _WINDOWS:
        a, b = (_magnitudes(one, window, window // 4) for one in (found, wave))
        far = (a - b).square().sum((1, 2)).sqrt() / (b.square().sum((1, 2)).sqrt() + 1e-2)
        total = total + far.clamp(max=10).mean() + 0.5 * F.l1_loss((a + 1e-3).log(), (b + 1e-3).log())
    return total


def _magnitudes(wave: Tensor, window: int, hop: int) -> Tensor:
    shape = torch.hann_window(window)
    parts = torch.stft(wave, window, hop, window=shape, center=True, return_complex=True)
    return (parts.real.square() + parts.imag.square() + 1e-14).sqrt()


def train(steps: int) -> SpeechT5HifiGan:
    """The network after so many steps."""
    sounds = [training_sound(index) for index in range(POOL)]
    mels = torch.stack([log_mel(sound.wave)[:FRAMES] for sound in sounds])
    model = build().train()
    print(f"{sum(parameter.numel() for parameter in model.parameters())} parameters")
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.8, 0.99), weight_decay=0.0)
    started, total = time.monotonic(), 0.0
    for step in range(steps):
        rate = RATE * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        mel, wave = batch(sounds, mels, step)
        value = loss(model(mel), wave)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        total += value.item()
        if step % 100 == 99:
            print(f"step {step + 1} loss {total / 100:.4f} {time.monotonic() - started:.0f} s", flush=True)
            total = 0.0
    return model


@torch.no_grad()
def measured(vae: Path, model: SpeechT5HifiGan | None, count: int = HELDOUT) -> dict[str, dict[str, float]]:
    """Figures by vocoder and kind of unseen sounds: of true log-mels and, `vae_`, of what the autoencoder gives.

    `true_shapes` is of the sounds themselves.
    """
    codec = AudioCodec(load_vae(str(vae)), GriffinLim(), 1.0, "")
    vocoders = {"griffin_lim": GriffinLim()} | ({"hifigan": model.eval()} if model is not None else {})
    found = {}
    for kind, sound in {"shapes": shapes_sound, "other": other_sound}.items():
        sounds = [sound("test", index) for index in range(count)]
        mels = [log_mel(one.wave)[None, :FRAMES] for one in sounds]
        decoded = [codec.decode(codec.encode(mel).mean) for mel in mels]
        for name, vocoder in vocoders.items():
            found[f"{name}_{kind}"] = figures([vocoder(mel)[0] for mel in mels], sounds)
            found[f"vae_{name}_{kind}"] = figures([vocoder(mel)[0] for mel in decoded], sounds)
        if kind == "shapes":
            found["true_shapes"] = figures([one.wave for one in sounds], sounds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--codec", type=Path, required=True, help="folder that has vae/ and gets vocoder/")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = train(args.steps) if args.steps else None
    found = measured(args.codec / "vae", model)
    better = model is not None and all(
        found["hifigan_shapes"][name] > found["griffin_lim_shapes"][name] for name in ("onset_f1", "pitch")
    )
    (model if model is not None and better else GriffinLim()).save_pretrained(args.codec / "vocoder")
    card = {
        "trained_by": "python -m lumina.zoo.train_vocoder",
        "steps": args.steps,
        "heldout_sounds": HELDOUT,
        "shipped": "hifigan" if better else "griffin_lim",
        "codec_digest": load_codec(args.codec).digest,
    }
    (args.codec / "vocoder" / "figures.json").write_text(json.dumps(card | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
