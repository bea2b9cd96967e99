"""What a cluster cannot run is refused with the numbers; a worker's CPU and GPU count only where they are together."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.capacity import CapacityError, Work, check, curation_workers, evaluation_workers, needs, room, shortage
from jobs.runtime import RuntimeConfig

GPU_NODE = {"CPU": 8.0, "GPU": 2.0, "memory": 1e9}
CPU_NODE = {"CPU": 32.0, "curation": 1.0}
CLUSTER = [{"CPU": 2.0}, CPU_NODE, GPU_NODE, GPU_NODE]


def short(nodes: list[dict[str, float]], **settings: Any) -> str | None:
    return shortage(nodes, needs(RuntimeConfig(**settings), Work()))


def test_a_shortage_is_told_in_numbers() -> None:
    assert short(CLUSTER, use_gpu=True, train_workers=4, curation_resource="curation") is None
    assert short(CLUSTER, use_gpu=True, train_workers=32) == (
        "training takes 32 workers with 1 CPU and 1 GPU each (runtime.train_workers), but 4 nodes with 50 CPU, 4 GPU "
        "in all have room for 4"
    )
    assert short(CLUSTER, use_gpu=True, train_workers=32, min_train_workers=3) is None
    assert short([CPU_NODE], train_workers=33) == (
        "training takes 33 workers with 1 CPU each (runtime.train_workers), but 1 node with 32 CPU in all has room "
        "for 32"
    )
    assert short([GPU_NODE], curation_resource="curation") == (
        "curation takes 1 worker with 1 CPU and some curation each (runtime.curation_resource), but 1 node with 8 CPU, "
        "0 curation in all has room for 0"
    )
    assert "curation with networks takes 1 worker with 1 CPU and 1 GPU each" in str(
        short([CPU_NODE], curation_use_gpu=True)
    )


def test_a_cpu_on_another_node_does_not_help() -> None:
    apart = [{"CPU": 64.0}, {"CPU": 1.0, "GPU": 8.0}]
    assert room(apart, {"CPU": 1, "GPU": 1}) == 1
    assert str(short(apart, use_gpu=True)).endswith("but 2 nodes with 65 CPU, 8 GPU in all have room for 1")


def test_a_run_is_asked_for_the_stages_it_has_alone() -> None:
    runtime = RuntimeConfig(use_gpu=True, train_workers=8)
    assert shortage([CPU_NODE], needs(runtime, Work(networks=False, training=False, evaluation=False))) is None
    assert "evaluation takes 1 worker with 1 GPU" in str(
        shortage([CPU_NODE], needs(runtime, Work(curation=False, training=False)))
    )


AMOUNTS = st.dictionaries(st.sampled_from(["CPU", "GPU", "curation"]), st.integers(0, 9).map(float))


@given(st.lists(AMOUNTS, max_size=4), AMOUNTS)
def test_more_nodes_never_have_less_room(nodes: list[dict[str, float]], more: dict[str, float]) -> None:
    worker = {"CPU": 1.0, "GPU": 1.0}
    assert 0 <= room(nodes, worker) <= room([*nodes, more], worker) <= room(nodes, worker) + 9
    assert room(nodes, worker) <= min(sum(node.get(name, 0) for node in nodes) for name in worker)


def test_a_growing_cluster_has_to_say_how_many_curate() -> None:
    with pytest.raises(ValidationError, match="autoscaling needs curation_workers"):
        RuntimeConfig(autoscaling=True)


@pytest.mark.ray
def test_the_running_cluster_is_counted(ray_cluster: None) -> None:
    check(RuntimeConfig(use_gpu=True), Work())
    expected = (
        "training takes 3 workers with 1 CPU and 1 GPU each (runtime.train_workers), but 1 node with 4 CPU, 2 GPU in "
        "all has room for 2; lower the setting, or raise runtime.num_cpus where CPUs are short"
    )
    with pytest.raises(CapacityError, match=re.escape(expected)):
        check(RuntimeConfig(use_gpu=True, train_workers=3), Work())
    with pytest.raises(CapacityError, match=r"add nodes, or say runtime\.autoscaling=true"):
        check(RuntimeConfig(ray_address="auto", train_workers=5), Work())
    check(RuntimeConfig(ray_address="auto", train_workers=5, autoscaling=True, curation_workers=2), Work())


@pytest.mark.ray
def test_workers_come_from_what_the_cluster_has(ray_cluster: None) -> None:
    assert curation_workers(RuntimeConfig()) == 2
    assert curation_workers(RuntimeConfig(ray_address="auto")) == 3
    assert curation_workers(RuntimeConfig(ray_address="auto", curation_resource="shelf")) == 3
    assert curation_workers(RuntimeConfig(curation_resource="nowhere")) == 1
    assert curation_workers(RuntimeConfig(), gpus=1) == 2
    assert curation_workers(RuntimeConfig(), gpus=0.5) == 4
    assert curation_workers(RuntimeConfig(), gpus=0.1) == 4  # and a CPU each
    assert curation_workers(RuntimeConfig(curation_workers=7), gpus=1) == 7
    assert evaluation_workers(RuntimeConfig()) == 2
    assert evaluation_workers(RuntimeConfig(use_gpu=True)) == 2
    growing = RuntimeConfig(use_gpu=True, train_workers=8, autoscaling=True, curation_workers=1)
    assert evaluation_workers(growing) == 8
