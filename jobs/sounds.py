"""Generate sounds on Ray and measure them: fixed batches, so the number of workers changes nothing.

A batch is some clips of one length under all conditions, with the true sound and the codec's copy of it. Resume as in
`jobs.clips`: sounds come first and the batch's record last, each under its name only when it is complete and on the
disk; a batch whose record says what is asked for need not be made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation.operator import Env
from jobs.actor_pool import hand_out
from lumina.faults import MachineError, patiently
from lumina.files import read_json, replace_file, replacing
from lumina.models.config import AttentionKernel
from lumina.precision import DType
from lumina.video_to_audio.config import SoundSamplerConfig
from lumina.video_to_audio.evaluation.conditions import SHUFFLED, Condition, media_under
from lumina.video_to_audio.evaluation.frechet import Moments
from lumina.video_to_audio.lengths import LATENT_RATE, MEL_RATE, SAMPLE_RATE

if TYPE_CHECKING:
    from torch import Tensor

    from curation.decoder import Decoder
    from jobs.runtime import RuntimeConfig
    from lumina.video_to_audio.evaluation.clip_measures import Clip
    from lumina.video_to_audio.networks.codec import AudioCodec
    from lumina.video_to_audio.networks.dit import VideoToAudioDiT
    from lumina.video_to_audio.training.dataset import SoundClip, SoundDataset

RECORD_FILE, MOMENTS_FILE = "rows.json", "moments.npy"
FEATURES = ("sounds", "visual", "sync", "captions")
"""Stages whose rows a sound is made of, as an evaluation's inputs name them."""
TRUTH, CODEC = "truth", "codec"
"""Rows of the true sound, and of what the codec makes of it: the best to be had."""
ALWAYS_KEPT = ("given", TRUTH)
"""Conditions whose sounds are kept of every clip, and not of those alone that are shown."""
_BINS = 64
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SoundRequest:
    """One clip to be given sounds."""

    clip_id: str
    probed: Mapping[str, Any]
    """Its row of `probe`: `curation.decode.READ_COLUMNS`, fps, extra."""
    donors: Mapping[str, str]
    """Whose features it gets where they are shuffled; a condition without one is left out."""
    shown: bool
    """Whether the sounds of all conditions are kept."""


@dataclass(frozen=True)
class SoundJob:
    """What the sounds of an evaluation share."""

    checkpoint: str
    """Directory of a transformer: config.json, model.safetensors."""
    codec: str
    features: Mapping[str, str]
    """Directories of the stages `FEATURES`."""
    sampler: SoundSamplerConfig
    conditions: tuple[Condition, ...]
    seed: int
    known_hz: tuple[float, ...]
    """Pitches of the classes."""
    audible_dbfs: float
    most_fps: float
    short_side: int
    dtype: DType
    use_gpu: bool
    attention: AttentionKernel
    env: Env = field(repr=False)
    """Where media are and how they are decoded."""

    def of(self, request: SoundRequest) -> list[Condition]:
        """The conditions that a clip has."""
        return [one for one in self.conditions if one not in SHUFFLED or one in request.donors]


@dataclass(frozen=True)
class SoundBatch:
    """Clips of one length that are given sounds together."""

    job: SoundJob
    steps: int
    """Latent steps of each."""
    requests: tuple[SoundRequest, ...]
    folder: str
    key: str
    """Of all that its sounds depend on: a record with another one is of other sounds."""

    @property
    def labels(self) -> list[tuple[str, str]]:
        """(condition, clip) of its rows."""
        made = [(one, request.clip_id) for request in self.requests for one in (*self.job.of(request), TRUTH, CODEC)]
        return sorted(made)

    def record(self) -> list[dict[str, Any]] | None:
        """Its rows in the order of `labels`; None unless it is finished."""
        path = Path(self.folder) / RECORD_FILE
        if not path.is_file():
            return None
        try:
            record = read_json(path)
            if record["key"] != self.key:
                return None
            rows: list[dict[str, Any]] = record["rows"]
            if [(row["condition"], row["clip_id"]) for row in rows] != self.labels:
                return None
            sizes = {**{row["file"]: row["bytes"] for row in rows if row["file"]}, MOMENTS_FILE: record["moments"]}
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s is no record of sounds (%r); they are made again", path, error)
            return None
        files = {name: Path(self.folder) / name for name in sizes}
        whole = all(file.is_file() and file.stat().st_size == sizes[name] for name, file in files.items())
        return rows if whole else None

    def moments(self) -> list[Moments]:
        """Of its rows' log-mel frames, in their order."""
        table = np.load(Path(self.folder) / MOMENTS_FILE, allow_pickle=False)
        return [Moments(int(row[0]), row[1 : 1 + _BINS], row[1 + _BINS :].reshape(_BINS, _BINS)) for row in table]


