"""Rendezvous of training workers that are all on one machine, through a file.

The store by which torch has workers find each other listens on all addresses, and answers everybody. Between machines
there is no other.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend


@dataclass
class OneMachine(TorchConfig):
    """What Ray Train sets up for torch."""

    folder: str = ""
    """Where the file lies, while the workers run."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Sets up the process group."""
        return _OneMachineBackend


class _OneMachineBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: OneMachine) -> None:
        worker_group.execute(_set_torch_distributed_env_vars)
        gpu = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        # A group that is started again must not find what the last one left.
        path = Path(backend_config.folder) / f"rendezvous-{uuid.uuid4().hex}"
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend="nccl" if gpu else "gloo",
                    world_rank=rank,
                    world_size=len(worker_group),
                    init_method=f"file://{path}",
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(len(worker_group))
            ]
        )
