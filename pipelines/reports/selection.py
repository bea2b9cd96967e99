"""Selection report: clips that each rule removed of each source, and what another policy would keep.

Clips are counted in batches; of single ones only the examples are read.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipelines.engine.store.run_record import RunRecord, StageEntry, run_ids
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError, StoreError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

log = logging.getLogger(__name__)

STAGE = "select"
EXAMPLES = 3
"""Clips shown of each change."""
ABSENT = "not given"
"""Stands for the value of a setting that a policy does not have."""
_BETWEEN = "\n"
BySource = Mapping[str, int]


@dataclass(frozen=True)
class RuleCount:
    """What one rule did."""

    rule: str
    """`min_fps`, `score:flow_mag_mean`; `min_area@videos` is a rule of one latents set."""
    first: BySource
    """Clips that it removed: it was the first that they failed."""
    failed: BySource
    """Clips that fail it, removed or not (a clip kept out of one set may go to another)."""


@dataclass(frozen=True)
class Selection:
    """One run's selection. `clips` = `aside` + the `first` of all rules + `kept`, for each source."""

    run: str
    name: str
    started: str
    policy_id: str
    clips: BySource
    aside: BySource
    """Set aside before the selection."""
    rules: tuple[RuleCount, ...]
    """The one that removed most is first."""
    kept: BySource
    kept_for: Mapping[str, BySource]
    """Kept clips that a latents set may take; empty where no set has rules of its own."""


@dataclass(frozen=True)
class Example:
    """One clip that another policy treats otherwise."""

    clip_id: str
    uri: str
    source: str
    detail: str
    """What was measured, by the policy that removes it."""


@dataclass(frozen=True)
class Change:
    """Clips that one policy keeps, and a rule of the other removes."""

    rule: str
    clips: BySource
    examples: tuple[Example, ...]
    """Of the lowest clip ids."""


@dataclass(frozen=True)
class SelectionDiff:
    """Two selections, the older first."""

    old: Selection
    new: Selection
    settings: Mapping[str, tuple[Any, Any]]
    """Key to its value in the old and the new policy; `ABSENT` where it has none."""
    newly_kept: tuple[Change, ...]
    """By the old policy's rule."""
    newly_removed: tuple[Change, ...]
    """By the new policy's rule."""
    only_old: int
    """Clips that the new selection does not know."""
    only_new: int


@dataclass(frozen=True)
class _Decided:
    """The output of a run's stage `select`."""

    run: str
    rows: ds.Dataset
    config: Mapping[str, Any]


def as_dict(found: Selection | SelectionDiff) -> dict[str, Any]:
    """Plain data for `--json`."""
    return asdict(found)


def read_selection(store: Store, record: RunRecord) -> Selection:
    """Count a recorded run's selection. PipelineError if it has none."""
    decided = _open(store, record)
    with _reading(decided.run):
        return _count(record, decided.rows)


def read_difference(store: Store, old: RunRecord, new: RunRecord) -> SelectionDiff:
    """Compare the selections of two recorded runs. PipelineError if one has none."""
    before, after = _open(store, old), _open(store, new)
    with _reading(f"{before.run} or {after.run}"):
        first, second = _fates(before.rows), _fates(after.rows)
        both = first.join(second, "clip_id", join_type="inner", left_suffix="_old", right_suffix="_new")
        return SelectionDiff(
            _count(old, before.rows),
            _count(new, after.rows),
            _settings(before.config, after.config),
            newly_kept=_changes(both, "new", "old", before.rows),
            newly_removed=_changes(both, "old", "new", after.rows),
            only_old=len(first) - len(both),
            only_new=len(second) - len(both),
        )


def previous(store: Store, record: RunRecord) -> RunRecord | None:
    """The newest older run of the same name whose selection is another one; None if there is none."""
    own = record.stages.get(STAGE)
    found = []
    for run in run_ids(store.objects):
        try:
            other = RunRecord.load(store.objects, run)
        except StoreError as error:
            log.debug("%s: skipped: %s", run, error)
            continue
        if other.name == record.name and (other.started, other.run) < (record.started, record.run):
            found.append(other)
    for other in sorted(found, key=lambda other: (other.started, other.run), reverse=True):
        entry = other.stages.get(STAGE)
        if entry and entry.fingerprint != (own and own.fingerprint) and _is_kept(store, entry):
            return other
    return None


def _is_kept(store: Store, entry: StageEntry) -> bool:
    """Whether the output that a run recorded is still the one in the store."""
    manifest = store.lookup(STAGE, entry.fingerprint) if entry.fingerprint else None
    return manifest is not None and entry.path is not None and store.output(manifest) == store.root / entry.path


def _open(store: Store, record: RunRecord) -> _Decided:
    from curation.operator import dataset

    entry = record.stages.get(STAGE)
    if entry is None or entry.path is None or entry.fingerprint is None:
        raise PipelineError(f"run {record.run} has no selection: its stage {STAGE} is not done")
    with _reading(record.run):
        manifest, problem = store.look(STAGE, entry.fingerprint)
        if manifest is None:
            raise ValueError(problem or f"{store.name(store.root / entry.path)} is gone")
        return _Decided(record.run, dataset(store.fetch(manifest) / "data"), manifest.recipe["config"])


