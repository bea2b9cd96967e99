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
    curation_workers: int | None = Field(default=None, ge=1)
    """Workers of a curation stage at most; None: one per GPU where a stage uses them, else half of the logical CPUs of
    a local cluster and all but one of another."""
    decode_timeout_s: float = Field(default=120.0, gt=0)
    """Seconds after which the decoding of one clip is given up: its row is quarantined as `decode_timeout`."""
    decode_memory_gb: float = Field(default=4.0, gt=0)
    """GiB that the process which decodes one clip may grow to: beyond, its row is quarantined as `decode_memory`."""
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
