"""What `lumina selection` tells: what each rule removed of each source, and what another policy would keep."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.run_record import RunRecord, StageEntry
from pipelines.engine.store.store import Store
from pipelines.engine.store.typed import read_text
from pipelines.errors import PipelineError, StoreError

log = logging.getLogger(__name__)

STAGE = "select"
EXAMPLES = 3
"""Clips shown of each change."""
ABSENT = "not given"
"""Stands for the value of a setting that a policy does not have."""
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
class Difference:
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
class _Table:
    selection: Selection
    config: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Any]]


def as_dict(found: Selection | Difference) -> dict[str, Any]:
    """Plain data for `--json`."""
    return asdict(found)


def read_selection(store: Store, record: RunRecord) -> Selection:
    """Count a recorded run's selection. PipelineError if it has none."""
    return _read(store, record).selection


def read_difference(store: Store, old: RunRecord, new: RunRecord) -> Difference:
    """Compare the selections of two recorded runs. PipelineError if one has none."""
    before, after = _read(store, old), _read(store, new)
    return Difference(
        before.selection,
        after.selection,
        _settings(before.config, after.config),
        newly_kept=_changes(after.rows, before.rows),
        newly_removed=_changes(before.rows, after.rows),
        only_old=len(before.rows.keys() - after.rows.keys()),
        only_new=len(after.rows.keys() - before.rows.keys()),
    )


def previous(store: Store, record: RunRecord) -> RunRecord | None:
    """The newest older run of the same name whose selection is another one; None if there is none."""
    own = record.stages.get(STAGE)
    found = []
    for path in (store.root / "runs").glob("*.json"):
        try:
            other = RunRecord.load(path)
        except StoreError as error:
            log.debug("%s: skipped: %s", path, error)
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


def _read(store: Store, record: RunRecord) -> _Table:
    from curation.operator import dataset

    entry = record.stages.get(STAGE)
    if entry is None or entry.path is None or entry.fingerprint is None:
        raise PipelineError(f"run {record.run} has no selection: its stage {STAGE} is not done")
    store.fetch_run(record, (STAGE,))
    path = store.root / entry.path
    columns = ["clip_id", "uri", "source", "keep", "reason", "reason_stage", "detail", "failed_rules", "policy_id"]
    try:
        own = store.directory(STAGE, entry.fingerprint)
        manifest = Manifest.from_sealed(read_text(own / "MANIFEST.json"))
        rows = dataset(path / "data")
        # Selections of older versions know no latents sets.
        columns += [name for name in ("stages", "stage_failed") if name in rows.schema.names]
        table = rows.to_table(columns=columns).sort_by("clip_id").to_pylist()
    except (OSError, ValueError) as error:
        raise StoreError(f"run {record.run}: its selection in {path} cannot be read: {error}") from error
    return _Table(_count(record, table), manifest.recipe["config"], {row["clip_id"]: row for row in table})


def _count(record: RunRecord, rows: list[dict[str, Any]]) -> Selection:
    first: dict[str, Counter[str]] = {}
    failed: dict[str, Counter[str]] = {}
    kept_for: dict[str, Counter[str]] = {}
    for row in rows:
        if removed_by := _first_rule(row):
            first.setdefault(removed_by, Counter())[row["source"]] += 1
        for rule in _rules(row):
            failed.setdefault(rule, Counter())[row["source"]] += 1
        for name in row.get("stages") or ():
            kept_for.setdefault(name, Counter())[row["source"]] += 1
    rules = [RuleCount(rule, dict(first.get(rule, {})), dict(count)) for rule, count in failed.items()]
    return Selection(
        run=record.run,
        name=record.name,
        started=record.started,
        policy_id=rows[0]["policy_id"] if rows else "",
        clips=_by_source(rows, lambda _: True),
        aside=_by_source(rows, lambda row: not row["keep"] and not _first_rule(row)),
        rules=tuple(sorted(rules, key=lambda one: (-sum(one.first.values()), -sum(one.failed.values()), one.rule))),
        kept=_by_source(rows, lambda row: row["keep"]),
        kept_for={name: dict(count) for name, count in sorted(kept_for.items())},
    )


def _by_source(rows: Iterable[Mapping[str, Any]], counts: Callable[[Mapping[str, Any]], bool]) -> BySource:
    return dict(Counter(row["source"] for row in rows if counts(row)))


def _first_rule(row: Mapping[str, Any]) -> str | None:
    """The rule of the selection that removed a row; None for one that is kept or was set aside before."""
    return row["failed_rules"][0] if row["failed_rules"] else None


def _rules(row: Mapping[str, Any]) -> dict[str, None]:
    """Every rule that a row fails, those of single latents sets included."""
    by_set = json.loads(row.get("stage_failed") or "{}")
    of_sets = [f"{rule}@{name}" for name, failed in by_set.items() for rule in failed["rules"]]
    return dict.fromkeys([*row["failed_rules"], *of_sets])


def _changes(keeping: Mapping[str, Mapping[str, Any]], removing: Mapping[str, Mapping[str, Any]]) -> tuple[Change, ...]:
    """Clips that `keeping` keeps and `removing` knows and does not keep, by the latter's rule."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for clip_id, row in removing.items():
        other = keeping.get(clip_id)
        if other is not None and other["keep"] and not row["keep"]:
            found.setdefault(_first_rule(row) or f"{row['reason']} ({row['reason_stage']})", []).append(row)
    changes = [
        Change(
            rule,
            _by_source(rows, lambda _: True),
            tuple(Example(row["clip_id"], row["uri"], row["source"], row["detail"]) for row in rows[:EXAMPLES]),
        )
        for rule, rows in sorted(found.items())
    ]
    return tuple(sorted(changes, key=lambda change: -sum(change.clips.values())))


def _settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    # The pipeline's own list of latents sets comes and goes with the first rule of one: the rule tells enough.
    skip = set() if old.get("sets") and new.get("sets") else {"sets"}
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
