"""Select: which clips to train on. Thresholds live here, scores do not: another policy recomputes nothing dear.

Rows in: probed clips, with their motion, tag and further scores where there are such stages. Rows out: the same ids,
with `keep`, every rule that failed, the sets that the row may go to, and the columns that encoding needs. A row that an
earlier stage set aside stays aside, for that stage's reason.
"""

from __future__ import annotations

import difflib
import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from curation.caption_choice import AGREEMENT, CaptionChoice, agreement
from curation.duplicates import reasons_of_firsts
from curation.kept_copies import best_of, copies, with_stand_ins
from curation.operator import Env, Input, Operator, Report, dataset
from curation.rules import (
    EXTRA,
    Failure,
    Row,
    Rules,
    SourceRules,
    as_written,
    check_ranges,
    extra_of,
    failed_rules,
    reason_of,
    score_columns,
)
from curation.schema import MOTION, SELECT, STATUS_COLUMNS, Reason, Status, iterate, short_detail, to_table
from lumina.randomness import generator

if TYPE_CHECKING:
    import pyarrow.dataset as ds


DUPLICATES = "duplicates"
"""Name of the input that tells which clips show the same."""
SCORED = "score@"
"""How the names of inputs begin whose numbers rules may name, besides those of `clips` and `motion`."""
_GROUP = "@group"
"""Key of a row in which is whose side of the split it takes: that of its group."""
_OWN = {"tag": {"system_prompt_id"}, DUPLICATES: {"family", "semantic"}, "caption": {"caption_new"}}
"""Input -> its columns that are no scores. A scorer may measure what has the same name."""


