"""A stage on a cluster: shares of workers, what is written, and settings that fit where the given ones do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lumina.checkpoints import save_weights
from lumina.cluster_cost import Pass, StageCost, TaskLoad, largest_pass, memory, pass_bytes, stage_cost
from lumina.cost import forward_cost, muon_flops, parameters, training_cost
from lumina.hardware import Cluster, gpu_named
from lumina.models.config import RELEASED_MODELS
from lumina.training import engine
from lumina.training.loop_config import LoopConfig
from lumina.training.stage import LoraConfig, TaskConfig, TrainStageConfig
from tests.lumina.tiny import TINY, dit_without_zeros

H100 = gpu_named("H100")
SMALL = Cluster(2, replace(H100, memory_bytes=20_000_000))


def task(**settings: Any) -> TaskConfig:
    given = {"name": "video", "media": "video", "patch": (1, 2, 2), "time_shift": 1, "batch_size": 16}
    return TaskConfig.model_validate(given | settings)


def load(**settings: Any) -> TaskLoad:
    return TaskLoad(task(**settings), size=(4, 16, 16), text_tokens=8, read_bytes=5000)


def stage(*loads: TaskLoad, **settings: Any) -> TrainStageConfig:
    tasks = tuple(one.task for one in loads) or (task(),)
    return TrainStageConfig.model_validate({"steps": 100, "tasks": tasks, "model": TINY, **settings})


def cost(*loads: TaskLoad, cluster: Cluster = SMALL, mode: Any = "none", **settings: Any) -> StageCost:
    return stage_cost("train@1", stage(*loads, **settings), loads, cluster, 0.5, mode, LoopConfig(milestone_every=40))


@pytest.mark.parametrize(
    ("batch", "workers", "micro", "samples"),
    [(16, 2, None, 8), (16, 2, 3, 3), (16, 2, 4, 4), (16, 2, 5, 4), (16, 2, 9, 8), (13, 2, None, 7), (13, 2, 4, 4),
     # Every worker has as many passes as the one with the fewest samples: one of the others takes one more.
     (13, 2, 1, 2), (13, 5, 1, 2), (15, 5, 1, 1)],
)  # fmt: skip
def test_the_largest_pass(batch: int, workers: int, micro: int | None, samples: int) -> None:
    found = largest_pass(load(batch_size=batch, micro_batch_size=micro), stage(), workers)
    assert found == Pass(samples, samples * 4 * 8 * 8)


def test_a_bound_on_tokens_bounds_a_pass_but_cuts_no_clip() -> None:
    assert largest_pass(load(micro_batch_tokens=1000), stage(), 2) == Pass(8, 1000)
    assert largest_pass(load(micro_batch_tokens=100), stage(), 2).tokens == 256
    assert largest_pass(load(micro_batch_tokens=100, batch_size=13), stage(), 2).tokens == 512
    with pytest.raises(ValueError, match="task video: batch_size 16 is smaller than the number of workers, 17"):
        largest_pass(load(), stage(), 17)


def test_memory_is_shared_out_as_zero_does() -> None:
    count = parameters(TINY)
    one, four = (memory(stage(precision="bf16"), workers, 1000) for workers in (1, 4))
    assert (one.weights, one.gradients, one.state) == (2 * count, 2 * count, 16 * count)
    assert (four.weights, four.gradients, four.state) == (2 * count, 2 * count, 4 * count)
    assert memory(stage(precision="fp32"), 1, 0).weights == 4 * count
    two = memory(stage(precision="bf16", zero_stage=2), 4, 0)
    assert two.gradients == count
    # One buffer alone; two for several workers, and their sum in float32 unless it is to be in bfloat16.
    assert (one.buffer, four.buffer, two.buffer) == (2 * count, 8 * count, 8 * count)
    assert memory(stage(precision="bf16", communication_data_type="bf16"), 4, 0).buffer == 4 * count
    assert memory(stage(precision="fp32"), 4, 0).buffer == 8 * count
    assert memory(stage(precision="bf16"), 1, 0, caches=1000).total == one.total + 1000
    # The optimizer's step and the activations take turns.
    assert one.step > one.buffer + one.activations
    assert one.total == 20 * count + one.step
    busy = memory(stage(precision="bf16"), 1, 10**9)
    assert busy.total == 20 * count + busy.buffer + 10**9


def test_adapters_alone_have_gradients_state_and_checkpoints() -> None:
    lora = LoraConfig(rank=2, targets=("wq",))
    trained, count = TINY.n_layers * 2 * 2 * TINY.dim, parameters(TINY)
    taken = memory(stage(lora=lora, precision="bf16"), 1, 0)
    assert (taken.weights, taken.gradients, taken.state) == (2 * (count + trained), 2 * trained, 16 * trained)
    found = cost(load(), lora=lora)
    assert (found.trained, found.checkpoint_bytes, found.weights_bytes) == (trained, 16 * trained, 8 * count)
    assert found.flops < cost(load()).flops


def test_final_weights_are_as_large_as_what_is_written(tmp_path: Path) -> None:
    model = dit_without_zeros(0.1)
    for name in ("transformer", "transformer_ema"):
        save_weights(TINY, model.state_dict(), tmp_path / name)
    written = sum(path.stat().st_size for path in tmp_path.glob("*/*.safetensors"))
    found = cost(load())
    # The rest of a file is its header: names and shapes.
    assert found.weights_bytes < written < 1.1 * found.weights_bytes
    assert found.checkpoint_bytes == 2 * found.weights_bytes
    # Two that are kept, one that is being written, two milestones with their weights, and the last weights.
    assert found.disk_bytes == 5 * found.checkpoint_bytes + 3 * found.weights_bytes


def test_a_step_sums_its_tasks_as_often_as_they_take_part() -> None:
    whole, half = load(), load(name="half", ratio=0.5, batch_size=8, patch=(2, 2, 2))
    found = cost(whole, half)
    sizes = [(TINY, one.size, one.task.patch, 8) for one in (whole, half)]
    assert found.tokens == 16 * 256 + 4 * 128
    assert found.flops == 16 * training_cost(*sizes[0]) + 4 * training_cost(*sizes[1])
    assert found.read_bytes == 20 * 5000
    seconds = found.flops / (2 * H100.peak_flops * 0.5) + found.waiting.exposed_s
    assert found.step_seconds == pytest.approx(seconds)
    assert found.gpu_hours == pytest.approx(2 * 100 * seconds / 3600)
    again = cost(whole, half, mode="full")
    blocks = 16 * forward_cost(*sizes[0]).blocks + 4 * forward_cost(*sizes[1]).blocks
    assert again.flops - found.flops == blocks
    assert again.repeated == pytest.approx(blocks / again.flops)
    assert found.repeated == 0


def test_muon_multiplies_matrices_once_a_step() -> None:
    adamw, muon = (cost(load(), mode="full", optimizer=name) for name in ("adamw", "muon"))
    assert muon.flops - adamw.flops == muon_flops(TINY)
    assert muon.flops * muon.repeated == pytest.approx(adamw.flops * adamw.repeated)
    assert muon.step_seconds > adamw.step_seconds


def of_memory(megabytes: float) -> Cluster:
    return Cluster(2, replace(H100, memory_bytes=int(megabytes * 1e6)))


@pytest.mark.parametrize("megabytes", [6, 8, 10, 12, 15, 20, 25, 30, 40])
def test_what_would_fit_fits_and_nothing_milder_does(megabytes: float) -> None:
    loads = (load(), load(name="coarse", patch=(2, 2, 2)))
    found = cost(*loads, cluster=of_memory(megabytes))
    if found.mend is None:
        assert found.memory.total <= of_memory(megabytes).usable_bytes
        return
    mend = found.mend
    changed = tuple(
        replace(one, task=one.task.model_copy(update={"micro_batch_size": mend.micro_batch_sizes.get(one.task.name)}))
        for one in loads
    )
    mended = cost(*changed, cluster=of_memory(megabytes), mode=mend.checkpointing)
    assert mended.memory == mend.memory
    assert mended.fits is mend.fits
    if not mend.fits:
        assert mend.checkpointing == "full"
        assert all(largest_pass(one, stage(*changed), 2).samples == 1 for one in changed[:1])
        return
    # One size up, or one mode before, and it is too much.
    for name, size in mend.micro_batch_sizes.items():
        [one] = [one for one in loads if one.task.name == name]
        larger = min(now for now in range(size + 1, 9) if largest_pass(one, stage(), 2, now).samples > size)
        taken = pass_bytes(one, stage(), largest_pass(one, stage(), 2, larger), mend.checkpointing)
        assert memory(stage(), 2, taken).total > of_memory(megabytes).usable_bytes


def test_first_micro_batches_shrink_then_more_is_computed_again() -> None:
    wide = replace(load(micro_batch_size=1), size=(32, 16, 16))  # a clip of 2,048 tokens in every pass
    found = [cost(wide, cluster=of_memory(megabytes)) for megabytes in (60, 35, 30, 26, 20)]
    mends = [one.mend and (one.mend.fits, one.mend.checkpointing) for one in found]
    assert mends == [None, (True, "per-op"), (True, "attention"), (True, "full"), (False, "full")]
    mend = cost(load(), cluster=of_memory(20)).mend
    assert mend is not None
    assert (mend.fits, mend.checkpointing, mend.micro_batch_sizes) == (True, "none", {"video": 3})
    # Recomputation that was asked for stays.
    mend = cost(wide, cluster=of_memory(20), mode="full").mend
    assert mend is not None
    assert mend.checkpointing == "full"


def test_the_released_model_s_figures() -> None:
    # ../shared/reference: 7 GB of weights and gradients and 21 GB of state over all workers, without the average.
    taken = memory(stage(model=RELEASED_MODELS["2B_GQA"], precision="bf16"), 32, 0)
    assert taken.weights + taken.gradients == pytest.approx(7.1e9, rel=0.01)
    assert taken.state == pytest.approx((21.3e9 + 7.1e9) / 32, rel=0.01)
    # Two of bfloat16, and one of them in float32.
    assert taken.buffer == (2 * 2 + 4) * engine.REDUCE_BUCKET
