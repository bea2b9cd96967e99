"""Select: which clips to train on. Thresholds live here, scores do not: another policy recomputes nothing dear.

Rows in: probed clips with their motion and tag. Rows out: the same ids, with `keep`, every rule that failed, and the
columns that encoding needs. A row that an earlier stage set aside stays aside, for that stage's reason.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pydantic import Field, model_validator

from curation.operator import Env, Input, Operator, Report
from curation.schema import SELECT, STATUS_COLUMNS, Reason, Status, short_detail, to_table
from lumina.config import Config
from lumina.randomness import generator

Row = dict[str, Any]


class SelectConfig(Config):
    """The policy. Rules on time and motion do not concern images; a rule that is None is off."""

    min_duration_s: float | None = Field(default=None, ge=0)
    """Shortest clip in seconds."""
    min_fps: float | None = Field(default=None, ge=0)
    """Fewest frames per second."""
    min_area: int | None = Field(default=None, ge=1)
    """Smallest width x height in pixels, as shown."""
    min_motion: float | None = Field(default=None, ge=0)
    """Smallest `flow_abs_mean`, in the unit of the motion stage."""
    max_motion: float | None = Field(default=None, ge=0)
    """Largest `flow_abs_mean`."""
    min_caption_chars: int | None = Field(default=None, ge=1)
    """Shortest caption."""
    max_clips_per_source: int | None = Field(default=None, ge=1)
    """Clips (images not counted) of one source at most, after all other rules; drawn by clip id and seed."""
    heldout_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of clips marked `heldout`: drawn per clip id, so a clip keeps its split whatever else is in the data."""
    seed: int = 0
    """Seed of the split and of `max_clips_per_source`."""

    @model_validator(mode="after")
    def _motion_range(self) -> SelectConfig:
        if self.min_motion is not None and self.max_motion is not None and self.min_motion > self.max_motion:
            raise ValueError(f"min_motion {self.min_motion} is larger than max_motion {self.max_motion}")
        return self

    @property
    def policy_id(self) -> str:
        """Identity of the policy: a digest of all its fields."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def failed_rules(row: Row, config: SelectConfig) -> list[tuple[Reason, str]]:
    """Every rule that a sound row fails, with what was measured, in a fixed order."""
    is_video = row["media"] == "video"
    area, motion, caption = row["width"] * row["height"], row["motion_score"], len(row["caption"].strip())
    checks: list[tuple[Reason, Any, bool, str]] = [
        (Reason.MIN_DURATION, config.min_duration_s, is_video, "duration_s"),
        (Reason.MIN_FPS, config.min_fps, is_video, "fps"),
        (Reason.MIN_AREA, config.min_area, True, "area"),
        (Reason.MIN_MOTION, config.min_motion, is_video, "motion"),
        (Reason.MAX_MOTION, config.max_motion, is_video, "motion"),
        (Reason.MIN_CAPTION, config.min_caption_chars, True, "caption characters"),
    ]
    values = {"duration_s": row["duration_s"], "fps": row["fps"], "area": area, "motion": motion}
    values["caption characters"] = caption
    failed = []
    for reason, limit, applies, name in checks:
        if limit is None or not applies:
            continue
        value, is_upper = values[name], reason == Reason.MAX_MOTION
        if value > limit if is_upper else value < limit:
            failed.append((reason, f"{name} {value:.6g} {'above' if is_upper else 'below'} {limit:.6g}"))
    return failed


def select(rows: list[Row], config: SelectConfig) -> list[Row]:
    """Decide on joined rows (see `_join`); returns rows of the `SELECT` schema, in the order given."""
    decided = [_decide(row, config) for row in rows]
    if config.max_clips_per_source is not None:
        _apply_quota(decided, config.max_clips_per_source, config.seed)
    return decided


def _decide(row: Row, config: SelectConfig) -> Row:
    draw = generator(config.seed, "heldout", row["clip_id"]).random()
    split = "heldout" if draw < config.heldout_fraction else "train"
    decided = row | {"policy_id": config.policy_id, "split": split, "failed_rules": [], "keep": False}
    if row["status"] != Status.OK:
        return decided
    failed = failed_rules(row, config)
    if failed:
        return decided | _aside([reason for reason, _ in failed], "; ".join(text for _, text in failed))
    return decided | {"keep": True}


def _aside(reasons: list[Reason], detail: str) -> Row:
    return {
        "failed_rules": [str(reason) for reason in reasons],
        "keep": False,
        "status": Status.FILTERED,
        "reason": reasons[0],
        "reason_stage": SELECT_OPERATOR.name,
        "detail": short_detail(detail),
    }


def _apply_quota(rows: list[Row], quota: int, seed: int) -> None:
    kept: dict[str, list[Row]] = {}
    for row in rows:
        if row["keep"] and row["media"] == "video":
            kept.setdefault(row["source"], []).append(row)
    for source, clips in kept.items():
        clips.sort(key=lambda row: generator(seed, "source quota", row["clip_id"]).random())
        for row in clips[quota:]:
            row |= _aside([Reason.SOURCE_QUOTA], f"source {source!r} keeps {quota} of {len(clips)} clips")


def _join(inputs: Mapping[str, Input]) -> list[Row]:
    """One row per clip; a clip that several stages set aside has the status of the first of probe, motion, tag."""
    clips = inputs["clips"].rows().sort_by("clip_id").to_pylist()
    motion = _by_clip(inputs["motion"].rows(["clip_id", "flow_abs_mean", *STATUS_COLUMNS]))
    tags = _by_clip(inputs["tag"].rows(["clip_id", "system_prompt_id", *STATUS_COLUMNS]))
    rows = []
    for clip in clips:
        name = clip["clip_id"]
        if name not in motion or name not in tags:
            raise ValueError(f"clip {name} ({clip['uri']}) is missing from the motion or the tag table: not one run's")
        parts = (clip, motion[name], tags[name])
        status = next((part for part in parts if part["status"] != Status.OK), clip)
        rows.append(
            clip
            | {"motion_score": motion[name]["flow_abs_mean"], "system_prompt_id": tags[name]["system_prompt_id"]}
            | {column: status[column] for column in STATUS_COLUMNS}
        )
    if not len(rows) == len(motion) == len(tags):
        raise ValueError(f"the tables differ: {len(rows)} clips, {len(motion)} motion rows, {len(tags)} tags")
    return rows


def _by_clip(table: pa.Table) -> dict[str, Row]:
    return {row["clip_id"]: row for row in table.to_pylist()}


def _plan(inputs: Mapping[str, Input], config: SelectConfig, _env: Env) -> pa.Table:
    return to_table(select(_join(inputs), config), SELECT)


def _report(dataset: ds.Dataset, _config: SelectConfig, _out: Path) -> Report:
    """Rows removed by each rule: as the first to fail (`removed/`), and at all (`failed/`); kept rows by source."""
    table = dataset.to_table(columns=["keep", "source", "media", "reason", "reason_stage", "failed_rules"])
    metrics: Counter[str] = Counter()
    for row in table.to_pylist():
        if row["keep"]:
            metrics["kept"] += 1
            metrics[f"kept/{row['media']}/{row['source']}"] += 1
        elif row["reason_stage"] == SELECT_OPERATOR.name:
            metrics[f"removed/{row['reason']}"] += 1
        metrics.update(f"failed/{rule}" for rule in row["failed_rules"])
    return Report({name: float(count) for name, count in sorted(metrics.items())})


SELECT_OPERATOR = Operator(
    name="select",
    config=SelectConfig,
    schema=SELECT,
    inputs=("clips", "motion", "tag"),
    plan=_plan,
    report=_report,
)
"""Reads the inputs `clips` (`probe`), `motion` and `tag`."""