@dataclass(frozen=True, eq=False)
class _Loaded:
    """What a worker keeps from one batch to the next."""

    model: VideoToAudioDiT
    codec: AudioCodec
    dataset: SoundDataset
    clips: Mapping[str, SoundClip]
    """Those that are held out, by id."""
    decoder: Decoder


class SoundWorker:
    """Ray actor: makes one batch after another, and keeps the networks."""

    def __init__(self, job: SoundJob) -> None:
        import cv2
        import torch

        # One thread: sums in a fixed order, so the sounds do not depend on the machine's cores.
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        self._job = job
        self._loaded: _Loaded | None = None

    def ready(self) -> None:
        """Return once the actor has a place on the cluster."""

    def _networks(self) -> _Loaded:
        import torch

        from curation.decoder import Decoder
        from lumina.models.attention_kernels import AttentionKernelError, use_kernel
        from lumina.video_to_audio.checkpoints import load_dit
        from lumina.video_to_audio.networks.codec import load_codec

        if self._loaded is None:
            job, device = self._job, "cuda" if self._job.use_gpu else "cpu"
            dtype = getattr(torch, job.dtype)
            model = load_dit(Path(job.checkpoint), device, dtype)
            try:
                use_kernel(job.attention, model.config, device, dtype)
            except AttentionKernelError as error:
                raise MachineError(str(error)) from error
            dataset = open_dataset(job.features)
            clips = {clip.clip_id: clip for clip in dataset.heldout}
            codec = load_codec(job.codec, device, dtype)
            self._loaded = _Loaded(model, codec, dataset, clips, Decoder(job.env.limits))
        return self._loaded

    def make(self, batch: SoundBatch) -> None:
        """Make, measure and write the sounds of a batch; its record, put last, says that it is whole."""
        from lumina.video_to_audio.evaluation.clip_measures import measure
        from lumina.video_to_audio.wav_files import write_wav
        from lumina.video_to_audio.waveforms import from_pcm16, to_pcm16

        job, folder = batch.job, Path(batch.folder)
        clips, waves = self._truths(batch)
        waves |= self._made(batch)
        requests = {request.clip_id: request for request in batch.requests}
        rows, moments = [], []
        for condition, clip_id in batch.labels:
            # What the file has is measured, so that others may measure it too.
            samples = to_pcm16(waves[condition, clip_id])
            found, mel = measure(from_pcm16(samples), clips[clip_id], job.known_hz, job.audible_dbfs)
            moment = Moments.of(mel.numpy())
            moments.append(np.concatenate([[float(moment.n)], moment.total, moment.products.ravel()]))
            name, size = None, None
            if requests[clip_id].shown or condition in ALWAYS_KEPT:
                name = f"{condition}-{clip_id}.wav"
                with replacing(folder / name, sync=True) as partial_:
                    write_wav(partial_, samples, SAMPLE_RATE)
                    size = partial_.stat().st_size
            clip = clips[clip_id]
            row: dict[str, Any] = {"condition": condition, "clip_id": clip_id, "file": name, "bytes": size}
            row |= {"wave_sha256": hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()}
            row |= {"donor": requests[clip_id].donors.get(condition), "duration_s": clip.duration_s}
            row |= {"peak_times_s": list(clip.peaks), "video_fps": clip.fps, **found}
            if clip.events is not None:
                row |= {"event_times_s": list(clip.events.times_s), "event_pitch_hz": list(clip.events.pitches_hz)}
                row |= {"event_seen": list(clip.events.seen)}
            rows.append(row)
        with replacing(folder / MOMENTS_FILE, sync=True) as partial_:
            with partial_.open("wb") as file:
                np.save(file, np.stack(moments))
            size = partial_.stat().st_size
        record = {"key": batch.key, "rows": rows, "moments": size}
        replace_file(folder / RECORD_FILE, json.dumps(record).encode(), sync=True)

    def _truths(self, batch: SoundBatch) -> tuple[dict[str, Clip], dict[tuple[str, str], Tensor]]:
        """What the clips show and should sound like."""
        from lumina.video_to_audio.evaluation.clip_measures import Clip, mel_of
        from lumina.video_to_audio.evaluation.known_events import known_events

        duration_s, frames = batch.steps / LATENT_RATE, batch.steps * MEL_RATE // LATENT_RATE
        clips, waves = {}, {}
        for request in batch.requests:
            row = request.probed
            wave, peaks, fps = patiently(partial(self._watched, row, duration_s, frames), row["uri"])
            waves[TRUTH, request.clip_id] = wave
            events = known_events(row["extra"], duration_s)
            clips[request.clip_id] = Clip(duration_s, tuple(peaks), fps, events, mel_of(wave, frames))
        return clips, waves

    def _watched(self, row: Mapping[str, Any], duration_s: float, frames: int) -> tuple[Tensor, list[float], float]:
        """The true sound at the codec's level, and when motion peaks in how many frames per second."""
        import torch

        from curation.audio import clip_audio
        from curation.decode import clip_times, frames_at
        from curation.fitting import Fit
        from curation.short_side import to_short_side
        from lumina.video_to_audio.log_mel import HOP, prepare
        from lumina.video_to_audio.motion_peaks import flow_trajectory, peak_times
        from lumina.video_to_audio.waveforms import from_pcm16, to_pcm16

        job, decoder = self._job, self._networks().decoder
        heard = clip_audio(decoder, row, job.env, duration_s, SAMPLE_RATE).waveform
        # As its file has it: what is left in the others' distance to it is theirs.
        wave = from_pcm16(to_pcm16(prepare(torch.from_numpy(heard.copy()), frames)[: frames * HOP]))
        fps = min(row["fps"], job.most_fps)
        times = clip_times(row, [index / fps for index in range(round(duration_s * fps))])
        if len(times) < 2:
            return wave, [], fps
        fit = Fit(to_short_side, (job.short_side, job.short_side))
        motion = flow_trajectory(frames_at(decoder, row, job.env, times, fit).pixels)
        return wave, peak_times(motion, fps), fps

    def _made(self, batch: SoundBatch) -> dict[tuple[str, str], Tensor]:
        """Waves of all conditions, each from the same noise of its clip, and the codec's copies."""
        import torch

        from lumina.video_to_audio.generation import make_sounds, sound_noise

        job, loaded = batch.job, self._networks()
        codec, dataset, known = loaded.codec, loaded.dataset, loaded.clips
        waves: dict[tuple[str, str], Tensor] = {}
        for condition in job.conditions:
            requests = [request for request in batch.requests if condition in job.of(request)]
            if not requests:
                continue
            media = []
            for request in requests:
                donor = request.donors.get(condition)
                other = None if donor is None else dataset.media(known[donor])
                media.append(media_under(condition, dataset.media(known[request.clip_id]), other))
            noise = torch.stack(
                [sound_noise(loaded.model, batch.steps, job.seed, request.clip_id) for request in requests]
            )
            made = make_sounds(loaded.model, codec, noise, media, job.sampler)
            waves |= {(condition, request.clip_id): wave for request, wave in zip(requests, made.waves, strict=True)}
        means = torch.stack([dataset.posterior(known[request.clip_id]).mean.float() for request in batch.requests])
        copies = codec.vocode(codec.decode(means))
        waves |= {(CODEC, request.clip_id): wave for request, wave in zip(batch.requests, copies, strict=True)}
        return waves


