"""Generate clips on Ray, and measure them where wanted: fixed batches, so the number of workers changes nothing.

Resume as in `jobs.parts`: the clips of a batch come first and its record last, each under its name only when it is
complete and on the disk. Whatever was killed, a batch whose record says what is asked for need not be made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jobs.actor_pool import hand_out
from lumina.evaluation.noise import NoiseAddress
from lumina.faults import MachineError, is_of_machine, machine_error, told_by
from lumina.files import read_json, replace_file, replacing
from lumina.flow_matching.schedules import SamplerConfig
from lumina.memory_plan import MemoryNeed, plan_memory
from lumina.models.config import AttentionKernel
from lumina.offload import Offload, OffloadSetting
from lumina.precision import DType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from jobs.runtime import RuntimeConfig
    from lumina.audio_tracks import AudioTrack
    from lumina.evaluation.generation import ClipGenerator
    from lumina.evaluation.prompts import Truth

RECORD_FILE = "rows.json"
_STAY: Offload = "none"
_DEATHS = 3
"""Of workers, one after the other, without a clip between them: the cluster is at fault, and not the clips."""
log = logging.getLogger(__name__)


class GivesSound(Protocol):
    """What gives a clip its sound: whoever wants one brings it along, so that it is no code of other stages."""

    def track(self, frames: NDArray[np.uint8], fps: float, prompt: str, seed: int) -> AudioTrack:
        """The sound of frames [T, H, W, 3] that are shown `fps` a second."""


@dataclass(frozen=True)
class ClipRequest:
    """One clip to generate."""

    prompt: str
    """Without the system prompt."""
    noise: NoiseAddress
    file: str
    """Name of its video file."""
    motion: float | None = None
    """Motion score that is asked for instead of the sampler's; None leaves it to that."""
    truth: Truth | None = None
    """What the prompt describes, where that is known: some metrics need it."""


@dataclass(frozen=True)
class ClipJob:
    """What the clips of a batch share."""

    checkpoint: str
    """Directory of a transformer: config.json, model.safetensors."""
    vae: str
    text_encoder: str
    system_prompt: str
    sampler: SamplerConfig
    num_frames: int
    height: int
    width: int
    fps: float
    dtype: DType
    tiling: bool | None
    """None is what fits; so for `need` alone."""
    use_gpu: bool
    attention: AttentionKernel
    negative_prompt: str = ""
    metrics: tuple[str, ...] = ()
    """What is measured; nothing if empty."""
    adapter: str | None = None
    """LoRA adapter that is added to the transformer."""
    adapter_scale: float = 1.0
    need: MemoryNeed | None = None
    """Bytes of a clip and of the networks' files, by which a worker fits its GPU; None keeps all networks there."""
    offload: OffloadSetting = "none"
    sound: GivesSound | None = None
    """Gives each clip a track, and a WAV beside it; None leaves them silent."""
    timed: bool = False
    """Whether rows say the `seconds` that a clip took to be sampled and decoded: its share of its batch."""


@dataclass(frozen=True)
class Batch:
    """Clips that are generated together."""

    job: ClipJob
    requests: tuple[ClipRequest, ...]
    folder: str
    """Where its clips go."""
    record: str
    """File that says, put last, that it is finished."""
    key: str
    """Of all that its clips depend on: a record with another one is of other clips."""

    def rows(self) -> list[dict[str, Any]] | None:
        """What is known of its clips, in the order of the requests; None unless it is finished."""
        path = Path(self.record)
        if not path.is_file():
            return None
        try:
            record = read_json(path)
            if record["key"] != self.key:
                return None
            rows: list[dict[str, Any]] = record["rows"]
            names = [request.file for request in self.requests]
            if [row["file"] for row in rows] != names:
                return None
            sizes = {row["file"]: row["bytes"] for row in rows}
            sizes |= {row["wav"]: row["wav_bytes"] for row in rows if "wav" in row}
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s is no record of clips (%r); they are made again", path, error)
            return None
        clips = {name: Path(self.folder) / name for name in sizes}
        whole = all(clip.is_file() and clip.stat().st_size == sizes[name] for name, clip in clips.items())
        return rows if whole else None


def batches(job: ClipJob, requests: Sequence[ClipRequest], size: int, scratch: Path, key: str) -> list[Batch]:
    """Cut requests into batches, each with a folder in `scratch`: the same for any number of workers."""
    found = []
    for at in range(0, len(requests), size):
        folder = scratch / f"batch-{at // size:05d}"
        found.append(Batch(job, tuple(requests[at : at + size]), str(folder), str(folder / RECORD_FILE), key))
    return found


