"""Two recorded runs, stage by stage: what each holds, and whether the other holds the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    recipe: Mapping[str, Any] | None
    """None if the store holds no record of it any more."""
    manifest: Manifest | None
    """None if the run did not finish the stage, or its output is gone."""
    output: Output | None
    """None without a manifest."""
    drift: str = ""
    """Which code of the run differs from that which computed the output."""
    problem: str = ""
    """Why there is no manifest although the stage was finished; else empty."""


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
    fingerprint, digest, state = entry.fingerprint, entry.digest, entry.state
    if not entry.path or fingerprint is None:
        return Held(state, fingerprint, digest, None, None, None)
    path, file = store.root / entry.path, store.name(store.directory(name, fingerprint) / "MANIFEST.json")
    try:
        text = store.record_text(name, fingerprint)
        if text is None:
            return Held(state, fingerprint, digest, None, None, None, problem=f"{file} is gone")
        manifest = Manifest.from_json(text)
    except ValueError as error:
        return Held(state, fingerprint, digest, None, None, None, problem=f"{file} cannot be read: {error}")
    problem = ""
    if manifest.fingerprint != fingerprint:
        return Held(
            state, fingerprint, digest, None, None, None, problem=f"{file} is of fingerprint {manifest.fingerprint}"
        )
    if store.output(manifest) != path:
        problem = f"{store.name(path)} was replaced by {manifest.attempt}, which a later run computed"
    elif not store.has_output(manifest):
        problem = f"{store.name(path)} is gone"
    elif manifest.digest != digest:
        problem = f"{file} says digest {manifest.digest}, the run recorded {digest}; see `lumina verify`"
    if problem:
        return Held(state, fingerprint, digest, manifest.recipe, None, None, problem=problem)
    return Held(state, fingerprint, digest, manifest.recipe, manifest, Output(store, manifest), entry.drift)


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
    if a is None or b is None:
        held = b if a is None else a
        assert held is not None  # noqa: S101  (each name comes from one of the two runs)
        digests = (None, held.digest) if a is None else (held.digest, None)
        states = (None, held.state) if a is None else (held.state, None)
        seconds = (None, _seconds(held)) if a is None else (_seconds(held), None)
        return StageDiff(name, "only in B" if a is None else "only in A", False, states, digests, seconds)
    same_recipe = a.fingerprint is not None and a.fingerprint == b.fingerprint
    changes = () if same_recipe or a.recipe is None or b.recipe is None else recipe_changes(a.recipe, b.recipe)
    return StageDiff(
        name,
        _verdict(a, b, same_recipe, changes),
        a.output is not None and b.output is not None and str(a.output) == str(b.output),
        (a.state, b.state),
        (a.digest, b.digest),
        (_seconds(a), _seconds(b)),
        changes,
        tuple(f"{side}: {held.problem}" for side, held in (("A", a), ("B", b)) if held.problem),
        tuple(f"{side}: {held.drift}" for side, held in (("A", a), ("B", b)) if held.drift),
    )


def _seconds(held: Held) -> float | None:
    return held.manifest.seconds if held.manifest else None


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
