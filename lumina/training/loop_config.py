"""Settings of the training loop that change nothing of what it computes: checkpoints, reports, and reading ahead."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from lumina.config import Config
from lumina.models.config import Recompute

METRICS_FILE = "metrics.jsonl"
"""What the loop reports: a JSON object per line, with `step`, the optimizer steps done."""


class LoopConfig(Config):
    """What `runtime` passes to the loop as it is."""

    checkpoint_every: int | None = Field(default=None, ge=1)
    """Training steps between two engine checkpoints, which a stage continues from after a failure. None goes by time:
    they come as soon as `checkpoint_every_s` and `checkpoint_share` allow."""
    checkpoint_every_s: float = Field(default=60.0, ge=0)
    """Seconds between two engine checkpoints at least, where they go by time."""
    checkpoint_share: float = Field(default=0.03, gt=0, le=1)
    """Largest share of a training stage's time in which an engine checkpoint is being written, where they go by time:
    one that took 30 s is followed by the next after 1,000 s."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest engine checkpoints that stay while a stage trains."""
    milestone_every: int | None = Field(default=None, ge=1)
    """Training steps between two milestones: their engine checkpoints stay while the stage trains, and their weights
    are part of its output. None keeps the last weights only."""
    deterministic: bool = False
    """Train on GPUs with algorithms that give the same bits every time, which are slower. CPUs give the same bits in
    any case."""
    prefetch: int = Field(default=4, ge=0, le=1024)
    """Micro-batches that each training worker prepares ahead."""
    reading_threads: int = Field(default=4, ge=1, le=1024)
    """Threads of each training worker that read and prepare them, as many at a time as `prefetch` allows: the more, the
    longer a single read takes, as on network storage."""
    validate_every: int = Field(default=500, ge=1)
    """Training steps between two looks at held-out clips; there is one at the end in any case."""
    validation_clips: int = Field(default=16, ge=0)
    """Held-out clips per source and media that a look takes; 0 takes none."""
    peak_tflops: float | None = Field(default=None, gt=0, le=1e6)
    """Peak of one training worker's device, in 10^12 floating-point operations a second, by which FLOP utilisation is
    told; None looks up known GPUs."""
    log_every: int = Field(default=10, ge=1)
    """Training steps between two logged points."""


class LoopSettings(LoopConfig):
    """A loop on one worker."""

    work: Path
    """Checkpoints and `metrics.jsonl` are kept here, on storage that all workers share."""
    activation_checkpointing: Recompute = "none"
    """What the backward pass computes again; see `MultiScaleNextDiT.checkpoint_blocks`."""
    device: str = "cpu"
    """Torch name of the device that the network runs on."""