def open_dataset(features: Mapping[str, str]) -> SoundDataset:
    """The clips of the directories of `sounds`, `visual`, `sync` and `captions`."""
    from lumina.video_to_audio.training.dataset import SoundDataset

    sounds, visual, sync, captions = (Path(features[name]) for name in FEATURES)
    return SoundDataset(sounds, visual, sync, captions)


def make_batches(
    job: SoundJob, clips: Mapping[int, Sequence[SoundRequest]], size: int, scratch: Path, key: str
) -> list[SoundBatch]:
    """Cut the clips of each length (latent steps) into batches: the same for any number of workers."""
    found: list[SoundBatch] = []
    for steps in sorted(clips):
        requests = clips[steps]
        for at in range(0, len(requests), size):
            folder = scratch / f"batch-{len(found):05d}"
            found.append(SoundBatch(job, steps, tuple(requests[at : at + size]), str(folder), key))
    return found


def measure_sounds(
    work: Sequence[SoundBatch], runtime: RuntimeConfig, progress: Callable[[int, int], None]
) -> list[tuple[SoundBatch, list[dict[str, Any]]]]:
    """Make all batches; their rows, in order.

    Args:
        work: batches of one job; those that are finished are taken as they are.
        runtime: every GPU of the cluster gets a worker, or every CPU that is free for one.
        progress: told of (finished clips, clips in all).
    """
    total = sum(len(batch.requests) for batch in work)
    todo = deque(batch for batch in work if batch.record() is None)
    done = total - sum(len(batch.requests) for batch in todo)
    progress(done, total)
    for finished in hand_out(SoundWorker, (work[0].job,), todo, runtime):
        if finished.error is not None:
            raise finished.error
        done += len(finished.item.requests)
        progress(done, total)
    return [(batch, batch.record() or []) for batch in work]