class ClipWorker:
    """Ray actor: makes one batch after another, and keeps the networks while the checkpoint stays the same."""

    def __init__(self) -> None:
        import torch

        # One thread: sums in a fixed order, so the clips do not depend on the machine's cores.
        torch.set_num_threads(1)
        from lumina.motion import DISFlow

        self._loaded: tuple[tuple[str, str | None, float], ClipGenerator] | None = None
        self._flow = DISFlow()

    def ready(self) -> None:
        """Return once the actor has a place on the cluster."""

    def _generator(self, job: ClipJob) -> ClipGenerator:
        import torch

        from lumina.clip_frames import free_bytes
        from lumina.evaluation.generation import ClipGenerator
        from lumina.models.attention_kernels import AttentionKernelError, use_kernel

        weights = (job.checkpoint, job.adapter, job.adapter_scale)
        if self._loaded is None or self._loaded[0] != weights:
            device = "cuda" if job.use_gpu else "cpu"
            dtype = getattr(torch, job.dtype)
            home = device
            if job.need is not None:
                # What is to wait on the CPU does so from the start; what stays after all is moved by the first clip.
                _, offload = plan_memory(job.need, free_bytes(torch.device(device)), job.tiling, job.offload)
                home = device if offload == "none" else "cpu"
            generator = ClipGenerator.load(
                Path(job.checkpoint), job.vae, job.text_encoder, home, dtype, job.adapter, job.adapter_scale
            )
            try:
                use_kernel(job.attention, generator.model.config, device, dtype)
            except AttentionKernelError as error:
                raise MachineError(str(error)) from error
            self._loaded = (weights, generator)
        return self._loaded[1]

    def make(self, batch: Batch) -> None:
        """Generate, measure and write the clips of a batch; its record, put last, says that it is whole."""
        import torch

        from lumina.clip_frames import fit_memory
        from lumina.evaluation.metrics import measure_clip

        job, folder = batch.job, Path(batch.folder)
        rows: list[dict[str, Any]] = []
        generator = self._generator(job)
        device = torch.device("cuda" if job.use_gpu else "cpu")
        tiling, offload = bool(job.tiling), _STAY
        if job.need is not None:
            tiling, offload = fit_memory(job.need, generator.networks, device, job.tiling, job.offload)
        began = time.monotonic()
        clips = generator.generate(
            job.system_prompt,
            [request.prompt for request in batch.requests],
            [request.noise for request in batch.requests],
            job.sampler,
            num_frames=job.num_frames,
            height=job.height,
            width=job.width,
            negative_prompt=job.negative_prompt,
            motion=[request.motion for request in batch.requests],
            device=device,
            tiling=tiling,
            offload=offload,
        )
        spent = {"seconds": (time.monotonic() - began) / len(clips)} if job.timed else {}
        fitted = {} if job.need is None else {"tiling": tiling}
        for request, frames in zip(batch.requests, clips, strict=True):
            heard = _write(folder / request.file, frames, request, job)
            values = measure_clip(frames, job.fps, request.truth, job.metrics, self._flow) if job.metrics else {}
            rows.append(
                {
                    "file": request.file,
                    **heard,
                    **generator.cut(job.system_prompt, request.prompt),
                    **fitted,
                    **spent,
                    "frames_sha256": hashlib.sha256(frames.tobytes()).hexdigest(),
                    **values,
                }
            )
        replace_file(Path(batch.record), json.dumps({"key": batch.key, "rows": rows}).encode(), sync=True)


def _write(path: Path, frames: NDArray[np.uint8], request: ClipRequest, job: ClipJob) -> dict[str, Any]:
    """Write a clip, its sound first; returns what its row says of the files."""
    from lumina.audio_tracks import write_wav
    from lumina.video import write_h264

    found: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    if job.sound is not None:
        track = job.sound.track(frames, job.fps, request.prompt, request.noise.seed)
        beside = path.with_suffix(".wav")
        with replacing(beside, sync=True) as partial:
            write_wav(partial, track)
            found = {"wav": beside.name, "wav_bytes": partial.stat().st_size}
        settings = {"sound": track}
    with replacing(path, sync=True) as partial:
        write_h264(partial, frames, job.fps, **settings)
        return {"bytes": partial.stat().st_size, **found}


def make_clips(
    work: Sequence[Batch],
    runtime: RuntimeConfig,
    progress: Callable[[int, int], None],
    failed: Callable[[Batch, BaseException], None] | None = None,
    workers: int | None = None,
) -> list[dict[str, Any]]:
    """Make all batches and return the rows of those that are finished, in order.

    Args:
        work: batches; those that are finished are taken as they are.
        runtime: every GPU of the cluster gets a worker, or every CPU that is free for one.
        progress: told of (finished clips, clips in all).
        failed: told of a batch that cannot be made, and why; the others go on. None raises the error. What the machine
            refuses is always raised.
        workers: at most; None is as many as there is room for.
    """
    total = sum(len(batch.requests) for batch in work)
    todo = deque(batch for batch in work if batch.rows() is None)
    done = total - sum(len(batch.requests) for batch in todo)
    progress(done, total)
    deaths = 0
    for finished in hand_out(ClipWorker, (), todo, runtime, workers):
        batch, error = finished.item, finished.error
        if error is not None:
            deaths = deaths + 1 if _is_death(error) else 0
            cause = getattr(error, "cause", None) or error
            if failed is None or deaths == _DEATHS:
                raise error
            if is_of_machine(cause) or told_by(error):
                raise told_by(error) or machine_error(cause, f"{batch.requests[0].file}") from error
            failed(batch, cause)
            continue
        deaths = 0
        done += len(batch.requests)
        progress(done, total)
    return [row for batch in work for row in batch.rows() or ()]


def _is_death(error: BaseException) -> bool:
    from ray import exceptions

    return isinstance(error, exceptions.RayActorError)
