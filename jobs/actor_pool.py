"""Actor pool: items handed to Ray actors as they become ready, each result as it comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from jobs import capacity

if TYPE_CHECKING:
    from jobs.runtime import RuntimeConfig

Item = TypeVar("Item")


@dataclass(frozen=True)
class Finished(Generic[Item]):
    """One item, and what came of it."""

    item: Item
    value: Any = None
    error: BaseException | None = None
    """Why there is no value: the actor raised it, or died with the item three times."""


def hand_out(
    worker: type, arguments: Sequence[Any], todo: deque[Item], runtime: RuntimeConfig, workers: int | None = None
) -> Iterator[Finished[Item]]:
    """Call `make` of actors with each item, and yield it when it is finished.

    Only ready actors are given one: other stages share the cluster, and an item given to an actor that still waits for
    a CPU could wait for a stage that waits for this one.

    Args:
        worker: class with the methods `ready` and `make`.
        arguments: of its constructor.
        todo: items; it is emptied.
        runtime: every GPU of the cluster gets an actor, or every CPU that is free for one.
        workers: at most; None is as many as there is room for.
    """
    if not todo:
        return
    import ray

    cpus, gpus = (0, 1) if runtime.use_gpu else (1, 0)
    # A worker may die any number of times, an item takes three of them at most.
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=2)(worker)
    most = min(workers or len(todo), capacity.evaluation_workers(runtime), len(todo))
    actors = [remote.remote(*arguments) for _ in range(most)]
    running: dict[Any, tuple[Any, Item | None]] = {actor.ready.remote(): (actor, None) for actor in actors}
    unfinished = len(todo)
    try:
        while unfinished:
            [finished], _ = ray.wait(list(running), num_returns=1)
            actor, item = running.pop(finished)
            value, error = None, None
            try:
                value = ray.get(finished)
            except ray.exceptions.RayError as caught:
                if item is None:
                    raise
                error = caught
            if todo:
                following = todo.popleft()
                running[actor.make.remote(following)] = (actor, following)
            if item is not None:
                unfinished -= 1
                yield Finished(item, value, error)
    finally:
        for actor in actors:
            ray.kill(actor)
