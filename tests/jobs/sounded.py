"""Stages before an evaluation of sounds: clips of the Shapes world, their latents and features, and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from curation.audio import read_audio
from curation.decode import PROBE_OPERATOR, ProbeConfig
from curation.film_frames import Track
from curation.operator import Env, apply
from curation.schema import AUDIO_LATENTS, CAPTION_FEATURES, INGEST, MEDIA_FEATURES, status_ok, to_table
from curation.tensors import pack
from jobs import evaluate_sound
from jobs.context import InputRef, JobContext, JobResult
from jobs.evaluate_sound import SoundCompareConfig, SoundEvaluateConfig
from jobs.runtime import RuntimeConfig
from lumina.audio_tracks import AudioTrack
from lumina.randomness import generator
from lumina.shapes import render, sample_sound_scene, waveform
from lumina.system_prompts import text_id
from lumina.training.data.index import CAPTIONS, FEATURES, SOUNDS, write_index
from lumina.video import write_h264
from lumina.video_to_audio.checkpoints import save_dit
from lumina.video_to_audio.config import VideoToAudioConfig
from lumina.video_to_audio.lengths import lengths
from lumina.video_to_audio.log_mel import filter_bank
from lumina.video_to_audio.networks.codec import load_codec
from lumina.video_to_audio.networks.dit import VideoToAudioDiT
from tests.lumina.reference_numbers import draw, fill

FPS, SIDE = 25, 48
MODEL = VideoToAudioConfig(
    dim=32, n_layers=1, n_heads=2, multiple_of=32, patch=(1, 16), visual_dim=6, text_dim=5, sync_dim=3
)
CLIPS = {"a": 2.0, "b": 2.0, "c": 2.0, "d": 2.0, "alone": 1.4, "foreign": 2.0}
"""Seconds of the held-out clips; of one length there is one only, and of one nothing is known."""


def _rows(folder: Path, rows: list[dict[str, Any]], schema: Any, layout: Any) -> None:
    (folder / "data").mkdir(parents=True)
    pq.write_table(to_table(rows, schema), folder / "data" / "rows.parquet")
    if layout is not None:
        write_index(folder, layout)


def _tensor(prefix: str, values: torch.Tensor) -> dict[str, Any]:
    packed = pack(values, "float32")
    return {f"{prefix}_bytes": packed.data, f"{prefix}_shape": packed.shape, f"{prefix}_dtype": packed.dtype}


def make_sound_stages(root: Path, codec: Path) -> Path:
    """Outputs of the stages before, with the codec as `codec`."""
    (root / "codec").symlink_to(codec)
    network = load_codec(codec)
    ingested, sounds, visual, sync, captions = [], [], [], [], []
    for number, (name, seconds) in enumerate(CLIPS.items()):
        scene = sample_sound_scene(generator(number, "sounded"), motion="hop")
        frames = render(scene, num_frames=round(FPS * seconds), height=SIDE, width=SIDE, fps=FPS)
        track = AudioTrack(waveform(scene.events(seconds), seconds), codec="alac")
        write_h264(root / f"{name}.mp4", frames, FPS, sound=track)
        extra = {} if name == "foreign" else {"scene": json.dumps(scene.truth(seconds))}
        ingested.append(
            {"clip_id": name, "uri": f"{name}.mp4", "media": "video", "source": "s", "caption": name, "sha256": name}
            | {"num_bytes": 1, "extra": json.dumps(extra)} | status_ok()
        )  # fmt: skip
        found = lengths(seconds)
        posterior = network.encode(filter_bank(torch.from_numpy(track.waveform), found.mel_frames)[None])
        own = {"clip_id": name, "status": "ok"}
        latent = _tensor("audio_latent", torch.cat([posterior.mean, posterior.std]))
        place = {"bucket": str(found.latents), "source": "s", "split": "heldout", "text_id": text_id(name)}
        sounds.append({**own, **place, "sets": "all", **latent})
        visual.append({**own, **_tensor("feature", draw(f"visual.{name}", found.visual_frames, MODEL.visual_dim))})
        sync.append({**own, **_tensor("feature", draw(f"sync.{name}", found.sync_tokens, MODEL.sync_dim))})
        said = _tensor("feature", draw(f"text.{name}", 4, MODEL.text_dim))
        captions.append({"text_id": text_id(name), "status": "ok", **said})
    probe = PROBE_OPERATOR.map
    assert probe is not None
    probed = apply(PROBE_OPERATOR, probe(ProbeConfig(), Env(str(root))), to_table(ingested, INGEST))
    assert set(probed["status"].to_pylist()) == {"ok"}
    # Sound and film begin together.
    assert read_audio(root / "a.mp4", Track.parse(probed["track"][0].as_py()), 0.0, 2.0).cover == 1
    _rows(root / "clips", probed.to_pylist(), probed.schema, None)
    _rows(root / "sounds", sounds, AUDIO_LATENTS, SOUNDS)
    _rows(root / "visual", visual, MEDIA_FEATURES, FEATURES)
    _rows(root / "sync", sync, MEDIA_FEATURES, FEATURES)
    _rows(root / "captions", captions, CAPTION_FEATURES, CAPTIONS)
    for stage, gain in (("train1", 1.0), ("train2", 0.5)):
        model = VideoToAudioDiT(MODEL).eval().requires_grad_(False)
        fill(model)
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("attention.gate"):
                parameter.fill_(0.7 * gain)
        save_dit(model, root / stage / "transformer_ema")
    return root


def run_sound_job(
    stages: Path, out: Path, config: SoundEvaluateConfig | SoundCompareConfig, **inputs: Path
) -> tuple[JobContext, JobResult, list[int]]:
    """Run the job of a config; returns its context, its result and what its progress said was done."""
    names = ("sounds", "visual", "sync", "captions", "clips")
    folders: Mapping[str, Path] = {"checkpoint": stages / "train1", **{name: stages / name for name in names}} | inputs
    labels = {"checkpoint": f"train@{folders['checkpoint'].name[-1]}", "before": "evaluate@1", "after": "evaluate@2"}
    done: list[int] = []
    (out / "out").mkdir(parents=True)
    context = JobContext(
        stage="evaluate@1",
        fingerprint="f" * 64,
        operator="",
        config=config,
        runtime=RuntimeConfig(),
        inputs={key: InputRef(labels.get(key, key), path, "") for key, path in folders.items()},
        weights={"audio_codec": str(stages / "codec")},
        media_root=str(stages),
        out=out / "out",
        work=out / "work",
        progress=lambda done_, total, unit: done.append(done_),
        log_metrics=lambda metrics, step: None,
    )
    job = evaluate_sound.compare if isinstance(config, SoundCompareConfig) else evaluate_sound.run
    return context, job(context), done
