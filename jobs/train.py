"""Stages `train@N` and `finetune`: one training stage under Ray Train, with DeepSpeed in every worker.

This layer launches workers, restarts them when one is lost, and passes on what they report; the loop itself, its
checkpoints and its randomness are in `lumina.training`. Workers must see the directories of the run: one machine, or
storage that all nodes mount.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from jobs import capacity
from jobs.context import Job, JobContext, JobResult
from jobs.ray_faults import first_sentence
from jobs.train_plots import draw, summary
from jobs.train_samples import SampleFollower, open_samples
from lumina.config import Config
from lumina.evaluation.selection import Selection
from lumina.files import read_jsonl
from lumina.training.loop_config import METRICS_FILE, LoopConfig, LoopSettings
from lumina.training.stage import StageConfig, TrainStageConfig

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5


@partial(Job, depends=("torch", "deepspeed"), tier="metric")
def run(ctx: JobContext) -> JobResult:
    """Train one stage (config: TrainStageConfig) and write its weights, their average and its metrics.

    Inputs: every key that starts with `latents`, `text`, optionally `init` (a stage to start from; a transformer's
    directory in `ctx.weights` does it, too) and `selection` (train on its sources only; for images, see
    `image_sources`). May be called on any thread; continues from `ctx.work` after a kill, also with another number of
    workers.

    Raises:
        ValueError: the data do not fit the tasks, or the initial weights the model; nothing has been started then.
        TrainingStoppedError: a loss was not finite; the message names step, task and clips.
        ray.train.TrainingFailedError: workers failed more than `max_failures` times with no new checkpoint.
    """
    from lumina import checkpoints

    spec = _spec(ctx)
    config, clips = _check(ctx.config, spec, ctx.runtime.train_workers)
    spec["config"] = _json(config)
    return launch(ctx, config, spec, clips, checkpoints.load_weights)


def launch(
    ctx: JobContext,
    config: StageConfig,
    spec: Mapping[str, Any],
    clips: Counter[str],
    load_weights: Callable[[Path], Mapping[str, Any]],
) -> JobResult:
    """Train in workers, whatever is trained; raises as `run`.

    Args:
        ctx: the stage's.
        config: the stage as it trains.
        spec: what a worker needs (`common_spec`); its `open` is called with it there, and returns the workload.
        clips: trained on, per source.
        load_weights: reads a directory of weights, for the digest.
    """
    ctx.work.mkdir(parents=True, exist_ok=True)
    for path in ctx.work.glob("stopped-*.txt"):
        path.unlink()
    finished = Event()
    with ThreadPoolExecutor(1, thread_name_prefix="metrics") as executor:
        follower = executor.submit(_follow, ctx, finished)
        try:
            _fit_to_the_end(ctx, spec)
        finally:
            finished.set()
        follower.result()
    _raise_if_stopped(ctx.work)

    from lumina.weights_digest import digest

    shutil.copyfile(ctx.work / METRICS_FILE, ctx.out / METRICS_FILE)
    SampleFollower(ctx).publish()
    rows = read_jsonl(ctx.out / METRICS_FILE)
    settings = config.model_dump(mode="json")
    plots = draw(ctx.stage, rows, settings, ctx.out)
    weights = {name: load_weights(ctx.out / folder) for name, folder in _FOLDERS.items()}
    return JobResult(
        kind="checkpoint",
        digest=digest(weights),
        metrics={
            "train/clips": clips.total(),
            **{f"train/clips/{source}": count for source, count in sorted(clips.items())},
            **summary(rows, settings),
        },
        artifacts=(METRICS_FILE, *plots),
        weights=_FOLDERS,
    )


_FOLDERS = {"raw": "transformer", "ema": "transformer_ema"}


def _spec(ctx: JobContext) -> dict[str, Any]:
    """Return what a worker needs, as plain values."""
    latents = [str(ref.path) for key, ref in sorted(ctx.inputs.items()) if key.startswith("latents")]
    if not latents or "text" not in ctx.inputs:
        raise ValueError(f"{ctx.stage} needs inputs latents... and text, but has {', '.join(sorted(ctx.inputs))}")
    sources = None
    if "selection" in ctx.inputs:
        sources = list(Selection.load(ctx.inputs["selection"].path).sources)
    return common_spec(ctx, _open) | {
        "config": _json(ctx.config),
        "latents": latents,
        "text": str(ctx.inputs["text"].path),
        "sources": sources,
        "unrestricted": ctx.config.unrestricted_media,
    }


def common_spec(ctx: JobContext, open_workload: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any]:
    """What every kind of worker needs, as plain values."""
    return {
        "open": open_workload,
        "init": str(ctx.inputs["init"].path / "transformer") if "init" in ctx.inputs else ctx.weights.get("init"),
        "out": str(ctx.out),
        "attention": ctx.runtime.attention,
        "threads": ctx.runtime.threads_per_worker,
        "use_gpu": ctx.runtime.use_gpu,
        "samples": None if ctx.aside is None else ctx.aside.model_dump_json(),
        "settings": {
            "work": str(ctx.work),
            "activation_checkpointing": ctx.runtime.checkpointing(ctx.stage),
            **ctx.runtime.model_dump(include=set(LoopConfig.model_fields)),
        },
    }


def _json(config: TrainStageConfig) -> str:
    # A pipeline's config may say more than a stage needs, such as which latents it reads.
    return config.model_dump_json(include=set(TrainStageConfig.model_fields))


def _check(config: TrainStageConfig, spec: Mapping[str, Any], workers: int) -> tuple[TrainStageConfig, Counter[str]]:
    """Find out before any worker starts whether the stage can run; return the number of clips of each source.

    Also returns the stage as it trains on the selected sources, if some are.
    """
    from lumina import checkpoints

    dataset = _dataset(spec)
    if spec["sources"] is not None:
        images = bool(spec["unrestricted"]) or "image" in dataset.counts("media")
        config = config.of_selection(spec["sources"], images)
    for task in config.tasks:
        dataset.of_task(task, config).plan.micro_batches(0, 0, workers)
    check_init(spec, config.model, checkpoints.load_config)
    sources: Counter[str] = dataset.counts("source")
    return config, sources


def check_init(spec: Mapping[str, Any], model: Config, load_config: Callable[[Path], Config]) -> None:
    """Raise ValueError if the stage starts from weights of another network than `model`."""
    if spec["init"] is None:
        return
    found = load_config(Path(spec["init"]))
    if found != model:
        raise ValueError(f"init {spec['init']} holds {found}, but the stage's model is {model}: use one model")


def _open(spec: Mapping[str, Any]) -> Any:
    from lumina.training.video_workload import VideoWorkload

    return VideoWorkload(TrainStageConfig.model_validate_json(spec["config"]), _dataset(spec))


def _dataset(spec: Mapping[str, Any]) -> Any:
    from lumina.training.data.latents import LatentDataset

    paths = [Path(path) for path in spec["latents"]]
    return LatentDataset(paths, Path(spec["text"]), spec["sources"], unrestricted=spec["unrestricted"])


def _fit_to_the_end(ctx: JobContext, spec: Mapping[str, Any]) -> None:
    """Train. Ray counts failures over the whole of a training; here they count for as long as nothing is gained.

    It counts those of workers only: a controller that died is started again, too, and once if nothing was gained.
    """
    from ray.exceptions import OutOfMemoryError, RayActorError
    from ray.train import TrainingFailedError

    controllers = 2
    while True:
        before = _last_checkpoint(ctx.work)
        try:
            return _fit(ctx, spec)
        except (TrainingFailedError, RayActorError, OutOfMemoryError) as error:
            reached = _last_checkpoint(ctx.work)
            controllers -= not isinstance(error, TrainingFailedError)
            if reached <= before and (isinstance(error, TrainingFailedError) or controllers < 1):
                raise
            logger.warning(f"{ctx.stage}: workers failed, and go on from step {reached}: {first_sentence(str(error))}")


def _last_checkpoint(work: Path) -> int:
    """Step of the newest engine checkpoint, or 0."""
    from lumina.training import resume

    return max((checkpoint.step for checkpoint in resume.complete(work / "engine")), default=0)


def _fit(ctx: JobContext, spec: Mapping[str, Any]) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from jobs.rendezvous import OneMachine

    logging.getLogger("ray.train").setLevel(logging.WARNING)
    runtime = ctx.runtime
    storage = ctx.work / "ray"
    shutil.rmtree(storage, ignore_errors=True)
    storage.mkdir()
    trainer = TorchTrainer(
        _worker,
        train_loop_config=dict(spec),
        torch_config=OneMachine(folder=str(storage)) if runtime.ray_address is None else None,
        scaling_config=ScalingConfig(
            num_workers=(runtime.min_train_workers, runtime.train_workers)
            if runtime.min_train_workers
            else runtime.train_workers,
            use_gpu=runtime.use_gpu,
            resources_per_worker=capacity.training_worker(runtime),
            placement_strategy=runtime.train_placement.upper(),
        ),
        run_config=RunConfig(
            # A name of its own, since Ray would resume a run of the same name; our own checkpoints do that.
            name=f"{ctx.fingerprint[:12]}-{uuid.uuid4().hex[:12]}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=runtime.max_failures),
        ),
    )
    trainer.fit()


def _worker(spec: dict[str, Any]) -> None:
    """Train in one process of the group."""
    if not spec["use_gpu"]:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import torch
    import torch.distributed as dist

    from lumina.models.attention_kernels import AttentionKernelError, use_kernel
    from lumina.training.trainer import Trainer, TrainingStoppedError

    torch.set_num_threads(spec["threads"])
    settings = LoopSettings(**spec["settings"], device=_device() if spec["use_gpu"] else "cpu")
    init = Path(spec["init"]) if spec["init"] else None
    try:
        workload = spec["open"](spec)
        config = workload.config
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        use_kernel(spec["attention"], config.model, settings.device, dtype, training=True)
        trainer = Trainer(workload, settings, init, open_samples(spec["samples"], settings.work))
        trainer.run()
        trainer.export(Path(spec["out"]))
    except (TrainingStoppedError, AttentionKernelError) as error:
        # Raised here, Ray would start the group again, only to stop at the same step. The driver raises it.
        (settings.work / f"stopped-{dist.get_rank():05d}.txt").write_text(str(error), encoding="utf-8")


def _device() -> str:
    from ray.train.torch import get_device

    return str(get_device())


def _raise_if_stopped(work: Path) -> None:
    from lumina.training.trainer import TrainingStoppedError

    messages = [path.read_text(encoding="utf-8") for path in sorted(work.glob("stopped-*.txt"))]
    if messages:
        # The worker that saw the loss names the clips; the others only saw the gradient.
        raise TrainingStoppedError(next((text for text in messages if "the loss of clip" in text), messages[0]))


def _follow(ctx: JobContext, finished: Event) -> None:
    """Pass on each line of the metrics file once, in order of step, until the run has finished.

    The progress that is told is what these workers have reached, beginning with the step that they resume from.
    """
    from lumina.training.metrics import curve_points

    path, steps = ctx.work / METRICS_FILE, ctx.config.steps
    earlier = path.stat().st_ino if path.exists() else 0
    last, offset, inode = 0, 0, 0
    refused = _refused(ctx.work)
    samples = SampleFollower(ctx)
    while True:
        ending = finished.wait(_POLL_SECONDS)
        for message in _refused(ctx.work)[len(refused) :]:
            refused.append(message)
            logger.warning(message)
        if path.exists():
            with path.open("rb") as file:
                now = os.fstat(file.fileno()).st_ino
                if now != inode:
                    # A restarted group puts a new file in place of the old one; a third has perhaps the first's number.
                    earlier = 0 if inode else earlier
                    inode, offset = now, 0
                file.seek(offset)
                lines = [line for line in file if line.endswith(b"\n")]
            offset += sum(map(len, lines))
            for row in map(json.loads, lines):
                step = int(row.pop("step"))
                if step > last:
                    last = step
                    ctx.log_metrics(curve_points(row), step)
            # Until workers put theirs in its place, the file is that of a run that was stopped.
            if lines and inode != earlier:
                ctx.progress(step, steps, "steps")
        samples.tell()
        if ending:
            return


def _refused(work: Path) -> list[str]:
    """What workers said of checkpoints that they passed over."""
    from lumina.training.trainer import REFUSED

    path = work / REFUSED
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
