"""How a run is executed. A module of its own, so that it is in the code identity of no stage."""

from __future__ import annotations

from pydantic import Field

from lumina.config import Config


class RuntimeConfig(Config):
    """How a run is executed. Nothing in here may change what a stage computes."""

    ray_address: str | None = None
    """Address of a running Ray cluster; None starts one on this machine."""
    num_cpus: int | None = Field(default=None, ge=2)
    """Logical CPUs of the local Ray cluster; None takes twice the cores, and at least four."""
    train_workers: int = Field(default=2, ge=1)
    """Ray Train workers (the world size)."""
    use_gpu: bool = False
    """Give every training and evaluation worker one GPU."""
    threads_per_worker: int = Field(default=1, ge=1)
    """Torch threads of each worker."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Training steps between two engine checkpoints."""
    max_failures: int = Field(default=2, ge=0)
    """Worker-group failures after which a training stage gives up."""
    log_every: int = Field(default=10, ge=1)
    """Training steps between two logged points."""
