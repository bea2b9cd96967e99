"""Training stage config: its tasks and its optimizer. Light to import, so that a plan can check every stage."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from lumina.config import Config
from lumina.models.config import IMAGE_PATCH, NextDiTConfig, PatchSize


class TaskConfig(Config):
    """One of the tasks whose losses an optimizer step sums (paper Algorithm 1): some media at one scale."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name in metrics, and part of the address of the task's random numbers."""
    media: Literal["image", "video"]
    """What the task trains on."""
    patch: PatchSize
    """Latent (frames, rows, columns) of one token; images train at (1, 2, 2) alone."""
    time_shift: float = Field(gt=0)
    """Factor a of t = u / (u + a - a u): larger is noisier. Released: image 1, then 2, 4, 8 from fine to coarse."""
    batch_size: int = Field(ge=1)
    """Samples per optimizer step, over all workers."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Samples per forward pass of one worker (one more where the batch does not divide evenly); None takes all."""
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens per forward pass of one worker at most, which bounds its memory; a clip that has more is a pass of its
    own. None sets no bound."""
    ratio: float = Field(default=1.0, gt=0, le=1)
    """Share of the optimizer steps that the task takes part in, evenly spread; one task of a stage must have 1."""
    latent_frames: int | None = Field(default=None, ge=1)
    """Latent frames per clip, from a random window of longer clips, after the first latent is dropped; None takes
    every whole multiple of the temporal patch."""
    source_weights: Mapping[str, float] | None = None
    """How often a clip of a source appears in an epoch; sources that are not named appear once, 0 leaves one out."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.media == "image" and self.patch != IMAGE_PATCH:
            raise ValueError(f"task {self.name}: images train at patch {IMAGE_PATCH} only, got {self.patch}")
        if self.media == "image" and self.latent_frames not in (None, 1):
            raise ValueError(f"task {self.name}: an image has one latent frame, got {self.latent_frames}")
        if self.latent_frames is not None and self.latent_frames % self.patch[0]:
            raise ValueError(
                f"task {self.name}: latent_frames {self.latent_frames} must be a multiple of the temporal patch "
                f"{self.patch[0]}"
            )
        for source, weight in (self.source_weights or {}).items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"task {self.name}: weight of source {source!r} must be at least 0, got {weight}")
        return self

    def takes_part(self, step: int) -> bool:
        """Whether optimizer step `step`, counted from 0, trains on the task: the same on all workers."""
        return math.floor((step + 1) * self.ratio) > math.floor(step * self.ratio)

    @property
    def scale(self) -> str:
        """The patch size as the released code writes it, "<temporal>x<spatial>"."""
        return f"{self.patch[0]}x{self.patch[1]}"


class LoraConfig(Config):
    """Low-rank adapters: the stage trains two thin matrices beside each target, and nothing else."""

    rank: int = Field(default=16, ge=1)
    """Inner width of the adapters."""
    alpha: float = Field(default=16.0, gt=0)
    """The product of the two matrices is scaled by alpha / rank."""
    targets: tuple[Literal["wq", "wk", "wv", "wo", "w1", "w2", "w3"], ...] = ("wq", "wk", "wv", "wo")
    """Linear layers of every block that get one: wq, wk, wv and wo of the attention, w1 to w3 of the feed-forward
    layer."""

    @field_validator("targets")
    @classmethod
    def _some_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError(f"targets must name at least one layer, and each once, got {', '.join(value) or 'none'}")
        return value


