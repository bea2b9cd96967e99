"""The loop never waits for the device, but for one number of the step before: what would wait on a GPU is counted.

But for what the network does by itself: it makes tables of lengths and places, and keeps them.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lumina.files import read_jsonl
from lumina.training.data.latents import LatentDataset
from lumina.training.done import Done, TrainingStoppedError
from lumina.training.engine import Engine
from lumina.training.loop_config import LoopSettings
from lumina.training.trainer import Trainer
from lumina.training.video_workload import VideoWorkload
from tests.lumina.training import toy

HOST = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__", "__contains__")
"""Methods of a tensor that give the host what the device has computed."""
FACTORIES = ("tensor", "as_tensor")
NETWORK, OPTIMIZER = os.path.join("lumina", "models", ""), os.path.join("torch", "optim", "")


def _moves(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether arguments of `Tensor.to` name a device, and not that nobody waits."""
    named = [arg for arg in (*args, kwargs.get("device")) if isinstance(arg, torch.device | str)]
    return bool(named) and not kwargs.get("non_blocking", False)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens on the loop's thread, in order: the end of a step's backward pass, and every wait."""
    told: list[str] = []
    loop = threading.get_ident()

    def note(name: str) -> None:
        if threading.get_ident() == loop:
            told.append(name)

    def waiting(name: str, plain: Callable[..., Any], waits: Callable[..., bool]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1).f_code.co_filename
            network = NETWORK in caller and name in ("to", *FACTORIES)
            # The count of steps, which the fused kernel of a GPU has on the device.
            if waits(*args, **kwargs) and not network and OPTIMIZER not in caller:
                note(name)
            return plain(*args, **kwargs)

        return call

    for name in HOST:
        monkeypatch.setattr(Tensor, name, waiting(name, getattr(Tensor, name), lambda *_, **__: True))
    monkeypatch.setattr(Tensor, "to", waiting("to", Tensor.to, lambda self, *args, **kwargs: _moves(args, kwargs)))
    # A tensor made of the host's numbers on a device is a copy from memory that is not page-locked.
    for name in FACTORIES:
        on_device = waiting(name, getattr(torch, name), lambda *_, **kwargs: kwargs.get("device") is not None)
        monkeypatch.setattr(torch, name, on_device)
    from deepspeed.accelerator import get_accelerator
    from deepspeed.runtime.zero import stage_1_and_2

    whole = type(get_accelerator()).synchronize
    everything = waiting("synchronize", whole, lambda *_, **__: True)
    monkeypatch.setattr(type(get_accelerator()), "synchronize", everything)
    # It goes through all parameters in every pass, and its number is of no use.
    counted = waiting("count", stage_1_and_2.count_used_parameters_in_backward, lambda *_, **__: True)
    monkeypatch.setattr(stage_1_and_2, "count_used_parameters_in_backward", counted)
    backward = Engine.backward

    def passing(self: Engine, loss: Tensor, last: bool) -> None:
        backward(self, loss, last)
        if last:
            note("step")

    monkeypatch.setattr(Engine, "backward", passing)
    return told


@pytest.mark.parametrize("changes", [{"zero_stage": 1}, {"zero_stage": 2, "precision": "bf16"}])
def test_the_loop_waits_once_a_step_and_for_the_step_before(
    tmp_path: Path, events: list[str], changes: dict[str, Any]
) -> None:
    latents, text = toy.write(tmp_path / "toy")
    trainer = Trainer(
        VideoWorkload(toy.stage(steps=9, **changes), LatentDataset([latents], text)),
        LoopSettings(work=tmp_path / "work", log_every=100),
    )
    events.clear()
    trainer.run()
    assert events[:17] == ["step", *["step", "item"] * 8]
    # Then comes the last report.
    assert events[17] == "item"


def test_a_step_is_looked_at_before_anything_of_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, text = toy.write(tmp_path / "toy", videos=2, images=2, bad_clip="clip001")
    data = LatentDataset([latents], text)
    steps: list[int] = []
    step = Trainer._optimizer_step

    def counting(self: Trainer, number: int, batches: Any) -> None:
        steps.append(number)
        step(self, number, batches)

    monkeypatch.setattr(Trainer, "_optimizer_step", counting)
    for number, (changes, last) in enumerate(
        (({}, 1), ({"log_every": 1}, 0), ({"checkpoint_every": 1}, 0), ({"validate_every": 1}, 0))
    ):
        work = tmp_path / str(number)
        steps.clear()
        with pytest.raises(TrainingStoppedError, match=r"step 0, task fine: the loss of clip clip001 is not finite"):
            Trainer(VideoWorkload(toy.stage(), data), LoopSettings(work=work, **changes)).run()  # type: ignore[arg-type]
        assert steps[-1] == last
        assert not list((work / "engine").iterdir())
        assert not read_jsonl(work / "metrics.jsonl")


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    seen = [("fine", ("a", "b"), torch.tensor([1.0, 2.0]))]
    Done(3, seen, torch.tensor(1.0)).check(0)
    with pytest.raises(TrainingStoppedError, match=r"step 3: the gradient norm is nan .* on worker 1 \(fine: a b\)"):
        Done(3, seen, torch.tensor(float("nan"))).check(1)
    with pytest.raises(TrainingStoppedError, match=r"step 3: .* gradients of different layers were added up"):
        Done(3, seen, torch.tensor(-1.0)).check(1)


def test_on_a_gpu_the_number_is_waited_for_by_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Event:
        def record(self) -> None:
            calls.append("record")

        def synchronize(self) -> None:
            calls.append("wait")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(Tensor, "is_cuda", True)
    done = Done(0, [("fine", ("a",), torch.tensor([1.0]))], torch.tensor(1.0))
    assert calls == ["record"]
    done.check(0)
    assert calls == ["record", "wait"]