class SelectConfig(Rules):
    """The policy: general rules, those of single sources, and further ones of single sets of clips."""

    sources: dict[str, SourceRules] = Field(default_factory=dict)
    """Rules of a source, by its name: those given replace the general ones, null switches one off."""
    sets: dict[str, Rules] = Field(default_factory=dict)
    """Further rules for the clips that go to a latents set, by the set's name in `latents`, e.g. a larger `min_area`
    for a later stage of training. A clip has to pass the general rules first; one that no set takes is filtered."""
    encoded: dict[str, tuple[Literal["image", "video"], ...]] = Field(default_factory=dict)
    """Every latents set with the media it encodes. The pipeline fills it in where `sets` has rules."""
    max_clips_per_source: int | None = Field(default=None, ge=1)
    """Clips (images not counted) of one source at most, after all other rules; drawn by clip id and seed."""
    heldout_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of clips marked `heldout`: drawn per clip id, so a clip keeps its split whatever else is in the data."""
    near_duplicates: Literal["best", "all"] | None = None
    """Of clips that show the same, keep the `best` that passes the other rules: the largest picture without its black
    bars, then the longest, then the lowest id; or `all`. None is `best` where the section `duplicates` has them looked
    for. Either way they are held out together or not at all, mirror images included."""
    seed: int = 0
    """Seed of the split and of `max_clips_per_source`."""
    caption: CaptionChoice | None = None
    """Which caption of a clip trains. The pipeline fills it in from `caption.use`."""

    @model_validator(mode="after")
    def _consistent(self) -> SelectConfig:
        for name in self.sources:
            try:
                check_ranges(self.rules(name))
            except ValueError as error:
                raise ValueError(f"with the general rules, sources.{name}: {error}") from error
        unknown = sorted(set(self.sets) - set(self.encoded)) if self.encoded else []
        if unknown:
            raise ValueError(f"sets names {', '.join(unknown)}; the latents sets are {', '.join(sorted(self.encoded))}")
        return self

    @property
    def policy_id(self) -> str:
        """Identity of the policy: a digest of its fields, without those of stages that are not there."""
        without = {name for name in ("near_duplicates", "caption") if getattr(self, name) is None}
        text = json.dumps(self.model_dump(mode="json", exclude=without), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def rules(self, source: str) -> Rules:
        """The rules that the clips of a source have to pass, whatever set they go to."""
        return self.sources[source].over(self) if source in self.sources else self

    def sets_of(self, media: str) -> dict[str, Rules]:
        """The latents sets that encode `media`, with their further rules; empty if no set has any."""
        if not self.sets:
            return {}
        encoded = self.encoded or dict.fromkeys(self.sets, ("image", "video"))
        return {name: self.sets.get(name, Rules()) for name, kinds in sorted(encoded.items()) if media in kinds}

    def scores_named(self) -> dict[str, str]:
        """Every score that a rule names, with the setting that does."""
        named = {"scores": self.scores}
        named |= {f"sources.{name}.scores": rules.scores for name, rules in self.sources.items()}
        named |= {f"sets.{name}.scores": rules.scores for name, rules in self.sets.items()}
        return {score: where for where, scores in reversed(named.items()) for score in scores}


def check_scores(config: SelectConfig, known: Collection[str], extra: bool = True) -> None:
    """ValueError for a score that a rule names and no row has, with the nearest and all that there are.

    Args:
        config: the policy.
        known: names of all scores, those of the manifest's columns with their `extra.`.
        extra: whether `known` has the manifest's columns; without, names of that kind are let through.
    """
    for name, where in sorted(config.scores_named().items()):
        if name in known or (name.startswith(EXTRA) and not extra):
            continue
        near = difflib.get_close_matches(name, sorted(known), 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        there = [*sorted(known), *([] if extra else [f"and {EXTRA}<column> for the columns of the manifest"])]
        raise ValueError(
            f"select.{where} names {name!r}, which is no score of any clip; {hint}there are {', '.join(there)}"
        )


def check_no_motion(config: SelectConfig) -> None:
    """ValueError for a rule about motion, in a run that has no stage which measures it."""
    rules: dict[str, Rules] = {"": config}
    rules |= {f"{key}.{name}.": one for key in ("sources", "sets") for name, one in getattr(config, key).items()}
    for where, one in rules.items():
        limits = [name for name in ("min_motion", "max_motion") if getattr(one, name) is not None]
        limits += [f"scores.{name}" for name in one.scores if name in score_columns(MOTION)]
        if limits:
            raise ValueError(
                f"select.{where}{limits[0]} is about motion, but there is no motion stage in this run, "
                "which measures sound: leave it out"
            )


def select(rows: Iterable[Row], config: SelectConfig) -> pa.Table:
    """Decide on joined rows (see `_join`); returns a table of the `SELECT` schema, in the order given."""
    import pyarrow.dataset as ds

    decided = to_table(_decided(rows, config), SELECT)
    surveyed = _survey(ds.dataset(decided), {}, config)
    return decided if surveyed is None else _reduce(decided, config, surveyed)


def _decided(rows: Iterable[Row], config: SelectConfig) -> Iterator[Row]:
    rules: dict[str, Rules] = {}
    sets: dict[str, Mapping[str, Rules]] = {}
    policy_id = config.policy_id
    for row in rows:
        source, media = row["source"], row["media"]
        if source not in rules:
            rules[source] = config.rules(source)
        if media not in sets:
            sets[media] = config.sets_of(media)
        yield _decide(row | {"policy_id": policy_id}, config, rules[source], sets[media])


def _decide(row: Row, config: SelectConfig, rules: Rules, sets: Mapping[str, Rules]) -> Row:
    draw = generator(config.seed, "heldout", row.get(_GROUP) or row["clip_id"]).random()
    split = "heldout" if draw < config.heldout_fraction else "train"
    decided = row | {"split": split, "failed_rules": [], "keep": False, "stage_failed": None}
    decided["stages"] = [] if config.sets else None
    if row["status"] != Status.OK:
        return decided
    if failures := failed_rules(row, rules):
        return decided | _aside(failures)
    if not config.sets:
        return decided | {"keep": True}
    if not sets:
        return decided | _aside([Failure(str(Reason.OTHER_MEDIA), f"no latents set encodes {row['media']}s")])
    by_set = {name: failed_rules(row, further) for name, further in sets.items()}
    failed = {name: failures for name, failures in by_set.items() if failures}
    if failed:
        decided["stage_failed"] = _stage_failed(failed)
    if len(failed) == len(sets):
        return decided | _aside(
            [
                Failure(f"{failure.rule}@{name}", f"{name}: {failure.detail}")
                for name, failures in failed.items()
                for failure in failures
            ]
        )
    return decided | {"keep": True, "stages": [name for name in sets if name not in failed]}


def _stage_failed(failed: Mapping[str, list[Failure]]) -> str:
    """The column `stage_failed`: JSON, so that a reader needs nothing of this module."""
    content = {
        name: {
            "reason": str(failures[0].reason),
            "rules": [failure.rule for failure in failures],
            "detail": "; ".join(failure.detail for failure in failures),
        }
        for name, failures in failed.items()
    }
    return json.dumps(content, sort_keys=True, ensure_ascii=False)


def _aside(failures: list[Failure]) -> Row:
    return {
        "failed_rules": [failure.rule for failure in failures],
        "keep": False,
        "status": Status.FILTERED,
        "reason": failures[0].reason,
        "reason_stage": SELECT_OPERATOR.name,
        "detail": short_detail("; ".join(failure.detail for failure in failures)),
    }


Quotas = Mapping[str, tuple[int, float]]
"""Source -> its kept clips, and the greatest draw that its quota lets through."""


@dataclass(frozen=True)
class Surveyed:
    """What the rows of one range do not tell."""

    quotas: Quotas | None
    copies: pa.Table | None
    """See `curation.kept_copies.copies`."""


def _survey(decided: ds.Dataset, inputs: Mapping[str, Input], config: SelectConfig) -> Surveyed | None:
    """Near-duplicates of better clips, and the quotas that sources exceed; None where there are none."""
    found = None
    if DUPLICATES in inputs and config.near_duplicates != "all":
        found = copies(decided, dataset(inputs[DUPLICATES].path / "data"))
    if config.max_clips_per_source is None:
        return None if found is None else Surveyed(None, found)
    most = config.max_clips_per_source
    quotas = _quotas(decided, most, config, found)
    if found is not None:
        found = with_stand_ins(
            found,
            lambda clip, source: _is_beyond({"clip_id": clip, "source": source}, config, quotas),
            {source: most - count for source, (count, _) in quotas.items()},
            most,
        )
    return Surveyed(quotas, found)


def _quotas(decided: ds.Dataset, most: int, config: SelectConfig, found: pa.Table | None) -> Quotas:
    counts, least = Counter[str](), dict[str, list[float]]()
    is_kept = pc.field("keep") & (pc.field("media") == "video")
    if found is not None:
        is_kept &= ~pc.field("clip_id").isin(found["clip_id"].combine_chunks())
    for batch in decided.to_batches(columns=["source", "clip_id"], filter=is_kept):
        for row in batch.to_pylist():
            drawn = least.setdefault(row["source"], [])
            push = heapq.heappush if len(drawn) < most else heapq.heappushpop
            push(drawn, -_draw(row, config))
            counts[row["source"]] += 1
    return {source: (counts[source], -drawn[0] if counts[source] > most else 1.0) for source, drawn in least.items()}


def _draw(row: Row, config: SelectConfig) -> float:
    return float(generator(config.seed, "source quota", row["clip_id"]).random())


def _is_beyond(row: Row, config: SelectConfig, quotas: Quotas) -> bool:
    """Whether the quota of its source takes a clip."""
    return row["source"] in quotas and _draw(row, config) > quotas[row["source"]][1]


def _reduce(decided: pa.Table, config: SelectConfig, surveyed: Surveyed) -> pa.Table:
    quotas, best = surveyed.quotas or {}, best_of(decided["clip_id"], surveyed.copies)

    def limited(row: Row) -> Row:
        source = row["source"]
        if row["clip_id"] in best:
            reason, better = best[row["clip_id"]]
            same = "shows the same" if reason == Reason.NEAR_DUPLICATE else "means the same"
            detail = f"{same} as clip {better}, the best of its cluster"
        elif not row["keep"] or row["media"] != "video" or not _is_beyond(row, config, quotas):
            return row
        else:
            reason = Reason.SOURCE_QUOTA
            detail = f"source {source!r} keeps {config.max_clips_per_source} of {quotas[source][0]} clips"
        stages: list[str] | None = None if row["stages"] is None else []
        return row | _aside([Failure(str(reason), detail)]) | {"stages": stages}

    return to_table(map(limited, iterate(decided)), SELECT)


def _join(inputs: Mapping[str, Input], config: SelectConfig) -> Iterator[Row]:
    """One row per clip; a clip that several stages set aside has the status of the first of probe, motion, tag, ..."""
    clips, named = inputs["clips"].rows().sort_by("clip_id"), set(config.scores_named())
    parts = {}
    for key in _beside(inputs):
        table = inputs[key].rows()
        wanted = (named | {"flow_abs_mean"}) & set(score_columns(table.schema))
        wanted |= _OWN.get(key, set()) & set(table.column_names)
        table = table.select(["clip_id", *sorted(wanted), *STATUS_COLUMNS]).sort_by("clip_id")
        parts[key] = pa.table({name: as_written(table[name]) for name in table.column_names})
    if any(len(table) != len(clips) for table in parts.values()):
        raise ValueError(
            f"the tables differ: {len(clips)} clips, {', '.join(f'{len(table)} rows' for table in parts.values())}"
        )
    broken = reasons_of_firsts(clips, parts["motion"], "motion") if "motion" in parts else {}
    for clip, *others in zip(iterate(clips), *map(iterate, parts.values()), strict=True):
        name = clip["clip_id"]
        if any(part["clip_id"] != name for part in others):
            raise ValueError(f"clip {name} ({clip['uri']}) is missing from a table: these are not of one run")
        by_key = dict(zip(parts, others, strict=True))
        captioned = by_key.pop("caption", None)
        told: Row = {} if captioned is None else _told(clip, captioned, config)
        if captioned is not None and told["caption"] is None:
            by_key["caption"] = captioned
        status = next((part for part in (clip, *by_key.values()) if part["status"] != Status.OK), clip)
        found = {key: value for part in others for key, value in part.items()}
        alike = by_key.get(DUPLICATES, {})
        yield (
            found
            | clip
            | told
            | {"motion_score": found.get("flow_abs_mean"), "system_prompt_id": found.get("system_prompt_id")}
            | {_GROUP: alike.get("semantic") or alike.get("family")}
            | {column: status[column] for column in STATUS_COLUMNS}
            | broken.get(name, {})
        )


def _told(clip: Row, captioned: Row, config: SelectConfig) -> Row:
    """The caption that trains, and how far the two of a clip say the same."""
    new = captioned["caption_new"]
    chosen = clip["caption"] if config.caption is None else config.caption.of(clip | {"caption_new": new})
    return {"caption": chosen, AGREEMENT: agreement(clip["caption"] or "", new or "")}


def _beside(inputs: Mapping[str, Input]) -> list[str]:
    """Keys of the inputs beside the clips, in the order in which their reasons count."""
    given = [key for key in ("motion", "tag", "scores", DUPLICATES, "caption") if key in inputs]
    return [*given, *_scored(inputs)]


def _scored(inputs: Mapping[str, Input]) -> list[str]:
    return sorted(key for key in inputs if key.startswith(SCORED))


def _check(inputs: Mapping[str, Input], config: SelectConfig) -> None:
    """Every score that a rule names is one of some clip."""
    if "motion" not in inputs:
        check_no_motion(config)
    clips = dataset(inputs["clips"].path / "data")
    scored = (dataset(inputs[key].path / "data") for key in _beside(inputs) if key != "tag")
    known = set(score_columns(clips.schema, *(table.schema for table in scored)))
    known |= {AGREEMENT} if "caption" in inputs else set()
    extra, named = set[str](), set(config.scores_named())
    for batch in clips.to_batches(columns=["extra"]) if named - known else ():
        extra.update(f"{EXTRA}{name}" for row in batch.to_pylist() for name in extra_of(row))
        if named <= known | extra:
            break
    check_scores(config, known | extra)


def _plan(inputs: Mapping[str, Input], config: SelectConfig, _env: Env) -> pa.Table:
    return to_table(_decided(_join(inputs, config), config), SELECT)


def _report(rows: ds.Dataset, _config: SelectConfig, _out: Path) -> Report:
    """Rows removed by each rule: as the first to fail (`removed/`), and at all (`failed/`); kept rows (`kept/`), and
    those that a latents set may take (`kept_for/`). All but the last by source too."""
    columns = ["keep", "source", "media", "reason", "reason_stage", "failed_rules", "stages"]
    metrics: Counter[str] = Counter()
    for row in (row for batch in rows.to_batches(columns=columns) for row in batch.to_pylist()):
        if row["keep"]:
            metrics["kept"] += 1
            metrics[f"kept/{row['media']}/{row['source']}"] += 1
        elif row["reason_stage"] == SELECT_OPERATOR.name:
            metrics.update((f"removed/{row['reason']}", f"removed/{row['reason']}/{row['source']}"))
        for reason in {reason_of(rule) for rule in row["failed_rules"]}:
            metrics.update((f"failed/{reason}", f"failed/{reason}/{row['source']}"))
        metrics.update(f"kept_for/{name}" for name in row["stages"] or ())
    return Report({name: float(count) for name, count in sorted(metrics.items())})


SELECT_OPERATOR = Operator(
    name="select",
    config=SelectConfig,
    schema=SELECT,
    inputs=("clips",),
    check=_check,
    plan=_plan,
    survey=_survey,
    reduce=_reduce,
    report=_report,
)
"""Reads the inputs `clips` (`probe`), `motion`, `tag`, `scores`, `duplicates` and `caption` if given, and those that
begin with `SCORED`."""