class StageConfig(Config):
    """What every training stage has, whatever it trains: optimizer, average, randomness and arithmetic.

    Defaults are the released values (training script of the 256 px example).
    """

    steps: int = Field(ge=1)
    """Optimizer steps."""
    lr: float = Field(default=2e-4, gt=0)
    """Peak learning rate."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    lr_decay: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after the warm-up."""
    final_lr_fraction: float = Field(default=0.1, ge=0, le=1)
    """Fraction of the peak that a decaying learning rate ends at."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """What updates the weights. `muon`: matrices of the blocks by their orthogonalised momentum, which small networks
    learn faster by; all else by AdamW. Released: adamw."""
    muon_lr: float | None = Field(default=None, gt=0)
    """Peak learning rate of the matrices under `optimizer: muon`, whose updates are as large as AdamW's at the same
    rate; None: `lr`. It takes the course of `lr`."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's moments."""
    eps: float = Field(default=1e-15, gt=0)
    """AdamW's epsilon."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    grad_clip: float = Field(default=2.0, gt=0)
    """Largest global gradient norm."""
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the averaged weights per update."""
    ema_every: int = Field(default=10, ge=1)
    """Optimizer steps between two updates of the average."""
    ema_warmup: bool = True
    """Cap the decay of update n at (1 + n) / (10 + n), so that a short stage is not an average of its start."""
    vd_weight: float = Field(default=1.0, ge=0)
    """Weight of the velocity-direction loss, 1 - cos(prediction, target); 0 turns it off."""
    t_distribution: Literal["uniform", "lognormal"] = "uniform"
    """Distribution of u before the time shift; lognormal is the sigmoid of a normal number."""
    cluster_batches: int = Field(default=100, ge=1)
    """Batches within which clips are grouped by bucket and length, so that a batch holds clips of like cost; the
    batches themselves come in random order. 1 groups nothing. Released: 100."""
    compile: bool = False
    """Compile every block of the network (torch.compile): faster on GPUs, other last bits; needs a C++ compiler."""
    seed: int = Field(default=20, ge=0)
    """Key of every random number of the stage."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the network; weights, moments and losses are float32 either way."""
    zero_stage: int = 1
    """DeepSpeed ZeRO stage: 1 shards the optimizer's state, 2 the gradients as well, for which workers exchange them in
    every pass. With bf16, stage 1 adds up the gradients of a step's passes in bfloat16, stage 2 in float32."""
    communication_data_type: Literal["fp32", "bf16"] = "fp32"
    """Type in which workers add up their gradients; released: fp32. bf16 halves what they exchange, and rounds at every
    addition."""

    @field_validator("zero_stage")
    @classmethod
    def _supported(cls, value: int) -> int:
        if value == 3:
            raise ValueError(
                "zero_stage 3 is refused: with layers of their own per scale it silently adds the last step's "
                "gradients (DeepSpeed 0.19.8, partition_grads; tests/lumina/training/test_zero3.py). Use 1 or 2"
            )
        if value not in (1, 2):
            raise ValueError(f"zero_stage must be 1 or 2, got {value}")
        return value

    @field_validator("betas")
    @classmethod
    def _betas(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError(f"betas must lie in [0, 1), got {value}")
        return value

    @model_validator(mode="after")
    def _check_optimizer(self) -> Self:
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be at most steps {self.steps}")
        if self.muon_lr is not None and self.optimizer != "muon":
            raise ValueError(f"muon_lr is of optimizer: muon, not of {self.optimizer}; leave it out")
        return self

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of optimizer step `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.lr_decay == "constant":
            return self.lr
        progress = (step - self.warmup_steps) / max(1, self.steps - 1 - self.warmup_steps)
        left = 1 - progress if self.lr_decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return self.lr * (self.final_lr_fraction + (1 - self.final_lr_fraction) * left)


class TrainStageConfig(StageConfig):
    """One stage of the progressive training of a text-to-video model."""

    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    """The tasks of every step, in this order; their losses are summed."""
    model: NextDiTConfig
    """The network; a stage that starts from a checkpoint must describe the same one."""
    initialisation: Literal["released", "conditioned"] = "released"
    """Initial weights of a stage that starts from none: as released, where the caption's way begins with zeros, or for
    small networks and short runs with the caption heard from the first step."""
    prompt_drop: float = Field(default=0.2, ge=0, le=1)
    """Probability that a caption is dropped, which leaves the system prompt alone."""
    motion_drop: float = Field(default=0.3, ge=0, le=1)
    """Probability that a video's motion score is withheld."""
    image_still: float = Field(default=0.4, ge=0, le=1)
    """Probability that an image is given motion score 0; else it has none."""
    image_sources: Literal["all", "selected"] = "all"
    """Where a stage that trains on the videos of selected sources takes images from: all sources, for those of the best
    videos may have none; or the selected ones, and its image tasks are left out where these have none."""
    lora: LoraConfig | None = None
    """Train low-rank adapters; None trains all weights."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"task names must differ, got {', '.join(names)}")
        for task in self.tasks:
            try:
                self.model.check_patch(task.patch)
            except ValueError as error:
                raise ValueError(f"task {task.name}: {error}") from error
        if max(task.ratio for task in self.tasks) < 1:
            raise ValueError("no task has ratio 1: there would be steps without any; raise the largest to 1")
        return self

    @property
    def selected_media(self) -> Literal["image", "video"]:
        """What a source must have clips of to be selected: videos; images for a stage that trains on no video."""
        return "video" if any(task.media == "video" for task in self.tasks) else "image"

    @property
    def unrestricted_media(self) -> tuple[Literal["image", "video"], ...]:
        """The media that a selection of sources does not restrict."""
        return ("image",) if self.selected_media == "video" and self.image_sources == "all" else ()

    def of_selection(self, sources: Collection[str], images: bool) -> Self:
        """The stage as it trains on a selection of sources.

        Weights of other sources mean nothing then; and without `images` to take, image tasks beside those of videos are
        left out. Raises ValueError if no task is left that takes part in every step.
        """
        tasks = []
        for task in self.tasks:
            if task.media == "image" and self.selected_media == "video" and not images:
                continue
            if task.source_weights and task.media not in self.unrestricted_media:
                kept = {name: weight for name, weight in task.source_weights.items() if name in sources}
                tasks.append(task.model_copy(update={"source_weights": kept or None}))
            else:
                tasks.append(task)
        return type(self).model_validate(self.model_dump() | {"tasks": [task.model_dump() for task in tasks]})
