"""A training stage under Ray Train: a lost worker changes nothing, a bad clip is named, bad data start nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import torch
from ray.util import placement_group_table

from jobs import train
from jobs.context import InputRef, JobContext, JobResult
from jobs.runtime import RuntimeConfig
from lumina import checkpoints
from lumina.files import read_jsonl
from lumina.models import attention_kernels
from lumina.models.attention_kernels import AttentionKernelError
from lumina.training import resume
from lumina.training.data.latents import LatentDataset
from lumina.training.engine import Layout
from lumina.training.loop_config import LoopSettings
from lumina.training.metrics import MetricsFile
from lumina.training.stage import TrainStageConfig
from lumina.training.trainer import Trainer, TrainingStoppedError
from lumina.training.video_workload import VideoWorkload
from tests.lumina.training import toy
from tests.ray_nodes import processes


class Recorder:
    """What a job told the driver."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, Mapping[str, float]]] = []
        self.reports: list[tuple[int, int, str]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.rows.append((step, dict(metrics)))

    def progress(self, done: int, total: int, unit: str) -> None:
        self.reports.append((done, total, unit))


class PipelineStageConfig(TrainStageConfig):
    """As a pipeline has it: with a field that the stage does not know."""

    latents: tuple[str, ...]


def _context(root: Path, config: TrainStageConfig, recorder: Recorder, **toy_changes: Any) -> JobContext:
    latents, text = toy.write(root / "toy", **toy_changes)
    selection = root / "selection"
    selection.mkdir()
    (selection / "selection.json").write_text(json.dumps({"chosen": "synthetic", "sources": ["synthetic"]}))
    out = root / "out"
    out.mkdir()
    return JobContext(
        stage="train@1",
        fingerprint="f" * 64,
        operator="",
        config=config,
        runtime=RuntimeConfig(train_workers=2, train_placement="spread", checkpoint_every=5, log_every=2),
        inputs={
            "latents": InputRef("encode_latents@1", latents, ""),
            "text": InputRef("encode_text", text, ""),
            "selection": InputRef("choose", selection, ""),
        },
        weights={},
        media_root="",
        out=out,
        work=root / "work",
        progress=recorder.progress,
        log_metrics=recorder.log_metrics,
    )


def _at(recorder: Recorder, step: int, actor: str) -> list[psutil.Process]:
    """The processes of an actor, once training has come to a step."""
    deadline = time.monotonic() + 300
    while not recorder.rows or recorder.rows[-1][0] < step:
        assert time.monotonic() < deadline, "training did not get going"
        time.sleep(0.02)
    return processes(os.getpid(), actor)


def _kill_a_worker(recorder: Recorder, step: int) -> None:
    workers = _at(recorder, step, "RayTrainWorker")
    for worker in workers:
        listening = [one.laddr.ip for one in worker.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        # Ray's own, which wants a token; torch's rendezvous would be another, and want none.
        assert sum(ip in ("::", "0.0.0.0") for ip in listening) == 1, listening  # noqa: S104
    os.kill(workers[-1].pid, signal.SIGKILL)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_one_of_them_killed_and_their_controller_train_as_one_does(tmp_path: Path) -> None:
    # The released epsilon, 1e-15, would make the rounding noise of gradients that are almost 0 into full steps.
    config = toy.stage(steps=40, lr=1e-3, eps=1e-6, image_sources="selected")
    recorder = Recorder()
    ctx = _context(tmp_path, config, recorder)
    results: list[JobResult] = []
    # The DAG runs its jobs on threads.
    thread = threading.Thread(target=lambda: results.append(train.run(ctx)))
    thread.start()
    _kill_a_worker(recorder, 8)
    [controller] = _at(recorder, 16, "TrainController")
    controller.kill()
    thread.join()
    assert [step for step, _ in recorder.rows] == list(range(2, 41, 2))
    assert recorder.reports[-1] == (40, 40, "steps")
    assert "SPREAD" in {group["strategy"] for group in placement_group_table().values()}

    data = LatentDataset([ctx.inputs["latents"].path], ctx.inputs["text"].path, ["synthetic"])
    alone = Trainer(VideoWorkload(config, data), LoopSettings(work=tmp_path / "alone", log_every=2))
    alone.run()
    for (_, told), row in zip(recorder.rows, read_jsonl(tmp_path / "alone" / "metrics.jsonl"), strict=True):
        assert told["loss"] == pytest.approx(row["loss"], rel=1e-5)
    alone.export(tmp_path / "alone" / "out")
    for folder in ("transformer", "transformer_ema"):
        weights = (checkpoints.load_weights(path / folder) for path in (ctx.out, tmp_path / "alone" / "out"))
        for two, one in zip(*(pair.values() for pair in weights), strict=True):
            torch.testing.assert_close(two, one, rtol=0, atol=1e-4)

    assert results[0].metrics["train/last_loss/coarse"] < results[0].metrics["train/first_loss/coarse"]
    assert results[0].metrics["train/clips"] == results[0].metrics["train/clips/synthetic"] == 8
    for artifact in results[0].artifacts:
        assert (ctx.out / artifact).stat().st_size > 0


def test_a_loss_that_is_not_finite_is_told_to_the_driver(tmp_path: Path) -> None:
    config = PipelineStageConfig(**toy.stage().model_dump(), latents=("a",))
    ctx = _context(tmp_path, config, Recorder(), videos=2, images=2, bad_clip="clip001")
    train._worker(train._spec(ctx))
    (ctx.work / "stopped-00001.txt").write_text("step 0: the gradient norm is nan")
    with pytest.raises(TrainingStoppedError, match=r"step 0, task fine: the loss of clip clip001"):
        train._raise_if_stopped(ctx.work)


def test_data_that_do_not_fit_start_nothing(tmp_path: Path) -> None:
    ctx = _context(tmp_path, toy.stage(), Recorder())
    with pytest.raises(ValueError, match="batch_size 4 is smaller than the number of workers"):
        train.run(replace(ctx, runtime=RuntimeConfig(train_workers=5)))
    with pytest.raises(ValueError, match=r"needs inputs latents\.\.\. and text"):
        train.run(replace(ctx, inputs={"text": ctx.inputs["text"]}))
    assert not ctx.work.exists()


def test_a_worker_is_told_what_the_stage_was_given(tmp_path: Path) -> None:
    ctx = _context(tmp_path, PipelineStageConfig(**toy.stage().model_dump(), latents=("a",)), Recorder())
    latents, text = ctx.inputs["latents"], ctx.inputs["text"]
    spec = train._spec(ctx)
    assert TrainStageConfig.model_validate_json(spec["config"]) == toy.stage()
    assert (spec["latents"], spec["text"], spec["sources"]) == ([str(latents.path)], str(text.path), ["synthetic"])
    assert spec["init"] is None
    assert train._spec(replace(ctx, weights={"init": "/given"}))["init"] == "/given"
    # A stage goes on from the last weights of the one before it, as released, not from their average.
    before = InputRef("train@0", tmp_path / "before", "")
    inputs = {"init": before, "latents.b": latents, "latents.a": InputRef("a", tmp_path / "a", ""), "text": text}
    spec = train._spec(replace(ctx, inputs=inputs, weights={"init": "/given"}))
    assert spec["init"] == str(tmp_path / "before" / "transformer")
    assert (spec["latents"], spec["sources"]) == ([str(tmp_path / "a"), str(latents.path)], None)


def _spec_of(ctx: JobContext) -> tuple[TrainStageConfig, Mapping[str, int], Mapping[str, Any]]:
    spec = train._spec(ctx)
    config, clips = train._check(ctx.config, spec, 2)
    return config, clips, spec


def test_images_come_from_all_sources_or_from_the_selected_ones(tmp_path: Path) -> None:
    ctx = _context(tmp_path, toy.stage(), Recorder())
    config, clips, spec = _spec_of(ctx)
    assert clips == {"synthetic": 8, "web": 2}
    [image] = [task for task in config.tasks if task.media == "image"]
    videos = [clip.source for clip in train._dataset(spec).clips if clip.media == "video"]
    assert set(videos) == {"synthetic"}
    assert len(train._dataset(spec).of_task(image, config).clips) == 6
    _, clips, _ = _spec_of(replace(ctx, config=toy.stage(image_sources="selected")))
    assert clips == {"synthetic": 8}
    # Images alone are what the selection is of.
    _, clips, _ = _spec_of(replace(ctx, config=toy.stage(tasks=(toy.IMAGE,))))
    assert clips == {"synthetic": 8}


def test_image_tasks_go_where_the_selected_sources_have_no_images(tmp_path: Path) -> None:
    ctx = _context(tmp_path, toy.stage(image_sources="selected"), Recorder(), images=0)
    config, clips, _ = _spec_of(ctx)
    assert [task.name for task in config.tasks] == ["fine", "coarse"]
    assert clips == {"synthetic": 4}
    with pytest.raises(ValueError, match="task image: no image to train on"):
        _spec_of(replace(ctx, config=toy.stage()))


def test_weights_of_sources_that_were_not_selected_mean_nothing(tmp_path: Path) -> None:
    weights = {"source_weights": {"synthetic": 2, "web": 3}}
    ctx = _context(tmp_path, toy.stage(tasks=[{**toy.FINE.model_dump(), **weights}]), Recorder())
    config, _, _ = _spec_of(ctx)
    assert config.tasks[0].source_weights == {"synthetic": 2}


def test_progress_begins_with_the_step_that_a_training_resumes_from(tmp_path: Path) -> None:
    recorder, finished = Recorder(), threading.Event()
    ctx = _context(tmp_path, toy.stage(steps=40), recorder)
    ctx.work.mkdir()

    def write(steps: int, resumed: int) -> MetricsFile:
        file = MetricsFile(ctx.work / train.METRICS_FILE, resumed)
        for step in range(resumed + 1, steps + 1):
            file.write(step, {"loss": 1.0})
        return file

    def wait_for(step: int, reports: int) -> None:
        deadline = time.monotonic() + 60
        while len(recorder.rows) < step or len(recorder.reports) < reports:
            assert time.monotonic() < deadline, (recorder.rows, recorder.reports)
            time.sleep(0.02)

    write(26, 0).close()
    path, first = ctx.work / train.METRICS_FILE, ctx.work / "first"
    first.hardlink_to(path)
    thread = threading.Thread(target=train._follow, args=(ctx, finished), daemon=True)
    thread.start()
    wait_for(26, 0)
    assert recorder.reports == []  # while the workers start
    file = write(20, 20)
    wait_for(26, 1)
    file.write(21, {"loss": 1.0})
    wait_for(26, 2)
    file.close()
    # The third file has the number of the first, which is gone: so it is on ext4.
    first.write_bytes(path.read_bytes())
    first.replace(path)
    wait_for(26, 3)
    with path.open("a") as lines:
        lines.writelines(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(22, 31))
    finished.set()
    thread.join()
    assert recorder.reports[:2] == [(20, 40, "steps"), (21, 40, "steps")]
    assert recorder.reports[2] == (21, 40, "steps")
    assert recorder.reports[-1] == (30, 40, "steps")
    assert [step for step, _ in recorder.rows] == list(range(1, 31))


def test_failures_count_while_nothing_is_gained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train import TrainingFailedError

    ctx = _context(tmp_path, toy.stage(), Recorder())
    # What each call of fit gains before it fails, in steps; the last but one gains nothing.
    gains, calls = [10, 10, 0, 10], []

    def fit(_ctx: JobContext, _spec: Mapping[str, Any]) -> None:
        calls.append(gains[len(calls)])
        step = sum(calls)
        resume.write_share(ctx.work / "engine", step, 0, 1, {"weights": torch.zeros(1)}, Layout(("a",), ((1,),)))
        raise TrainingFailedError("lost")

    monkeypatch.setattr(train, "_fit", fit)
    with pytest.raises(TrainingFailedError, match="lost"):
        train._fit_to_the_end(ctx, {})
    assert calls == [10, 10, 0]


def test_a_controller_that_dies_is_started_again_and_once_if_nothing_is_gained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.exceptions import ActorDiedError, OutOfMemoryError

    ctx = _context(tmp_path, toy.stage(), Recorder())
    deaths = [ActorDiedError(), OutOfMemoryError("running low on memory"), ActorDiedError()]
    calls = []

    def fit(_ctx: JobContext, _spec: Mapping[str, Any]) -> None:
        calls.append(len(calls))
        raise deaths[len(calls) - 1]

    monkeypatch.setattr(train, "_fit", fit)
    with pytest.raises(OutOfMemoryError):
        train._fit_to_the_end(ctx, {})
    assert calls == [0, 1]


def test_a_kernel_that_a_worker_does_not_have_ends_the_stage_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.stage(precision="bf16")
    context = replace(
        _context(tmp_path, config, Recorder()), runtime=RuntimeConfig(train_workers=2, use_gpu=True, attention="fa3")
    )
    context.work.mkdir()
    asked: list[Any] = []

    def use_kernel(*given: Any, **options: Any) -> None:
        asked.append((given, options))
        raise AttentionKernelError("attention fa3: there is no module flash_attn_interface")

    monkeypatch.setattr(attention_kernels, "use_kernel", use_kernel)
    monkeypatch.setattr(train, "_device", lambda: "cuda:1")
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    # As the trainer says it of a loss: Ray would start the group again, to no end.
    train._worker(train._spec(context))
    assert asked == [(("fa3", config.model, "cuda:1", torch.bfloat16), {"training": True})]
    with pytest.raises(TrainingStoppedError, match="there is no module flash_attn_interface"):
        train._raise_if_stopped(context.work)
