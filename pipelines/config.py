"""The whole config of a text-to-video run: one section a stage, each checked by the class of the code it configures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from curation.decode import ProbeConfig
from curation.latents import EncodeLatentsConfig
from curation.manifest_formats import IngestConfig
from curation.manifests import read_manifest
from curation.motion_scores import MotionConfig
from curation.operator import load_operator
from curation.page import CurationPageConfig
from curation.prompts import EncodeTextConfig
from curation.rules import score_columns
from curation.selection import SelectConfig
from curation.shots import ShotsConfig
from curation.sources import TagConfig
from jobs.choose import ChooseConfig
from jobs.evaluate import EvaluationConfig
from jobs.export import ExportConfig
from jobs.runtime import RuntimeConfig
from jobs.shapes import RenderShapesConfig
from lumina.config import Config
from lumina.models.config import NextDiTConfig
from lumina.sizes import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION, latent_frames
from lumina.training.stage import TaskConfig, TrainStageConfig
from lumina.vbench.suite_config import VBenchSuite, check_available
from pipelines.engine.code_drift import DriftPolicy
from pipelines.errors import did_you_mean
from pipelines.load import load

ZOO = Path(__file__).parent.parent / "lumina" / "zoo"


class DataConfig(Config):
    """Where raw clips come from: exactly one of the two."""

    shapes: RenderShapesConfig | None = None
    """Render the Shapes world."""
    manifest: Path | None = None
    """A CSV, JSON lines or Parquet file (see `ingest.format`), or a folder of clips."""

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


class WeightsConfig(Config):
    """Pretrained networks: a local directory, `hf:owner/name` of the hub, or `zoo:<name>` for small shipped ones."""

    vae: str = "zoo:vae"
    """A CogVideoX autoencoder."""
    text_encoder: str = "zoo:text_encoder"
    """A Gemma-2 model with its tokenizer."""
    unimatch: str = "zoo:unimatch"
    """A UniMatch flow network: a directory, or a released `.pth` file under its released name."""

    transformer: str | None = None
    """What the first training stage starts from: a transformer of ours (`transformer` and `transformer_ema` of a
    training stage, the output of `lumina convert`), or an exported checkpoint; None starts from nothing."""

    def resolve(self) -> dict[str, str]:
        """Return name to local directory or model of the hub, `zoo:` names resolved; what is not given is left out."""
        return {name: _zoo(value) for name, value in self if value is not None}


class TrainConfig(TrainStageConfig):
    """One stage of progressive training, and the latents that it reads."""

    latents: tuple[str, ...] = Field(min_length=1)
    """Names from the `latents` section."""


class ScoringConfig(Config):
    """A curation stage that measures clips, from a file of its own: the stage `score@NAME`."""

    operator: str = Field(pattern=r"^curation(\.\w+)+:\w+$")
    """`module:NAME` of its `curation.operator.Operator`, which reads `clips` (of `probe`), `motion` or `tag`."""
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


class SubsetConfig(Config):
    """Choice of sources and fine-tuning after a training stage that is not the last: sections as at the top."""

    evaluate: EvaluationConfig
    """How the checkpoints are judged."""
    choose: ChooseConfig = ChooseConfig()
    """The rule by which the best subset of sources is chosen."""
    finetune: TrainConfig
    """Fine-tuning on the chosen subset."""
    export: ExportConfig
    """The directory that `lumina generate` reads."""


@dataclass(frozen=True)
class Branch:
    """What follows one training stage: evaluation of every system prompt, choice, fine-tuning, export."""

    after: str
    """Name of the training stage in `train`."""
    prefix: str
    """What stands before the names of its sections in the config: nothing for the last stage, else `after.3.`."""
    evaluate: EvaluationConfig
    choose: ChooseConfig
    finetune: TrainConfig
    export: ExportConfig

    @property
    def variant(self) -> str:
        """What stands behind the names of its stages: nothing for the last stage, else `@3`."""
        return f"@{self.after}" if self.prefix else ""

    def evaluation(self, source: str) -> str:
        """Name of the stage that evaluates the system prompt of a source."""
        return f"evaluate@{self.after}.{source}" if self.prefix else f"evaluate@{source}"


class PipelineConfig(Config):
    """Everything that one run of the DAG is made from."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the run; `latest/<name>` in the store points to the newest one."""
    data: DataConfig
    """Raw clips."""
    weights: WeightsConfig = WeightsConfig()
    """Pretrained networks."""
    ingest: IngestConfig = IngestConfig()
    """Read the manifest."""
    split: ShotsConfig | None = None
    """Cut clips into their shots; None leaves each clip whole."""
    probe: ProbeConfig = ProbeConfig()
    """Find out what each file holds."""
    motion: MotionConfig = MotionConfig()
    """Score motion by optical flow."""
    scoring: dict[str, ScoringConfig] = Field(default_factory=dict)
    """Further stages that measure clips, by name; what they measure may be a rule of `select.scores`."""
    tag: TagConfig
    """System prompts by source."""
    select: SelectConfig = SelectConfig()
    """Keep or filter clips."""
    curation_page: CurationPageConfig = CurationPageConfig()
    """The page that shows what was kept, what was set aside, and why."""
    encode_text: EncodeTextConfig = EncodeTextConfig()
    """Text features."""
    latents: dict[str, EncodeLatentsConfig] = Field(min_length=1)
    """Encodings of the clips, by name."""
    model: NextDiTConfig
    """The network that all training stages share."""
    train: dict[str, TrainConfig] = Field(min_length=1)
    """Progressive training stages, in this order: each starts from the weights of the one before."""
    evaluate: EvaluationConfig = EvaluationConfig()
    """How checkpoints are judged."""
    choose: ChooseConfig = ChooseConfig()
    """The rule by which the best subset of sources is chosen."""
    finetune: TrainConfig
    """Fine-tuning on the chosen subset."""
    export: ExportConfig = ExportConfig()
    """The directory that `lumina generate` reads."""
    after: dict[str, SubsetConfig] = Field(default_factory=dict)
    """Training stage -> `evaluate`, `choose`, `finetune` and `export` of its own, for more models than that of the last
    stage: their stages are named after it, `finetune@3`."""
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

    @model_validator(mode="before")
    @classmethod
    def _share_the_model(cls, data: Any) -> Any:
        """The network is written once: training stages that do not name one take the shared one."""
        if not isinstance(data, dict) or "model" not in data:
            return data

        def shared(section: Any, *below: str) -> Any:
            """The section with the model at a path below it; a star there is every key."""
            if not isinstance(section, dict):
                return section
            if not below:
                return {"model": data["model"], **section}
            names = section if below[0] == "*" else {below[0]} & section.keys()
            return {**section, **{name: shared(section[name], *below[1:]) for name in names}}

        return shared(shared(shared(data, "train", "*"), "finetune"), "after", "*", "finetune")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.data.shapes is not None and self.ingest != IngestConfig():
            raise ValueError("ingest tells how a manifest is read, but this config renders its clips (data.shapes)")
        *earlier, last = self.train
        for name in self.after:
            if name not in earlier:
                hint = "the sections at the top are for the last stage" if name == last else "it is no stage of train"
                raise ValueError(f"after names {name!r}: {hint}; others are {', '.join(earlier) or 'none'}")
        for name, stage in self.training().items():
            for latents in stage.latents:
                if latents not in self.latents:
                    raise ValueError(f"{name}.latents names {latents!r}; there are {', '.join(self.latents)}")
            if stage.model != self.model:
                raise ValueError(f"{name}.model differs from model: one network goes through all stages")
            for task in stage.tasks:
                self._check_task(name, stage, task)
        first = next(iter(self.train))
        if self.train[first].lora is not None and self.weights.transformer is None:
            raise ValueError(
                f"train.{first}.lora adapts weights, but the stage starts from none: name some with weights.transformer"
            )
        self._check_runtime()
        self._check_attention()
        self._check_generation()
        for branch in self.branches():
            self._check_choice(branch)
        return self

    def branches(self) -> tuple[Branch, ...]:
        """What follows the training stages, in their order; that of the last one is always there."""
        *earlier, last = self.train
        found = [(name, f"after.{name}.", self.after[name]) for name in earlier if name in self.after]
        branches = [Branch(name, key, one.evaluate, one.choose, one.finetune, one.export) for name, key, one in found]
        return (*branches, Branch(last, "", self.evaluate, self.choose, self.finetune, self.export))

    def training(self) -> dict[str, TrainConfig]:
        """All training stages by the key that configures them, those of fine-tuning last."""
        finetuning = {f"{branch.prefix}finetune": branch.finetune for branch in self.branches()}
        return {**{f"train.{name}": stage for name, stage in self.train.items()}, **finetuning}

    def drift_policy(self, recompute: Sequence[str] = ()) -> DriftPolicy:
        """What becomes of outputs from which nothing but code differs; stages in `recompute` are computed again."""
        return DriftPolicy(self.code_drift, self.expensive_s, frozenset(recompute))

    def example_prompt(self) -> str:
        """A prompt that the trained model may know something about."""
        rows = [] if self.data.manifest is None else read_manifest(self.data.manifest, self.ingest).rows
        return next((row.caption for row in rows if row.caption), "A red circle moves to the right.")

    def _check_runtime(self) -> None:
        """A stage that is misspelt would keep all activations, or take whole GPUs."""
        training = [stage_name(key) for key in self.training()]
        networks = ["motion", "encode_text", "encode_latents", *(f"encode_latents@{name}" for name in self.latents)]
        networks += [f"score@{name}" for name in self.scoring]
        for setting, kind, known in (
            ("activation_checkpointing", "training stage", training),
            ("curation_gpus", "stage with a network", networks),
        ):
            named = getattr(self.runtime, setting)
            for name in named if isinstance(named, Mapping) else ():
                if name not in known:
                    hint = did_you_mean(name.replace(".", "@"), known, f"there are {', '.join(known)}")
                    raise ValueError(f"runtime.{setting} names {name!r}, which is no {kind}; {hint}")

    def _check_attention(self) -> None:
        """A kernel that takes half precision alone would end a stage once it starts."""
        kernel = self.runtime.attention
        if kernel == "auto":
            return
        wide = [f"{name}.precision" for name, stage in self.training().items() if stage.precision == "fp32"]
        wide += [
            f"{branch.prefix}evaluate.dtype"
            for branch in self.branches()
            if branch.evaluate.on(self.runtime.device).dtype == "float32"
        ]
        if wide:
            raise ValueError(
                f"runtime.attention {kernel} takes bfloat16, but float32 is set, or the default, in {', '.join(wide)}: "
                "change these, or take auto"
            )

    def _check_task(self, name: str, stage: TrainConfig, task: TaskConfig) -> None:
        """The latents that a stage reads must hold what its task trains on, in pieces that its patch size divides."""
        where = f"{name}: task {task.name}"
        readable = [latents for latents in stage.latents if task.media in self.latents[latents].media]
        if not readable:
            raise ValueError(
                f"{where} trains on {task.media}s, but {name}.latents ({', '.join(stage.latents)}) holds none; "
                f"add a latents section with media: [{task.media}]"
            )
        if task.batch_size < self.runtime.train_workers:
            raise ValueError(
                f"{where} has batch_size {task.batch_size}, but runtime.train_workers is {self.runtime.train_workers}: "
                "every worker needs a sample; raise the one or lower the other"
            )
        frames, rows, columns = task.patch
        for latents in readable:
            config = self.latents[latents]
            for width, height in config.sizes:
                if height // SPATIAL_COMPRESSION % rows or width // SPATIAL_COMPRESSION % columns:
                    raise ValueError(f"{where}: patch {task.patch} does not divide the {width}x{height} of {latents}")
            needed = task.latent_frames or frames
            if task.media == "video" and latent_frames(config.min_frames) - 1 < needed:
                raise ValueError(
                    f"{where} needs {needed} latents after the first, but latents.{latents}.min_frames "
                    f"{config.min_frames} lets clips through that have {latent_frames(config.min_frames) - 1}; "
                    f"the least is {needed * TEMPORAL_COMPRESSION + 1}"
                )

    def _check_generation(self) -> None:
        """Clips can be generated only at scales that were trained, and only at the speed that was learnt."""
        for branch in self.branches():
            names = list(self.train)
            stages = [self.train[name] for name in names[: names.index(branch.after) + 1]]
            trained = {task.patch for stage in stages for task in stage.tasks}
            rates = {
                name: self.latents[name].fps
                # What is generated from: earlier stages may have learnt other speeds.
                for stage in (stages[-1], branch.finetune)
                for name in stage.latents
                if "video" in self.latents[name].media
            }
            for section, config in (("evaluate", branch.evaluate), ("export", branch.export)):
                where = f"{branch.prefix}{section}"
                for _, patch in config.sampler.patches:
                    if patch not in trained:
                        raise ValueError(
                            f"{where}.sampler.patches uses {patch}, which no task of train has; "
                            f"trained are {', '.join(map(str, sorted(trained)))}"
                        )
                for name, fps in rates.items():
                    if fps is not None and fps != config.fps:
                        raise ValueError(
                            f"{where}.fps is {config.fps:g}, but the model learns from latents.{name} at {fps:g} fps, "
                            "and cannot be told another rate: make them equal"
                        )

    def _check_choice(self, branch: Branch) -> None:
        if isinstance(branch.evaluate.suite, VBenchSuite):
            check_available(branch.evaluate.suite, f"{branch.prefix}evaluate.suite")
        if branch.choose.scores is not None:
            return
        absent = sorted(set(branch.choose.score) - set(branch.evaluate.measured()))
        if absent:
            raise ValueError(
                f"{branch.prefix}choose.score names {', '.join(absent)}, which evaluate does not measure; "
                f"it measures {', '.join(branch.evaluate.measured())}"
            )


def stage_name(key: str) -> str:
    """Training stage of a key of `PipelineConfig.training`: `train.1` is `train@1`, `after.3.finetune` `finetune@3`."""
    if key.startswith("after."):
        after, _, section = key.removeprefix("after.").rpartition(".")
        return f"{section}@{after}"
    return key.replace(".", "@", 1)


def load_config(name_or_path: str, overrides: Sequence[str] = (), *, needs_clips: bool = True) -> PipelineConfig:
    """Read a shipped config by name, or a YAML file, with dotted overrides; see `pipelines.load.load`.

    With `needs_clips` False, a config that leaves the clips to its user is good without them: to reckon with.
    """
    return load(PipelineConfig, name_or_path, overrides, {} if needs_clips else {"data": {"manifest": "clips.csv"}})


def _zoo(value: str) -> str:
    return str(ZOO / value.removeprefix("zoo:")) if value.startswith("zoo:") else value
