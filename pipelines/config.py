"""The whole config of a text-to-video run: one section a stage, each checked by the class of the code it configures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from curation.latents import EncodeLatentsConfig
from curation.motion_scores import MotionConfig
from curation.page import CurationPageConfig
from curation.prompts import EncodeTextConfig
from curation.sources import TagConfig
from jobs.choose import ChooseConfig
from jobs.evaluate import EvaluationConfig
from jobs.export import ExportConfig
from jobs.study import StudyStageConfig
from lumina.config import Config
from lumina.evaluation.standard_scores import are_unlike
from lumina.evaluation.study_arms import KINDS, StudyConfig, check_patches, samplers, standard_arms
from lumina.models.config import NextDiTConfig
from lumina.sizes import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION, latent_frames
from lumina.training.sample_config import SampleConfig
from lumina.training.stage import TaskConfig, TrainStageConfig
from lumina.vbench.suite_config import VBenchSuite, check_available
from pipelines.base_config import BaseConfig, Weights
from pipelines.load import load
from pipelines.sound_config import SoundPipelineConfig


class WeightsConfig(Weights):
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


class TrainedConfig(TrainStageConfig):
    """One stage of progressive training, and the latents that it reads: what its weights depend on."""

    latents: tuple[str, ...] = Field(min_length=1)
    """Names from the `latents` section."""


class TrainConfig(TrainedConfig):
    """One stage of progressive training, and what it shows of itself on the way."""

    sample: SampleConfig | None = None
    """Clips on the way; None makes none. No part of the stage's identity: a stage that is in the store is not trained
    again to make clips."""

    @model_validator(mode="after")
    def _samples_in_time(self) -> Self:
        if self.sample is not None and self.sample.every > self.steps:
            raise ValueError(f"sample.every {self.sample.every} must be at most steps {self.steps}")
        return self

    @property
    def trained(self) -> TrainedConfig:
        """What the weights depend on."""
        return TrainedConfig.model_validate(self.model_dump(exclude={"sample"}))


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


class PipelineConfig(BaseConfig):
    """Everything that one run of text_to_video is made from."""

    pipeline: Literal["text_to_video"] = "text_to_video"
    """Which model the run trains: this, or `video_to_audio`."""
    weights: WeightsConfig = WeightsConfig()
    """Pretrained networks."""
    motion: MotionConfig = MotionConfig()
    """Score motion by optical flow."""
    tag: TagConfig
    """System prompts by source."""
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
    study: dict[str, StudyConfig] = Field(default_factory=dict)
    """Studies of the fine-tuned model, by name: sampler settings side by side, with what each costs. `schedules: {}`,
    `motion: {}` and `guidance: {}` compare as the paper does; another name needs arms."""
    after: dict[str, SubsetConfig] = Field(default_factory=dict)
    """Training stage -> `evaluate`, `choose`, `finetune` and `export` of its own, for more models than that of the last
    stage: their stages are named after it, `finetune@3`."""

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
        networks = ["motion", "encode_text", "encode_latents", *(f"encode_latents@{name}" for name in self.latents)]
        networks += ["scores", "caption", "embeddings", *(f"score@{name}" for name in self.scoring)]
        self._check_runtime([stage_name(key) for key in self.training()], networks)
        self._check_attention()
        self._check_generation()
        for branch in self.branches():
            self._check_choice(branch)
        self.studies()
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

    def studies(self) -> dict[str, StudyStageConfig]:
        """The config of each stage `study@<name>`, with all arms spelt out.

        Raises:
            ValueError: arms that cannot be sampled, or metrics that are not measured.
        """
        found = {}
        for name, study in self.study.items():
            try:
                found[name] = self._study(name, study)
            except ValidationError as error:
                said = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
                raise ValueError(f"study.{name}: {said}") from error
            except ValueError as error:
                raise ValueError(f"study.{name}: {error}") from error
        return found

    def _study(self, name: str, study: StudyConfig) -> StudyStageConfig:
        if not study.arms and name not in KINDS:
            raise ValueError(f"it has no arms: name some, or call it {', '.join(KINDS)} for those of the paper")
        base = self.evaluate.sampler
        videos = (task.patch for stage in self.train.values() for task in stage.tasks if task.media == "video")
        trained = sorted(set(videos))
        kind = next((one for one in KINDS if one == name), KINDS[0])
        arms = samplers(study.arms or standard_arms(kind, base, trained), base)
        check_patches(arms, trained, "training")
        given = {key: value for key in ("suite", "samples", "metrics") if (value := getattr(study, key)) is not None}
        settings = {**self.evaluate.on(self.runtime.device).model_dump(), **given}
        made = {"study": name, "arms": arms, "reference": study.reference or next(iter(arms))}
        score = study.score
        if score is None:
            measured = set(StudyStageConfig.model_validate({**settings, **made}).measured())
            usable = self.choose.scores is None and set(self.choose.score) <= measured
            score = self.choose.score if usable and not are_unlike(self.choose.score) else {}
        return StudyStageConfig.model_validate({**settings, **made, "score": score})

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


PIPELINES: dict[str, type[BaseConfig]] = {
    "text_to_video": PipelineConfig,
    "video_to_audio": SoundPipelineConfig,
}
"""The config of each kind of run, by its key `pipeline`; the first is the default."""


def load_config(name_or_path: str, overrides: Sequence[str] = (), *, needs_clips: bool = True) -> BaseConfig:
    """Read a shipped config by name, or a YAML file, with dotted overrides; see `pipelines.load.load`.

    With `needs_clips` False, a config that leaves the clips to its user is good without them: to reckon with.
    """
    return load(PIPELINES, name_or_path, overrides, {} if needs_clips else {"data": {"manifest": "clips.csv"}})
