"""Gradients that are added up beside the backward pass: the sums of all passes, to the same bits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from lumina import checkpoints
from lumina.training import zero
from lumina.training.data.latents import LatentDataset
from lumina.training.loop_config import LoopSettings
from lumina.training.stage import TrainStageConfig
from lumina.training.trainer import Trainer
from lumina.training.video_workload import VideoWorkload
from lumina.training.weights.publish import PUBLISHED
from tests.lumina.training import toy
from tests.lumina.training.group import run_group
from tests.lumina.training.reference import TELLING, plain_adamw, write_start

BUCKET = 3000
"""Numbers of a bucket, so that the toy's network fills several."""


BESIDE = {"overlap_comm": True}


def _in_buckets() -> None:
    """Have DeepSpeed reduce in small buckets, and beside the backward pass or after it as `BESIDE` says."""
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed

    initialize = deepspeed.initialize

    def changed(*args: Any, config: dict[str, Any], **kwargs: Any) -> Any:
        config["zero_optimization"] |= {**BESIDE, "reduce_bucket_size": BUCKET}
        return initialize(*args, config=config, **kwargs)

    deepspeed.initialize = changed


def _streams() -> dict[str, int]:
    """Let DeepSpeed see a device that computes in streams, as CUDA has, and say how often it waits for what."""
    from deepspeed.accelerator import get_accelerator

    waits = {"stream": 0, "host": 0}

    class Stream:
        def wait_stream(self, stream: Stream) -> None:
            waits["stream"] += 1

    def everything(self: Any, device_index: Any = None) -> None:
        waits["host"] += 1

    kind, one, other = type(get_accelerator()), Stream(), Stream()
    kind.resolves_data_dependency = kind.is_synchronized_device = lambda self: False
    kind.current_stream = lambda self, device_index=None: one
    kind.Stream = lambda self: other
    kind.synchronize = everything
    Tensor.record_stream = lambda self, stream: None  # type: ignore[method-assign, assignment]
    return waits


def _train(config: TrainStageConfig, root: Path, name: str) -> None:
    data = LatentDataset([root / "toy" / "latents"], root / "toy" / "text")
    trainer = Trainer(VideoWorkload(config, data), LoopSettings(work=root / name), root / "init")
    assert trainer.engine._zero.overlap_comm == name.startswith("beside")
    trainer.run()
    trainer.export(root / f"{name}-out")


def _beside_and_after(root: Path) -> None:
    _in_buckets()
    few = dist.get_world_size() == 2
    # In stage 1 other numbers lie side by side, and where gloo begins to add up more than two depends on the place.
    for name, stages in (("after", (1, 2) if few else (2,)), ("beside", (1, 2))):
        BESIDE["overlap_comm"] = name == "beside"
        for stage in stages:
            _train(TELLING.model_copy(update={"zero_stage": stage}), root, f"{name}-{stage}")
    if few:
        waits = _streams()
        for stage in (1, 2):
            _train(TELLING.model_copy(update={"zero_stage": stage}), root, f"beside-cuda-{stage}")
        assert waits["stream"] > 0
        assert waits["host"] == 0
    dist.barrier()


def _weights(root: Path, name: str) -> dict[str, dict[str, Tensor]]:
    return {folder: checkpoints.load_weights(root / f"{name}-out" / folder) for folder in PUBLISHED}


@pytest.mark.parametrize("world", [2, 4])
def test_sums_beside_the_backward_pass_are_those_after_it(tmp_path: Path, world: int) -> None:
    latents, text = toy.write(tmp_path / "toy")
    init = write_start(tmp_path / "init")
    run_group(world, _beside_and_after, tmp_path, store=tmp_path / "store")
    expected = plain_adamw(TELLING, LatentDataset([latents], text), init)
    for stage in (1, 2):
        beside = _weights(tmp_path, f"beside-{stage}")
        for folder, wanted in (("transformer", expected.weights), ("transformer_ema", expected.average)):
            for name, value in wanted.items():
                torch.testing.assert_close(
                    beside[folder][name], value, rtol=0, atol=2e-6, msg=f"{stage} {folder} {name}"
                )
        alike = ["after", "beside-cuda"] if world == 2 else ["after"] if stage == 2 else []
        for name in alike:
            assert checkpoints.digest(_weights(tmp_path, f"{name}-{stage}")) == checkpoints.digest(beside)


def _clip(monkeypatch: pytest.MonkeyPatch, seen: list[int], others: list[int]) -> Tensor:
    """The norm [] that a worker gets which came by its layers in the order `seen`, and another by them as `others`."""
    weights = torch.zeros(5)
    weights.grad = torch.tensor([3.0, 0.0, 4.0, 0.0, 100.0])
    clip, other = zero.Clip(weights, (2, 9, 4), 8, 2.5), zero.Order()
    for number in seen:
        clip.order.note(number)
    for number in others:
        other.note(number)
    code = float(other.take())

    def adding(told: Tensor) -> None:
        told += torch.tensor([0.0, code, code * code])

    monkeypatch.setattr(dist, "all_reduce", adding)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    clip()
    # The share ends within the third tensor; the gradient is scaled to the largest norm.
    assert weights.grad.norm() == pytest.approx(2.5, rel=1e-5)
    return clip.norm


def test_workers_that_add_up_different_layers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = (9 + 16 + 100**2) ** 0.5
    assert float(_clip(monkeypatch, [0, 5, 2], [0, 5, 2])) == pytest.approx(norm)
    assert float(_clip(monkeypatch, [0, 5, 2], [0, 2, 5])) == -1
    assert float(_clip(monkeypatch, [0, 5, 2], [0, 5])) == -1
