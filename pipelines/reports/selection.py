"""Selection report: clips that each rule removed of each source, and what another policy would keep.

Clips are counted in batches; of single ones only the examples are read.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from pipelines.engine.store.run_record import RunRecord, StageEntry, run_ids
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError, StoreError
from pipelines.reports.recorded_rows import id_ranges, reading, recorded_rows

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

    from curation.operator import Shard

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
    clips: dict[str, int]
    """Source to number."""
    examples: list[Example]
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


def read_selection(store: Store, record: RunRecord) -> Selection:
    """Count a recorded run's selection. PipelineError if it has none."""
    rows, _ = _open(store, record)
    with reading(record.run, "selection"):
        return _count(record, rows)


def read_difference(store: Store, old: RunRecord, new: RunRecord) -> SelectionDiff:
    """Compare the selections of two recorded runs. PipelineError if one has none."""
    (before, old_policy), (after, new_policy) = _open(store, old), _open(store, new)
    kept: dict[str, Change] = {}
    removed: dict[str, Change] = {}
    only_old = only_new = 0
    with reading(f"{old.run} or {new.run}", "selection"):
        for ids in id_ranges(before):
            first, second = fates(before, ids), fates(after, ids)
            both = first.join(second, "clip_id", join_type="inner", left_suffix="_old", right_suffix="_new")
            _add_changes(kept, both, "new", "old")
            _add_changes(removed, both, "old", "new")
            only_old, only_new = only_old + len(first) - len(both), only_new + len(second) - len(both)
        return SelectionDiff(
            _count(old, before),
            _count(new, after),
            _settings(old_policy, new_policy),
            newly_kept=_largest_first(kept),
            newly_removed=_largest_first(removed),
            only_old=only_old,
            only_new=only_new,
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


def _open(store: Store, record: RunRecord) -> tuple[ds.Dataset, Mapping[str, Any]]:
    """The rows of a run's stage `select`, and its policy."""
    entry = record.stages.get(STAGE)
    if entry is None or entry.path is None or entry.fingerprint is None:
        raise PipelineError(f"run {record.run} has no selection: its stage {STAGE} is not done")
    with reading(record.run, "selection"):
        manifest, problem = store.look(STAGE, entry.fingerprint)
        if manifest is None:
            raise ValueError(problem or f"{store.name(store.root / entry.path)} is gone")
        return recorded_rows(store, record, STAGE), manifest.recipe["config"]


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


def fates(rows: ds.Dataset, ids: Shard, *more: str) -> pa.Table:
    """Of each clip: `keep`, `by`, what removed it if it is not kept, what an `Example` has, and further columns."""
    import pyarrow.compute as pc

    shown = [*(field.name for field in fields(Example)), *more]
    columns = [*shown, "keep", "reason", "reason_stage", "failed_rules"]
    table = rows.to_table(columns=columns, filter=ids.holds("clip_id"))
    first = pc.binary_join(pc.list_slice(table["failed_rules"], 0, 1), "")
    earlier = pc.binary_join_element_wise(table["reason"], " (", table["reason_stage"], ")", "")
    return table.select([*shown, "keep"]).append_column("by", pc.if_else(pc.equal(first, ""), earlier, first))


def _add_changes(changes: dict[str, Change], both: pa.Table, keeping: str, removing: str) -> None:
    """Add clips that one selection keeps and the other does not, by the latter's rule."""
    import pyarrow.compute as pc

    lost = both.filter(pc.and_not(both[f"keep_{keeping}"], both[f"keep_{removing}"])).sort_by("clip_id")
    names = {f"{name}_{removing}": name for name in ("by", "uri", "source", "detail")} | {"clip_id": "clip_id"}
    lost = lost.select([*names]).rename_columns([*names.values()])
    for group in lost.group_by(["by", "source"]).aggregate([([], "count_all")]).to_pylist():
        change = changes.setdefault(group["by"], Change(group["by"], {}, []))
        change.clips[group["source"]] = change.clips.get(group["source"], 0) + group["count_all"]
    for rule, change in changes.items():
        examples = lost.filter(pc.field("by") == rule).slice(0, EXAMPLES - len(change.examples))
        change.examples.extend(Example(**row) for row in examples.drop_columns("by").to_pylist())


def _largest_first(changes: Mapping[str, Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes.values(), key=lambda change: (-sum(change.clips.values()), change.rule)))


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
