"""Generate and measure clips on Ray: fixed batches, so that the number of workers changes nothing.

A finished batch lies in the stage's scratch, so a killed evaluation goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import capacity
from lumina.evaluation.prompts import Prompt
from lumina.faults import MachineError
from lumina.files import replace_file
from lumina.flow_matching.schedules import SamplerConfig
from lumina.models.config import AttentionKernel
from lumina.precision import DType

if TYPE_CHECKING:
    from jobs.runtime import RuntimeConfig
    from lumina.evaluation.generation import ClipGenerator

ROWS_FILE = "rows.json"


@dataclass(frozen=True)
class ClipRequest:
    """One clip to generate."""

    prompt: Prompt
    sample: int
    """Number among the prompt's clips: names its initial noise together with the prompt."""

    @property
    def file(self) -> str:
        """Name of the clip's video file."""
        return f"{self.prompt.prompt_id}-{self.sample}.mp4"


@dataclass(frozen=True)
class ClipJob:
    """What all clips of one evaluation share."""

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
    seed: int
    metrics: tuple[str, ...]
    dtype: DType
    tiling: bool
    use_gpu: bool
    attention: AttentionKernel


@dataclass(frozen=True)
class Batch:
    """Clips that are generated together."""

    job: ClipJob
    requests: tuple[ClipRequest, ...]
    folder: str
    """Where its videos and `rows.json` go."""


def batches(job: ClipJob, prompts: Sequence[Prompt], samples: int, size: int, scratch: Path) -> list[Batch]:
    """Cut all (prompt, sample) pairs into batches: the same ones for every system prompt and any number of workers."""
    requests = [ClipRequest(prompt, sample) for prompt in prompts for sample in range(samples)]
    return [
        Batch(job, tuple(requests[at : at + size]), str(scratch / f"batch-{at // size:05d}"))
        for at in range(0, len(requests), size)
    ]


class ClipWorker:
    """Ray actor: makes one batch after another, and keeps the networks while the checkpoint stays the same."""

    def __init__(self) -> None:
        import torch

        # One thread: sums in a fixed order, so the clips do not depend on the machine's cores.
        torch.set_num_threads(1)
        from lumina.motion import DISFlow

        self._loaded: tuple[str, ClipGenerator] | None = None
        self._flow = DISFlow()

    def ready(self) -> None:
        """Return once the actor has a place on the cluster."""

    def _generator(self, job: ClipJob) -> ClipGenerator:
        import torch

        from lumina.evaluation.generation import ClipGenerator
        from lumina.models.attention_kernels import AttentionKernelError, use_kernel

        if self._loaded is None or self._loaded[0] != job.checkpoint:
            device = "cuda" if job.use_gpu else "cpu"
            dtype = getattr(torch, job.dtype)
            generator = ClipGenerator.load(Path(job.checkpoint), job.vae, job.text_encoder, device, dtype)
            try:
                use_kernel(job.attention, generator.model.config, device, dtype)
            except AttentionKernelError as error:
                raise MachineError(str(error)) from error
            if job.tiling:
                generator.autoencoder.enable_tiling()
            self._loaded = (job.checkpoint, generator)
        return self._loaded[1]

    def make(self, batch: Batch) -> None:
        """Generate, measure and write a batch into its folder; `rows.json`, put last, says that it is whole."""
        from lumina.evaluation.generation import NoiseAddress
        from lumina.evaluation.metrics import measure_clip
        from lumina.video import write_h264

        job, folder = batch.job, Path(batch.folder)
        rows: list[dict[str, Any]] = []
        generator = self._generator(job)
        clips = generator.generate(
            job.system_prompt,
            [request.prompt.caption for request in batch.requests],
            # Not keyed by system prompt or checkpoint: those are compared from the same noise.
            [NoiseAddress(job.seed, request.prompt.prompt_id, request.sample) for request in batch.requests],
            job.sampler,
            num_frames=job.num_frames,
            height=job.height,
            width=job.width,
        )
        folder.mkdir(parents=True, exist_ok=True)
        for request, frames in zip(batch.requests, clips, strict=True):
            write_h264(folder / request.file, frames, job.fps)
            values = measure_clip(frames, job.fps, request.prompt.truth, job.metrics, self._flow)
            rows.append(
                {
                    "prompt_id": request.prompt.prompt_id,
                    "sample": request.sample,
                    "tokens_cut": generator.tokens_cut(job.system_prompt, request.prompt.caption),
                    "frames_sha256": hashlib.sha256(frames.tobytes()).hexdigest(),
                    **values,
                }
            )
        replace_file(folder / ROWS_FILE, json.dumps(rows).encode())


def make_clips(
    work: Sequence[Batch], runtime: RuntimeConfig, progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Make all batches and return their rows in order.

    Args:
        work: batches; those whose folder is whole are taken as they are.
        runtime: every GPU of the cluster gets a worker, or every CPU that is free for one.
        progress: told of (finished clips, clips in all).
    """
    total = sum(len(batch.requests) for batch in work)
    todo = deque(batch for batch in work if not (Path(batch.folder) / ROWS_FILE).exists())
    done = total - sum(len(batch.requests) for batch in todo)
    progress(done, total)
    for batch in _finished(todo, runtime):
        done += len(batch.requests)
        progress(done, total)
    return [row for batch in work for row in json.loads((Path(batch.folder) / ROWS_FILE).read_text(encoding="utf-8"))]


def _finished(todo: deque[Batch], runtime: RuntimeConfig) -> Iterator[Batch]:
    """Hand batches to actors as they become ready, and yield each when it is finished.

    Only to ready ones: other stages share the cluster, and a batch given to an actor that still waits for a CPU could
    wait for a stage that waits for this one.
    """
    if not todo:
        return
    import ray

    cpus, gpus = (0, 1) if runtime.use_gpu else (1, 0)
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=2, max_task_retries=2)(ClipWorker)
    actors = [remote.remote() for _ in range(min(capacity.evaluation_workers(runtime), len(todo)))]
    running: dict[Any, tuple[Any, Batch | None]] = {actor.ready.remote(): (actor, None) for actor in actors}
    unfinished = len(todo)
    try:
        while unfinished:
            [finished], _ = ray.wait(list(running), num_returns=1)
            actor, batch = running.pop(finished)
            ray.get(finished)
            if todo:
                following = todo.popleft()
                running[actor.make.remote(following)] = (actor, following)
            if batch is not None:
                unfinished -= 1
                yield batch
    finally:
        for actor in actors:
            ray.kill(actor)
