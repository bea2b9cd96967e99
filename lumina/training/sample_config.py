"""Samples of a training: settings of the clips that a stage makes on its way, and the plan that comes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pydantic import Field, field_validator, model_validator

from lumina.config import Config
from lumina.evaluation.metrics import METRICS
from lumina.evaluation.prompts import ListSuite, Prompt, ShapesSuite, build
from lumina.flow_matching.schedules import Sampler, SamplerConfig

IN_NO_DIGEST = True
"""Clips on the way inform: no stage's digest covers them, so none is trained again for their sake."""

FOLDER = "samples"
"""Of a training stage's work directory and of its output: `step-00000500/` for each step, with clips and strips."""
STEP_FILE = "samples.json"
"""In the folder of a step, put last: its clips and their figures. Without it the step's clips are still being made."""


class SampleConfig(Config):
    """Clips of fixed prompts and noises from the averaged weights while a stage trains. They change no bit of it.

    Size and frame rate are those of `evaluate`; a stage that comes before any training on videos makes pictures.
    """

    every: int = Field(ge=1)
    """Training steps between two looks; there is one before the first step and one at the end in any case."""
    prompts: tuple[str, ...] | ShapesSuite = ShapesSuite(count=4)
    """Texts, or the first prompts of the Shapes world (`{kind: shapes, count: 8}`), whose truth is known: the half that
    the choice of sources sees."""
    seeds: tuple[int, ...] = (0,)
    """Of the initial noises: a clip of every prompt from each. A prompt's noise is the same at every step, in every run
    and under every system prompt."""
    sampler: Sampler | None = None
    """How clips are sampled; None is as `evaluate` does."""
    sources: tuple[str, ...] | None = None
    """Whose system prompts are put before the prompts; None is those of all sources."""
    batch_size: int = Field(default=4, ge=1)
    """Clips that a worker makes together; it changes last bits of the clips."""

    @field_validator("prompts")
    @classmethod
    def _distinct(cls, prompts: tuple[str, ...] | ShapesSuite) -> tuple[str, ...] | ShapesSuite:
        if not isinstance(prompts, ShapesSuite):
            if not prompts:
                raise ValueError("there are no prompts: write some, or take {kind: shapes, count: 4}")
            ListSuite(choose=prompts, report=prompts)
        return prompts

    @field_validator("seeds", "sources")
    @classmethod
    def _some_once(cls, values: tuple[int | str, ...] | None) -> tuple[int | str, ...] | None:
        if values is not None and (not values or len(set(values)) < len(values)):
            raise ValueError(f"name at least one, and each once; got {', '.join(map(str, values)) or 'none'}")
        return values

    def plan_prompts(self) -> tuple[Prompt, ...]:
        """The prompts, in the order in which they are made."""
        if isinstance(self.prompts, ShapesSuite):
            # Every beginning of the half is balanced, but a suite has two at least.
            return build(self.prompts, "choose", 0, ()).prompts
        texts = ListSuite(choose=self.prompts, report=self.prompts)
        by_text = {prompt.caption: prompt for prompt in build(texts, "choose", 0, ()).prompts}
        return tuple(by_text[text] for text in self.prompts)


@dataclass(frozen=True)
class SampledClip:
    """One clip of a step, whatever the step."""

    source: str
    prompt: Prompt
    seed: int

    @property
    def name(self) -> str:
        """Of its files, without their endings."""
        return f"{self.source}--{self.prompt.prompt_id}--{self.seed}"


class SamplePlan(Config):
    """All that the samples of a stage depend on besides its weights."""

    every: int
    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    sampler: SamplerConfig
    system_prompts: Mapping[str, str]
    """Source -> text, in the order in which they are made."""
    num_frames: int
    height: int
    width: int
    fps: float
    batch_size: int
    vae: str
    """Directory."""
    text_encoder: str

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.prompts or not self.system_prompts:
            raise ValueError("samples need a prompt and a system prompt")
        return self

    @property
    def key(self) -> str:
        """Of what a step's clips depend on: clips with another key are of another plan."""
        text = self.model_dump_json(exclude={"every"})
        return hashlib.sha256(text.encode()).hexdigest()

    def due(self, step: int, steps: int) -> bool:
        """Whether clips are made after so many of `steps` steps."""
        return step == steps or step % self.every == 0

    def batches(self) -> list[tuple[SampledClip, ...]]:
        """What is made together: the same for any number of workers."""
        size = self.batch_size
        return [
            tuple(SampledClip(source, prompt, seed) for prompt in self.prompts[at : at + size])
            for source in self.system_prompts
            for seed in self.seeds
            for at in range(0, len(self.prompts), size)
        ]

    def metrics(self) -> tuple[str, ...]:
        """What is measured of the clips: pictures are looked at only."""
        if self.num_frames < 2:
            return ()
        known = all(prompt.truth is not None for prompt in self.prompts)
        return tuple(name for name, metric in METRICS.items() if known or metric.needs != "truth")


def step_folder(step: int) -> str:
    """Name of the folder of a step's clips."""
    return f"step-{step:08d}"
