"""The base of the whole config of a run: what every DAG has, whichever model it trains."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from curation.caption_config import CaptionConfig
from curation.decode import ProbeConfig
from curation.duplicate_clusters import DuplicatesConfig
from curation.manifest_formats import IngestConfig
from curation.manifests import read_manifest
from curation.operator import load_operator
from curation.rules import score_columns
from curation.scores import ScoresConfig
from curation.selection import SelectConfig
from curation.shots import ShotsConfig
from jobs.runtime import RuntimeConfig
from jobs.shapes import RenderShapesConfig
from lumina.config import Config
from lumina.hub import dataset_path
from pipelines.engine.code_drift import DriftPolicy
from pipelines.errors import did_you_mean

ZOO = Path(__file__).parent.parent / "lumina" / "zoo"


class DataConfig(Config):
    """Where raw clips come from: exactly one of the two."""

    shapes: RenderShapesConfig | None = None
    """Render the Shapes world."""
    manifest: Path | None = None
    """A CSV, JSON lines or Parquet file (see `ingest.format`), shards of a WebDataset or of Parquet, or a folder of
    clips; `hf://datasets/owner/name` is what the cache of the hub has of a dataset."""

    @field_validator("manifest", mode="before")
    @classmethod
    def _of_the_hub(cls, given: Any) -> Any:
        return dataset_path(given) if isinstance(given, str) and given.startswith("hf://") else given

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.shapes is None and self.manifest is None:
            raise ValueError(
                "no clips are named; add e.g. -o data.manifest=clips.csv (a CSV, .jsonl or .parquet file, or a folder)"
            )
        if self.shapes is not None and self.manifest is not None:
            raise ValueError(
                "this config renders clips (data.shapes), so it takes no data.manifest; the config `folder` does"
            )
        return self


class Weights(Config):
    """Pretrained networks: a local directory, `hf:owner/name` of the hub, or `zoo:<name>` for small shipped ones."""

    def resolve(self) -> dict[str, str]:
        """Return name to local directory or model of the hub, `zoo:` names resolved; what is not given is left out."""
        return {name: resolve(value) for name, value in self if value is not None}


class ScoringConfig(Config):
    """A curation stage that measures clips, from a file of its own: the stage `score@NAME`."""

    operator: str = Field(pattern=r"^curation(\.\w+)+:\w+$")
    """`module:NAME` of its `curation.operator.Operator`, which reads `clips` (of `probe`), `motion`, `tag` or
    `caption`."""
    settings: Any = Field(default_factory=dict, validate_default=True)
    """The operator's own settings."""
    weights: dict[str, str] = Field(default_factory=dict)
    """Pretrained networks that it loads and `weights` does not name."""

    @field_validator("settings", mode="after")
    @classmethod
    def _of_operator(cls, value: Any, info: ValidationInfo) -> Config | None:
        if "operator" not in info.data:
            return None  # which is the mistake that is told
        try:
            config: Config = load_operator(info.data["operator"]).config.model_validate(value)
        except (ImportError, TypeError) as error:
            raise ValueError(f"the operator cannot be had: {error}") from error
        return config

    def columns(self) -> tuple[str, ...]:
        """The numbers that it measures of each clip, which `select.scores` may name."""
        return score_columns(load_operator(self.operator).schema)


class BaseConfig(Config):
    """What every run is made from."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the run; `latest/<name>` in the store points to the newest one."""
    data: DataConfig
    """Raw clips."""
    weights: Weights
    """Pretrained networks."""
    ingest: IngestConfig = IngestConfig()
    """Read the manifest."""
    split: ShotsConfig | None = None
    """Cut clips into their shots; None leaves each clip whole."""
    probe: ProbeConfig = ProbeConfig()
    """Find out what each file holds."""
    scoring: dict[str, ScoringConfig] = Field(default_factory=dict)
    """Further stages that measure clips, by name; what they measure may be a rule of `select.scores`."""
    scores: ScoresConfig = ScoresConfig()
    """Scorers of clips, in one stage `scores`; without any that is on there is no such stage."""
    duplicates: DuplicatesConfig | None = None
    """Find near-duplicates; None does not look for them."""
    caption: CaptionConfig | None = None
    """Caption clips by a vision-language model; None has no such stage."""
    select: SelectConfig = SelectConfig()
    """Keep or filter clips."""
    runtime: RuntimeConfig = RuntimeConfig()
    """How the run is executed; changes no result."""
    store: str = "runs"
    """Directory of all outputs, or `s3://...`, `gs://...`."""
    store_cache: str | None = None
    """Working copy of a store in a bucket; None is a folder below `$XDG_CACHE_HOME/lumina/stores`."""
    tracking_uri: str | None = None
    """MLflow tracking server, or a database such as `sqlite:///mlflow.db`; None takes the environment variable
    `MLFLOW_TRACKING_URI`, and without it an SQLite file in the store."""
    min_free_gb: float = Field(default=2.0, ge=0)
    """Free disk space that must be there before any work starts."""
    code_drift: Literal["recompute", "keep", "refuse"] | None = None
    """What becomes of the output of a stage of which nothing but code has changed: compute it again, keep it and say so
    wherever it is shown, or stop there. None goes by cost: it is kept where computing it took more than
    `expensive_s`. `lumina run --recompute STAGE` computes it in any case."""
    expensive_s: float = Field(default=900.0, ge=0)
    """Seconds beyond which a stage is too expensive to be computed again for a change of code alone."""

    @model_validator(mode="after")
    def _reads_what_there_is(self) -> Self:
        if self.data.shapes is not None and self.ingest != IngestConfig():
            raise ValueError("ingest tells how a manifest is read, but this config renders its clips (data.shapes)")
        if self.select.near_duplicates is not None and self.duplicates is None:
            raise ValueError("select.near_duplicates needs to know them; add -o duplicates={}")
        return self

    def drift_policy(self, recompute: Sequence[str] = ()) -> DriftPolicy:
        """What becomes of outputs from which nothing but code differs; stages in `recompute` are computed again."""
        return DriftPolicy(self.code_drift, self.expensive_s, frozenset(recompute))

    def example_prompt(self) -> str:
        """A prompt that the trained model may know something about."""
        rows = [] if self.data.manifest is None else read_manifest(self.data.manifest, self.ingest).rows
        return next((row.caption for row in rows if row.caption), "A red circle moves to the right.")

    def _check_runtime(self, training: Collection[str], networks: Collection[str]) -> None:
        """A stage that is misspelt would keep all activations, or take whole GPUs."""
        for setting, kind, known in (
            ("activation_checkpointing", "training stage", training),
            ("curation_gpus", "stage with a network", networks),
        ):
            named = getattr(self.runtime, setting)
            for name in named if isinstance(named, Mapping) else ():
                if name not in known:
                    hint = did_you_mean(name.replace(".", "@"), known, f"there are {', '.join(known)}")
                    raise ValueError(f"runtime.{setting} names {name!r}, which is no {kind}; {hint}")


def resolve(value: str) -> str:
    """The directory of a `zoo:` name; what is none stays as it is."""
    return str(ZOO / value.removeprefix("zoo:")) if value.startswith("zoo:") else value
