"""Job context and result, what a job gets and gives back: the one contract between the DAG above and the jobs below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jobs.runtime import RuntimeConfig


@dataclass(frozen=True)
class InputRef:
    """A finished stage that this job reads."""

    stage: str
    path: Path
    """The attempt directory that the stage's manifest names."""
    digest: str


@dataclass(frozen=True)
class EarlierOutput:
    """A finished output of the same stage from which nothing but the content of the inputs differs."""

    fingerprint: str
    """64 hex digits."""
    fetch: Callable[[Callable[[str], bool]], Path]
    """fetch(wanted): its directory, with those of its files on this machine whose path in there is wanted."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluated (checkpoint, system prompt) pair: one flat MLflow run."""

    name: str
    params: Mapping[str, str | int | float]
    metrics: Mapping[str, float]
    artifacts: tuple[str, ...] = ()
    """Paths relative to the job's `out`."""


@dataclass(frozen=True)
class JobContext:
    """Everything a job may depend on."""

    stage: str
    """Full stage name, e.g. `encode_latents@2`."""
    fingerprint: str
    operator: str
    """`module:NAME` of the object the job applies, for jobs that are generic; else empty."""
    config: Any
    """The stage's identity config, an instance of the config class the job documents."""
    runtime: RuntimeConfig
    inputs: Mapping[str, InputRef]
    weights: Mapping[str, str]
    """Name to local directory (or hub id) of pretrained weights, e.g. {"vae": ..., "text_encoder": ...}."""
    media_root: str
    """Directory against which relative clip URIs resolve."""
    out: Path
    """Empty directory of this attempt: all outputs go here."""
    work: Path
    """Scratch that belongs to the fingerprint: survives a kill, removed once the stage is committed."""
    progress: Callable[[int, int, str], None]
    """progress(done, total, unit): called as often as convenient."""
    log_metrics: Callable[[Mapping[str, float], int], None]
    """log_metrics(metrics, step): a point of a curve; cheap, never fails, ordered by step."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Files and folders from outside the store, e.g. the user's manifest."""
    earlier: tuple[EarlierOutput, ...] = ()
    """Where rows may be that need not be computed again, the newest first."""
    aside: Any = None
    """Settings of what the job makes beside its output, such as samples of a training, or of how it makes it: no part
    of its identity."""
    log_image: Callable[[str, str, int], None] = lambda key, file, step: None
    """log_image(key, file, step): a picture of a series; `file` is relative to `work` now and to `out` in the end."""


@dataclass(frozen=True)
class Job:
    """A job with what a pipeline has to know of it; a decorator of its function: `@partial(Job, tier="metric")`."""

    function: Callable[[JobContext], JobResult]
    weights: tuple[str, ...] = ()
    """Names of the pretrained networks that it loads, as in the section `weights` of a config."""
    depends: tuple[str, ...] = ()
    """Third-party distributions whose numbers its output is: their major.minor version is part of its identity."""
    tier: Literal["bitwise", "metric"] = "bitwise"
    """How alike an output has to be that another machine computes: the same bits, or figures as good."""
    reads_media: bool = False
    """Whether it opens media files: it gets their root, and the decoders' versions are part of its identity."""
    uses_cluster: bool = True
    """Whether it talks to Ray; False lets it start before the cluster is up."""
    version: int = 1
    """Raised by hand when something else than its code changes what it computes."""

    def __call__(self, ctx: JobContext) -> JobResult:
        """Run it."""
        return self.function(ctx)

    @property
    def entry(self) -> str:
        """`module:function`."""
        return f"{self.function.__module__}:{self.function.__name__}"


@dataclass(frozen=True)
class JobResult:
    """What the manifest records about a finished job."""

    kind: Literal["rows", "checkpoint", "files"]
    digest: str
    """`rows256-add/1:<n>:<hex>`, or `sha256:<hex>`: independent of layout, worker count and time."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """For rows: `in`, `ok`, and one entry `quarantined/<reason>` or `filtered/<reason>` each; they add up to `in`."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Summary numbers of the stage's MLflow run."""
    evaluations: tuple[Evaluation, ...] = ()
    artifacts: tuple[str, ...] = ()
    """Files under `out`, relative, worth showing in MLflow."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """For a checkpoint: name -> directory under `out` of each set of weights, so that anyone can compute its digest."""
    taken: Mapping[str, int] = field(default_factory=dict)
    """Fingerprint of an earlier output -> number of rows that were taken from it instead of computed again."""
