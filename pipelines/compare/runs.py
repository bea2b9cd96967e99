"""Recorded runs side by side, stage by stage: what each holds, and whether the other holds the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipelines.engine.recipe_diff import Change, by_inputs_alone, recipe_changes
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.output import Output
from pipelines.engine.store.run_record import RunRecord, StageEntry
from pipelines.engine.store.store import Store

Verdict = Literal[
    "equal", "same content", "follows", "differs", "not reproduced", "only in A", "only in B", "unfinished"
]
"""`same content`: another recipe gave the same digest. `follows`: only the inputs differ. `not reproduced`: the same
recipe gave another digest, which is worse than a difference that somebody made."""

DIVERGED: tuple[Verdict, ...] = ("differs", "not reproduced", "unfinished")


@dataclass(frozen=True)
class Held:
    """One stage as a run holds it."""

    state: str
    fingerprint: str | None
    digest: str | None
    recipe: Mapping[str, Any] | None = None
    """None if the store holds no record of it any more."""
    output: Output | None = None
    """None if the run did not finish the stage, or its output is gone."""
    drift: str = ""
    """Which code of the run differs from that which computed the output."""
    problem: str = ""
    """Why there is no output although the stage was finished; else empty."""

    @property
    def manifest(self) -> Manifest | None:
        """Of its output."""
        return self.output.manifest if self.output else None

    @property
    def seconds(self) -> float | None:
        """What it took when it was computed."""
        return self.output.manifest.seconds if self.output else None


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    run: str
    name: str
    started: str
    seconds: float
    """How long the run took, by the clock."""
    store: str
    """What `--store` takes."""
    stages: Mapping[str, Held]
    """In the order in which they run."""
    in_bucket: bool = False
    """Whether the outputs are no files of this machine."""


@dataclass(frozen=True)
class StageDiff:
    """One stage of both runs."""

    name: str
    verdict: Verdict
    shared: bool
    """Whether both runs hold the very same output."""
    states: tuple[str | None, str | None]
    digests: tuple[str | None, str | None]
    seconds: tuple[float | None, float | None]
    """What the stage took when it was computed, maybe by an earlier run."""
    changes: tuple[Change, ...] = ()
    """Parts in which the recipes differ, inputs included."""
    problems: tuple[str, ...] = ()
    """What could not be compared."""
    drift: tuple[str, ...] = ()
    """In which run the output was kept though code differed, and which code."""


def read_side(store: Store, record: RunRecord) -> Side:
    """A recorded run with the records of its stages; what the store has lost since is named in `problem`."""
    stages = {name: _held(store, name, entry) for name, entry in record.stages.items()}
    return Side(record.run, record.name, record.started, record.seconds, store.uri, stages, store.in_bucket)


def _held(store: Store, name: str, entry: StageEntry) -> Held:
    held = Held(entry.state, entry.fingerprint, entry.digest)
    if not entry.path or entry.fingerprint is None:
        return held
    path, file = store.root / entry.path, store.name(store.directory(name, entry.fingerprint) / "MANIFEST.json")
    try:
        text = store.record_text(name, entry.fingerprint)
        if text is None:
            return replace(held, problem=f"{file} is gone")
        manifest = Manifest.from_json(text)
    except ValueError as error:
        return replace(held, problem=f"{file} cannot be read: {error}")
    if manifest.fingerprint != entry.fingerprint:
        return replace(held, problem=f"{file} is of fingerprint {manifest.fingerprint}")
    held = replace(held, recipe=manifest.recipe)
    if store.output(manifest) != path:
        return replace(
            held, problem=f"{store.name(path)} was replaced by {manifest.attempt}, which a later run computed"
        )
    if manifest.files and not store.sizes(path):
        return replace(held, problem=f"{store.name(path)} is gone")
    if manifest.digest != held.digest:
        told = f"{file} says digest {manifest.digest}, the run recorded {held.digest}; see `lumina verify`"
        return replace(held, problem=told)
    return replace(held, output=Output(store, manifest), drift=entry.drift)


def compare_stages(a: Side, b: Side) -> tuple[StageDiff, ...]:
    """Every stage of either run, each after those that it reads."""
    upstream = _upstream(a), _upstream(b)
    order: dict[str, None] = {}

    def place(name: str, waiting: frozenset[str]) -> None:
        if name in order or name in waiting:
            return
        for edges in upstream:
            for earlier in edges.get(name, ()):
                place(earlier, waiting | {name})
        order[name] = None

    for name in (*a.stages, *b.stages):
        place(name, frozenset())
    return tuple(_stage(name, a.stages.get(name), b.stages.get(name)) for name in order)


def _upstream(side: Side) -> dict[str, tuple[str, ...]]:
    """The stages whose digests a stage's recipe names. Records keep digests, not names."""
    by_digest: dict[str, list[str]] = {}
    found = {}
    for name, held in side.stages.items():
        wanted = (held.recipe or {}).get("inputs", {})
        found[name] = tuple(dict.fromkeys(one for key in sorted(wanted) for one in by_digest.get(wanted[key], ())))
        if held.digest is not None:
            by_digest.setdefault(held.digest, []).append(name)
    return found


def _stage(name: str, a: Held | None, b: Held | None) -> StageDiff:
    states = (a.state if a else None, b.state if b else None)
    digests = (a.digest if a else None, b.digest if b else None)
    seconds = (a.seconds if a else None, b.seconds if b else None)
    if a is None or b is None:
        return StageDiff(name, "only in B" if a is None else "only in A", False, states, digests, seconds)
    same_recipe = a.fingerprint is not None and a.fingerprint == b.fingerprint
    changes = () if same_recipe or a.recipe is None or b.recipe is None else recipe_changes(a.recipe, b.recipe)
    return StageDiff(
        name,
        _verdict(a, b, same_recipe, changes),
        a.output is not None and b.output is not None and str(a.output) == str(b.output),
        states,
        digests,
        seconds,
        changes,
        tuple(f"{side}: {held.problem}" for side, held in (("A", a), ("B", b)) if held.problem),
        tuple(f"{side}: {held.drift}" for side, held in (("A", a), ("B", b)) if held.drift),
    )


def _verdict(a: Held, b: Held, same_recipe: bool, changes: Sequence[Change]) -> Verdict:
    if a.digest is None or b.digest is None:
        return "unfinished"
    if a.digest == b.digest:
        return "equal" if same_recipe else "same content"
    if same_recipe:
        return "not reproduced"
    return "follows" if changes and by_inputs_alone(changes) else "differs"


def first_divergence(a: Side, b: Side, stages: Sequence[StageDiff]) -> StageDiff | None:
    """The first stage whose content differs for a reason of its own; None if all digests are the same.

    A stage whose recipe differs and whose digest does not has changed nothing, so it is passed over. A stage that only
    one run has counts in its place if a stage of both reads it; else it can have caused nothing, and comes last.
    """
    read = {
        earlier
        for edges in (_upstream(a), _upstream(b))
        for name, upstream in edges.items()
        if name in a.stages and name in b.stages
        for earlier in upstream
    }
    alone = [stage for stage in stages if stage.verdict in ("only in A", "only in B")]
    for stage in stages:
        only = stage.verdict in ("only in A", "only in B")
        if stage.verdict in DIVERGED or (only and stage.name in read):
            return stage
    return alone[0] if alone else next((stage for stage in stages if stage.verdict == "follows"), None)