@contextmanager
def _reading(run: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise StoreError(f"run {run}: its selection cannot be read: {error}") from error


def _count(record: RunRecord, rows: ds.Dataset) -> Selection:
    import pyarrow as pa
    import pyarrow.compute as pc

    counts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    """(what is counted, rule or set) -> source -> clips."""
    policy_id = ""
    columns = ["source", "keep", "failed_rules", "policy_id", "stages", "stage_failed"]
    for batch in rows.to_batches(columns=columns):
        lists = {name: pc.binary_join(batch[name], _BETWEEN) for name in ("failed_rules", "stages")}
        plain = pa.table({name: batch[name] for name in ("source", "keep", "policy_id")} | lists)
        for group in plain.group_by(plain.column_names).aggregate([([], "count_all")]).to_pylist():
            source, policy_id, number = group["source"], group["policy_id"], group["count_all"]
            failed = group["failed_rules"].split(_BETWEEN) if group["failed_rules"] else []
            fate = "kept" if group["keep"] else "" if failed else "aside"
            for what in (("clips", ""), (fate, ""), *(("first", rule) for rule in failed[:1])):
                counts[what][source] += number
            for rule in dict.fromkeys(failed):
                counts["failed", rule][source] += number
            for name in group["stages"].split(_BETWEEN) if group["stages"] else ():
                counts["kept_for", name][source] += number
        sets = batch.filter(pc.is_valid(batch["stage_failed"]))
        for source, own, text in zip(
            *(sets[n].to_pylist() for n in ("source", "failed_rules", "stage_failed")), strict=True
        ):
            of_sets = [f"{rule}@{name}" for name, failed in json.loads(text).items() for rule in failed["rules"]]
            # A clip that no set takes has these among its own.
            for rule in set(of_sets) - set(own):
                counts["failed", rule][source] += 1
    rules = [
        RuleCount(rule, dict(counts["first", rule]), dict(count))
        for (what, rule), count in [*counts.items()]
        if what == "failed"
    ]
    return Selection(
        run=record.run,
        name=record.name,
        started=record.started,
        policy_id=policy_id,
        clips=dict(counts["clips", ""]),
        aside=dict(counts["aside", ""]),
        rules=tuple(sorted(rules, key=lambda one: (-sum(one.first.values()), -sum(one.failed.values()), one.rule))),
        kept=dict(counts["kept", ""]),
        kept_for={name: dict(count) for (what, name), count in sorted(counts.items()) if what == "kept_for"},
    )


def _fates(rows: ds.Dataset) -> pa.Table:
    """Of each clip: `keep`, and `by`, what removed it if it is not kept."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = rows.to_table(columns=["clip_id", "source", "keep", "reason", "reason_stage", "failed_rules"])
    first = pc.binary_join(pc.list_slice(table["failed_rules"], 0, 1), "")
    earlier = pc.binary_join_element_wise(table["reason"], " (", table["reason_stage"], ")", "")
    by = pc.if_else(pc.equal(first, ""), earlier, first)
    return pa.table({"clip_id": table["clip_id"], "source": table["source"], "keep": table["keep"], "by": by})


def _changes(both: pa.Table, keeping: str, removing: str, removed: ds.Dataset) -> tuple[Change, ...]:
    """Clips that one selection keeps and the other does not, by the latter's rule; its rows have the details."""
    import pyarrow.compute as pc

    by, source = f"by_{removing}", f"source_{removing}"
    lost = both.filter(pc.and_not(both[f"keep_{keeping}"], both[f"keep_{removing}"]))
    clips: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for group in lost.group_by([by, source]).aggregate([([], "count_all")]).to_pylist():
        clips[group[by]][group[source]] += group["count_all"]
    changes = []
    for rule, count in sorted(clips.items(), key=lambda item: (-item[1].total(), item[0])):
        own = lost.filter(pc.equal(lost[by], rule))
        lowest = pc.select_k_unstable(own, min(EXAMPLES, len(own)), [("clip_id", "ascending")])
        wanted = pc.field("clip_id").isin(own["clip_id"].take(lowest).to_pylist())
        found = removed.to_table(columns=["clip_id", "uri", "source", "detail"], filter=wanted)
        examples = tuple(Example(**row) for row in found.sort_by("clip_id").to_pylist())
        changes.append(Change(rule, dict(count), examples))
    return tuple(changes)


def _settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    # The pipeline's own list of latents sets comes and goes with the first rule of one: the rule tells enough.
    skip = set() if old.get("encoded") and new.get("encoded") else {"encoded"}
    before, after = (_flat({key: policy[key] for key in policy if key not in skip}) for policy in (old, new))
    changed = {}
    for key in sorted(before.keys() | after.keys()):
        pair = before.get(key, ABSENT), after.get(key, ABSENT)
        # A version that does not know a setting has it switched off; in a source's rules the two differ.
        off = key.partition(".")[0] != "sources" and set(map(str, pair)) == {ABSENT, "None"}
        if pair[0] != pair[1] and not off:
            changed[key] = pair
    return changed


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, child in value.items():
        if isinstance(child, Mapping):
            flat |= _flat(child, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = child
    return flat
