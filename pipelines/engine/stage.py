"""Stages and pipelines as declarations: nothing here runs or imports a job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from lumina.config import Config
from pipelines.engine.tolerance import BITWISE, Tier
from pipelines.errors import PipelineError

VARIANT = r"[A-Za-z0-9_.\-]+"
"""What may stand after the `@` of a stage's name."""
_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.\-]*(@{VARIANT})?")
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class RegisteredModel:
    """How a stage's checkpoint stands in MLflow's model registry."""

    alias: str
    """Under which the newest one is found."""
    what: str
    """One sentence."""
    use: str
    """A command; `{checkpoint}` stands for the stage's output directory."""


@dataclass(frozen=True)
class Execution:
    """How a stage is executed, compared and shown: no part of its identity."""

    locations: Mapping[str, Path] = field(default_factory=dict)
    """Name -> external path that the job reads, and that one of the stage's `facts` identifies."""
    media_root: str = ""
    """Directory against which relative clip URIs resolve."""
    media_root_from: str | None = None
    """Instead: input key whose output directory it is."""
    uses_cluster: bool = True
    """Whether the job talks to Ray; False lets it start before the cluster is up."""
    tier: Tier = BITWISE
    """How alike another computation of it has to be to count as a reproduction."""
    model: RegisteredModel | None = None
    """For a checkpoint that people will look for."""
    aside: Config | None = None
    """Settings of what the job makes beside its output, such as samples of a training, or of how it makes it, such as
    where a server is."""
    system_prompts: str = ""
    """File of the output with the system prompts, to be mirrored in MLflow's prompt registry; empty for none."""


@dataclass(frozen=True)
class Stage:
    """One step of the DAG: its identity, from which its recipe is made, and how it is executed."""

    name: str
    """Unique; `kind` or `kind@variant`, e.g. `train@2`."""
    entry: str
    """`module:function` with the signature `(JobContext) -> JobResult`; imported only when the stage executes."""
    config: Config
    """Identity config: whatever changes the output. Runtime options are another type and never enter here."""
    operator: str = ""
    """`module:NAME` of the object a generic entry applies; its code counts as the stage's own."""
    version: int = 1
    """Raised by hand when something that the code closure cannot see changes what the stage computes."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Key the job uses -> name of the upstream stage."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Name -> local file or directory, or model of the hub (`hf:org/name@revision`), identified by content."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """External input files (identified by content) and directories (by relative path, size and time)."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Name -> digest of what the output depends on besides, e.g. a manifest's rows and the files they list."""
    depends: tuple[str, ...] = ()
    """Third-party distributions whose major.minor version enters the recipe."""
    execution: Execution = Execution()
    """No part of the identity."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise PipelineError(f"stage name {self.name!r}: expected letters, digits, `_.-`, at most one `@variant`")
        for label, reference in (("entry", self.entry), ("operator", self.operator)):
            if (reference or label == "entry") and not _REFERENCE.fullmatch(reference):
                raise PipelineError(f"stage {self.name}: {label} {reference!r} is not of the form `module:name`")
        media = self.execution.media_root_from
        if media is not None and media not in self.inputs:
            raise PipelineError(
                f"stage {self.name}: media_root_from={media!r} is none of its inputs {list(self.inputs)}"
            )

    @property
    def kind(self) -> str:
        """The name without its variant: `train` of `train@2`."""
        return self.name.partition("@")[0]


@dataclass(frozen=True)
class Pipeline:
    """A named, checked DAG of stages.

    Raises:
        PipelineError: two stages share a name, an input names no stage, or the graph has a cycle.
    """

    name: str
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for stage in self.stages:
            if stage.name in seen:
                raise PipelineError(f"pipeline {self.name}: two stages are named {stage.name!r}")
            seen.add(stage.name)
        for stage in self.stages:
            for key, upstream in stage.inputs.items():
                if upstream not in seen:
                    raise PipelineError(
                        f"pipeline {self.name}: input {key!r} of stage {stage.name!r} names {upstream!r}, "
                        f"which is none of its stages: {', '.join(sorted(seen))}"
                    )
        _ = self.order

    @cached_property
    def order(self) -> tuple[Stage, ...]:
        """Stages such that each comes after its inputs; among equals, in the order of declaration."""
        position = {stage.name: index for index, stage in enumerate(self.stages)}
        sorter = TopologicalSorter({stage.name: set(stage.inputs.values()) for stage in self.stages})
        try:
            sorter.prepare()
        except CycleError as error:
            raise PipelineError(f"pipeline {self.name}: cycle {' -> '.join(error.args[1])}") from error
        ordered: list[Stage] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready(), key=position.__getitem__)
            ordered += [self.by_name[name] for name in ready]
            sorter.done(*ready)
        return tuple(ordered)

    @cached_property
    def by_name(self) -> Mapping[str, Stage]:
        """Stages by name."""
        return {stage.name: stage for stage in self.stages}

    def until(self, target: str | None) -> Pipeline:
        """The pipeline cut down to `target` and what it needs; `None` keeps everything."""
        if target is None:
            return self
        if target not in self.by_name:
            raise PipelineError(f"no stage {target!r}; there are: {', '.join(stage.name for stage in self.order)}")
        needed, queue = {target}, [target]
        while queue:
            for upstream in self.by_name[queue.pop()].inputs.values():
                if upstream not in needed:
                    needed.add(upstream)
                    queue.append(upstream)
        return Pipeline(self.name, tuple(stage for stage in self.stages if stage.name in needed))
