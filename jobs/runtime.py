"""How a run is executed. A module of its own, so that it is in the code identity of no stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from curation.object_stores import ObjectStores
from lumina.models.config import AttentionKernel, Recompute
from lumina.training.loop_config import LoopConfig


class RuntimeConfig(LoopConfig):
    """How a run is executed. Nothing in here may change what a stage computes.

    The type of a network that is left to its device (`auto`) is written into its stage's config, and so is part of its
    identity.
    """

    ray_address: str | None = None
    """Address of a running Ray cluster; None starts one on this machine."""
    ray_start_s: float = Field(default=180.0, gt=0, le=3600)
    """Seconds that Ray may take to start on this machine, or the cluster at `ray_address` to answer."""
    autoscaling: bool = False
    """The cluster at `ray_address` adds nodes by itself: what it lacks when a run starts is waited for, not refused.
    Needs `curation_workers`, since nodes that are not there yet cannot be counted."""
    num_cpus: int | None = Field(default=None, ge=2, le=65536)
    """Logical CPUs of the local Ray cluster; None takes twice the cores, and at least four."""
    max_parallel: int = Field(default=2, ge=1, le=1024)
    """Stages that are computed at the same time, where none needs another; raise it on a cluster with room for more."""
    curation_workers: int | None = Field(default=None, ge=1, le=65536)
    """Workers of a curation stage at most; None: as many as the GPUs hold where a stage uses them
    (`curation_gpus`), else half of the logical CPUs of a local cluster and all but one of another."""
    curation_use_gpu: bool | None = None
    """Give every worker of a curation stage that runs a network one GPU; None as `use_gpu` says."""
    curation_gpus: float | Mapping[str, float] = 1.0
    """GPUs of a worker of a curation stage that uses them, at most 1: with 0.125 eight workers share one, each with a
    network, a decoder and a CPU of its own. For all such stages, or by stage or kind of stage
    (`{encode_latents@videos-256: 0.125, motion: 0.25}`; what is not named takes a whole one). Ray shares out none of
    the GPU's memory: `lumina cost` tells what the VAE takes."""
    curation_resource: str | None = None
    """Custom resource that marks the nodes for curation without GPUs, so that decoding stays away from the CPUs of GPU
    nodes. None takes any node."""
    decode_timeout_s: float = Field(default=120.0, gt=0, le=86400)
    """Seconds after which the decoding of one clip is given up: its row is quarantined as `decode_timeout`."""
    decode_memory_gb: float = Field(default=4.0, gt=0, le=1024)
    """GiB that the process which decodes one clip may grow to: beyond, its row is quarantined as `decode_memory`."""
    object_stores: ObjectStores = Field(default_factory=ObjectStores)
    """Which servers hold the media in `s3://` and `gs://`; what they hold is known by its content."""
    max_failed_share: float = Field(default=0.5, ge=0, le=1)
    """Share of a curation stage's rows that may fail alike. If more are quarantined for one reason, and 20 at least,
    the stage stops and asks: the machine or a setting is likelier at fault than so many clips. 1 never stops."""
    train_workers: int = Field(default=2, ge=1, le=65536)
    """Ray Train workers (the world size)."""
    min_train_workers: int | None = Field(default=None, ge=1)
    """Workers with which training goes on when nodes are lost; it takes more again, up to `train_workers`, when they
    come back. None waits for all of them. Another number of workers changes last bits."""
    train_placement: Literal["pack", "spread"] = "pack"
    """Training workers on as few nodes as hold them (pack), or on as many as there are (spread)."""
    use_gpu: bool = False
    """Give every training and evaluation worker one GPU."""
    threads_per_worker: int = Field(default=1, ge=1, le=1024)
    """Torch threads of each worker."""
    activation_checkpointing: Recompute | Mapping[str, Recompute] = "none"
    """What the backward pass computes again instead of keeping it: nothing, all but the results of matrix products and
    attention (per-op), all but the results of attention (attention), or everything inside a block (full). For all
    training stages, or by stage (`{train@3: per-op, train@4: attention}`). Changes memory and time, and no number."""
    attention: AttentionKernel = "auto"
    """Kernel of attention on GPUs, in training and evaluation: torch's choice (auto), FlashAttention 2 (fa2) or 3 (fa3:
    its own wheel, Hopper GPUs), or cuDNN's (cudnn). Another kernel changes last bits."""
    max_failures: int = Field(default=2, ge=0)
    """Failures of the worker group with no new checkpoint between them, after which a training stage gives up."""

    @field_validator("curation_gpus")
    @classmethod
    def _shares(cls, value: float | Mapping[str, float]) -> float | Mapping[str, float]:
        for name, share in {"": value}.items() if isinstance(value, float) else value.items():
            if not 0 < share <= 1:
                raise ValueError(
                    f"a worker takes more than 0 and at most 1 GPU, got {share:g}{name and f' for {name}'}"
                )
        return value

    def checkpointing(self, stage: str) -> Recompute:
        """What the backward pass of a training stage computes again."""
        if isinstance(self.activation_checkpointing, str):
            return self.activation_checkpointing
        return self.activation_checkpointing.get(stage, "none")

    def gpus_of(self, stage: str) -> float:
        """GPUs of one worker of a curation stage that uses them."""
        if isinstance(self.curation_gpus, float):
            return self.curation_gpus
        return self.curation_gpus.get(stage, self.curation_gpus.get(stage.partition("@")[0], 1.0))

    @property
    def curates_on_gpu(self) -> bool:
        """Whether the networks of curation stages run on GPUs."""
        return self.use_gpu if self.curation_use_gpu is None else self.curation_use_gpu

    @property
    def device(self) -> str:
        """Kind of device that training and evaluation run on, as torch names it."""
        return "cuda" if self.use_gpu else "cpu"

    @property
    def curation_device(self) -> str:
        """Kind of device that the networks of curation stages run on, as torch names it."""
        return "cuda" if self.curates_on_gpu else "cpu"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.autoscaling and self.curation_workers is None:
            raise ValueError(
                "autoscaling needs curation_workers: nodes that are not there yet cannot be counted; say how many "
                "workers a curation stage may have"
            )
        if self.attention != "auto" and not self.use_gpu:
            raise ValueError(f"attention {self.attention} is a kernel of GPUs: set use_gpu: true, or attention: auto")
        if self.min_train_workers is not None and self.min_train_workers > self.train_workers:
            raise ValueError(
                f"min_train_workers {self.min_train_workers} must be at most train_workers {self.train_workers}"
            )
        return self
