"""Cluster capacity: what the stages of a run take, whether a cluster has it, and how many workers a stage gets.

Counted node by node: the CPU and the GPU of one worker have to be on one node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.runtime import RuntimeConfig

_PLACE = 0.001
"""What a worker takes of the resource that marks its node: it says where, not how many."""


class CapacityError(RuntimeError):
    """The cluster cannot run what it is asked for; the message has the numbers."""


@dataclass(frozen=True)
class Work:
    """Which kinds of stages a run has."""

    curation: bool = True
    networks: bool = True
    """Whether a curation stage runs a network."""
    training: bool = True
    evaluation: bool = True


@dataclass(frozen=True)
class Need:
    """Workers that have to find room at the same time."""

    what: str
    setting: str
    """The setting that asks for them."""
    workers: int
    resources: Mapping[str, float]
    """Of one worker, all on one node."""


def training_worker(runtime: RuntimeConfig) -> dict[str, float]:
    """Resources of one training worker."""
    return {"CPU": 1, "GPU": 1} if runtime.use_gpu else {"CPU": 1}


def curation_place(runtime: RuntimeConfig) -> dict[str, float]:
    """Custom resources of one curation worker without a GPU."""
    return {runtime.curation_resource: _PLACE} if runtime.curation_resource is not None else {}


def needs(runtime: RuntimeConfig, work: Work) -> tuple[Need, ...]:
    """The least that the stages of a run need."""
    found = []
    if work.curation:
        setting = "runtime.curation_resource" if runtime.curation_resource is not None else ""
        found.append(Need("curation", setting, 1, {"CPU": 1, **curation_place(runtime)}))
        if work.networks and runtime.curates_on_gpu:
            setting = "runtime.use_gpu" if runtime.curation_use_gpu is None else "runtime.curation_use_gpu"
            found.append(Need("curation with networks", setting, 1, {"CPU": 1, "GPU": 1}))
    if work.training:
        setting = "runtime.min_train_workers" if runtime.min_train_workers else "runtime.train_workers"
        workers = runtime.min_train_workers or runtime.train_workers
        found.append(Need("training", setting, workers, training_worker(runtime)))
    if work.evaluation and runtime.use_gpu:
        found.append(Need("evaluation", "runtime.use_gpu", 1, {"GPU": 1}))
    return tuple(found)


def room(nodes: Sequence[Mapping[str, float]], resources: Mapping[str, float]) -> int:
    """Workers with such resources that fit on the nodes at the same time."""
    return sum(min(int(node.get(name, 0.0) / amount) for name, amount in resources.items()) for node in nodes)


def shortage(nodes: Sequence[Mapping[str, float]], wanted: Sequence[Need]) -> str | None:
    """The first need that the nodes cannot meet, in numbers; None where they meet all.

    Args:
        nodes: resources of each node by name, as Ray counts them.
        wanted: see `needs`.
    """
    for need in wanted:
        fit = room(nodes, need.resources)
        if fit < need.workers:
            each = " and ".join(_amount(name, amount) for name, amount in need.resources.items())
            has = ", ".join(f"{sum(node.get(name, 0.0) for node in nodes):g} {name}" for name in need.resources)
            setting = f" ({need.setting})" if need.setting else ""
            return (
                f"{need.what} takes {_count(need.workers, 'worker')} with {each} each{setting}, but "
                f"{_count(len(nodes), 'node')} with {has} in all {'has' if len(nodes) == 1 else 'have'} room for {fit}"
            )
    return None


def _amount(name: str, amount: float) -> str:
    return f"some {name}" if amount == _PLACE else f"{amount:g} {name}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def check(runtime: RuntimeConfig, work: Work) -> None:
    """Find out, before the first stage starts, whether the cluster that this process is connected to can run them.

    A cluster that adds nodes by itself (`runtime.autoscaling`) is not asked.

    Raises:
        CapacityError: it cannot; Ray would wait for ever.
    """
    if runtime.autoscaling:
        return
    found = shortage(_nodes(), needs(runtime, work))
    if found is None:
        return
    if runtime.ray_address is None:
        raise CapacityError(f"{found}; lower the setting, or raise runtime.num_cpus where CPUs are short")
    raise CapacityError(
        f"{found}; lower the setting, add nodes, or say runtime.autoscaling=true if the cluster adds them by itself"
    )


def curation_workers(runtime: RuntimeConfig, gpus: float = 0) -> int:
    """Workers of a curation stage at most: as the runtime says, else as many as there are GPUs for, else what leaves
    room for the stages beside it.

    Args:
        runtime: how the run is executed.
        gpus: of one worker, 0 to 1.
    """
    if runtime.curation_workers is not None:
        return runtime.curation_workers
    if gpus:
        return max(1, sum(_sharing(node, gpus) for node in _nodes()))
    fit = room(_nodes(), {"CPU": 1, **curation_place(runtime)})
    # A local cluster declares more CPUs than the machine has cores.
    return max(1, fit // 2 if runtime.ray_address is None else fit - 1)


def _sharing(node: Mapping[str, float], gpus: float) -> int:
    """Workers with a CPU and so much of one GPU that fit on a node; no worker has parts of two."""
    # A tenth goes into one ten times, whatever its binary digits say.
    each = int(1 / gpus + 1e-9)
    return min(int(node.get("GPU", 0.0)) * each, int(node.get("CPU", 0.0)))


def evaluation_workers(runtime: RuntimeConfig) -> int:
    """Workers of an evaluation at most: every GPU, else what leaves room for the stages beside it."""
    if not runtime.use_gpu:
        fit = room(_nodes(), {"CPU": 1})
        return max(1, fit // 2 if runtime.ray_address is None else fit - 1)
    fit = room(_nodes(), {"GPU": 1})
    # Nodes that training had may have left meanwhile: they come back for those who ask.
    return max(1, fit, runtime.train_workers if runtime.autoscaling else 1)


def has_gpus() -> bool:
    """Whether a node of the cluster has a GPU."""
    return room(_nodes(), {"GPU": 1}) > 0


def _nodes() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
