"""Quarantine report: clips that a run set aside, at which stage, why, and how to look at one."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding

from curation.control_characters import shown
from pipelines.engine.store.run_record import RunRecord, StageEntry
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError, StoreError
from pipelines.terminal import Text, command_line, in_line, make_table

if TYPE_CHECKING:
    import pyarrow.dataset as ds

STAGES = ("ingest", "split", "probe", "motion", "tag", "score", "select", "encode_text", "encode_latents")
"""Kinds of stage that set clips aside, in the order in which a clip meets them."""
_NAMED = ("clip_id", "uri", "source", "caption")
_STATUS = ("status", "reason", "reason_stage", "detail")
_QUARANTINED, _OTHER_MEDIA = "quarantined", "other_media"
_FORMULA = ("=", "+", "-", "@", "\t", "\n", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""The last four are the first ones in full width, which some spreadsheets take for the same."""
WORST = 10
"""Sources shown."""


@dataclass(frozen=True)
class SetAside:
    """One clip that left the run."""

    clip_id: str
    """Empty for a text that could not be encoded: it may be the caption of several clips."""
    uri: str
    source: str
    caption: str
    status: str
    """`quarantined`: something is wrong with it; `filtered`: sound, but a rule sets it aside."""
    reason: str
    reason_stage: str
    """The stage that set it aside, by its full name: `encode_latents@videos`."""
    detail: str


@dataclass(frozen=True)
class Quarantine:
    """What one run set aside."""

    run: str
    name: str
    started: str
    filtered_too: bool
    """Whether `clips` has the filtered ones."""
    rows: Mapping[str, int]
    """Clips of each source, whatever became of them."""
    clips: tuple[SetAside, ...]
    """Each clip once, under the stage that set it aside; in the order of the stages, then by URI."""
    media_root: Path | None
    """Where relative URIs start; None if the run does not tell."""

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Stage, status, reason -> clips, in the order of the stages, the largest first."""
        found = Counter((clip.reason_stage, clip.status, clip.reason) for clip in self.clips)
        stages = list(dict.fromkeys(clip.reason_stage for clip in self.clips))
        return dict(sorted(found.items(), key=lambda item: (stages.index(item[0][0]), -item[1], item[0])))

    def sources(self) -> list[tuple[str, int, int]]:
        """(source, clips set aside, clips) of the sources that lost any, the largest share first."""
        lost = Counter(clip.source for clip in self.clips if clip.clip_id)
        shares = [(source, number, max(number, self.rows.get(source, 0))) for source, number in lost.items()]
        return sorted(shares, key=lambda one: (-one[1] / one[2], -one[1], one[0]))

    def examples(self) -> dict[tuple[str, str, str], SetAside]:
        """One clip of each count."""
        found: dict[tuple[str, str, str], SetAside] = {}
        for clip in self.clips:
            found.setdefault((clip.reason_stage, clip.status, clip.reason), clip)
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        examples = self.examples()
        return {
            "run": self.run,
            "rows": sum(self.rows.values()),
            "set_aside": len(self.clips),
            "counts": [
                {
                    "stage": key[0],
                    "status": key[1],
                    "reason": key[2],
                    "clips": number,
                    "example": asdict(examples[key]) | {"look": self.look(examples[key])},
                }
                for key, number in self.counts().items()
            ],
            "sources": [
                {"source": source, "set_aside": lost, "clips": clips, "share": lost / clips}
                for source, lost, clips in self.sources()
            ],
        }

    def look(self, clip: SetAside) -> str | None:
        """A command that shows what is wrong with a clip; None where its file is not on this machine."""
        from curation.media_uris import absolute
        from curation.schema import RowError

        if not clip.uri or self.media_root is None:
            return None
        try:
            uri = absolute(clip.uri, str(self.media_root))
        except RowError:
            return None
        return command_line(["lumina", "probe", uri]) if "://" in uri or Path(uri).is_file() else None


def clip_ids(clips: Iterable[SetAside]) -> dict[tuple[str, str], tuple[str, ...]]:
    """(stage, reason) -> ids of the clips that the stage set aside for it, sorted: what a retry computes again."""
    found: dict[tuple[str, str], list[str]] = {}
    for clip in clips:
        if clip.clip_id:
            found.setdefault((clip.reason_stage, clip.reason), []).append(clip.clip_id)
    return {key: tuple(sorted(ids)) for key, ids in found.items()}


def read_quarantine(store: Store, record: RunRecord, filtered_too: bool = False) -> Quarantine:
    """Collect what a recorded run set aside.

    A clip counts once, at the stage that set it aside; later stages carry its row along. A clip that one of the
    latents sets holds is in use, whatever rules keep it out of the others, so it counts only if one quarantined it.

    Args:
        store: where the outputs are.
        record: of the run.
        filtered_too: take clips that are sound and that a rule set aside as well.

    Raises:
        PipelineError: the run has no output of curation yet.
        StoreError: an output is gone or damaged.
    """
    # What a scoring stage sets aside is out of the run only where rules name its scores.
    read = set(record.stages["select"].inputs.values()) if "select" in record.stages else set()
    names = [
        name
        for name, entry in record.stages.items()
        if (kind := name.partition("@")[0]) in STAGES and entry.path and (kind != "score" or name in read)
    ]
    names.sort(key=lambda name: STAGES.index(name.partition("@")[0]))  # stable: sets in the run's order
    if not names:
        raise PipelineError(f"run {record.run} has no clips yet: its stage ingest is not done")
    try:
        tables = {name: _table(store, name, record.stages[name]) for name in names}
        found = _first_seen(tables, names, filtered_too)
        named, rows = _named(tables, names, [row["clip_id"] for row in found if row["clip_id"]])
    except (OSError, ValueError) as error:
        raise StoreError(f"run {record.run}: its clips cannot be read: {error}") from error
    clips = [_clip(row | named.get(row["clip_id"], {})) for row in found]
    order = {stage: place for place, stage in enumerate([*STAGES, *names])}
    return Quarantine(
        run=record.run,
        name=record.name,
        started=record.started,
        filtered_too=filtered_too,
        rows=rows,
        clips=tuple(sorted(clips, key=lambda clip: (order.get(clip.reason_stage, len(order)), clip.uri, clip.clip_id))),
        media_root=store.root / record.media_root if record.media_root else None,
    )


def put_back(store: Store, record: RunRecord, reason: str) -> dict[str, int]:
    """Open the stages that quarantined clips for `reason`, so that the next run computes these clips once more.

    Returns the number of clips by stage.

    Raises:
        PipelineError: there is no such reason, or no clip was quarantined for it.
        StoreError: an output is gone, or somebody works on a stage.
    """
    from curation.schema import Reason
    from jobs.row_reuse import keep

    if reason not in set(Reason):
        near = get_close_matches(reason, list(Reason), n=1)
        raise PipelineError(f"no reason {reason!r}" + (f"; did you mean {str(near[0])!r}?" if near else ""))
    found = clip_ids(read_quarantine(store, record).clips)
    wanted = {stage: ids for (stage, name), ids in found.items() if name == reason}
    if not wanted:
        reasons = sorted({name for _, name in found})
        raise PipelineError(
            f"run {record.run} quarantined no clip for {reason}; its reasons are {', '.join(reasons) or 'none'}"
        )
    for stage, ids in wanted.items():

        def keep_others(output: Path, work: Path, ids: Iterable[str] = ids) -> None:
            keep(output / "data", work, ids)

        if (fingerprint := record.stages[stage].fingerprint) is not None:
            store.reopen(stage, fingerprint, keep_others)
    return {stage: len(ids) for stage, ids in wanted.items()}


def csv_header() -> str:
    """The first line of what `write_csv` writes."""
    return ",".join(field.name for field in fields(SetAside))


def write_csv(clips: Iterable[SetAside], path: Path) -> None:
    """Write one row per clip that was set aside, with a header; an existing file is replaced.

    A cell that a spreadsheet would take for a formula begins with an apostrophe; control characters are shown.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(f"{csv_header()}\r\n")
        writer = csv.DictWriter(file, [field.name for field in fields(SetAside)])
        writer.writerows({name: _cell(text) for name, text in asdict(clip).items()} for clip in clips)


def _cell(text: str) -> str:
    """As OWASP says against CSV injection: in front of what begins a formula stands an apostrophe."""
    text = shown(text)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _clip(row: Mapping[str, Any]) -> SetAside:
    return SetAside(**{field.name: row.get(field.name) or "" for field in fields(SetAside)})


def _table(store: Store, name: str, entry: StageEntry) -> ds.Dataset:
    """The rows that a run recorded, even if their record is lost since."""
    from curation.operator import dataset

    manifest = store.lookup(name, entry.fingerprint) if entry.fingerprint else None
    path = store.root / (entry.path or "")
    return store.dataset(manifest) if manifest and store.output(manifest) == path else dataset(path / "data")


def _first_seen(tables: Mapping[str, ds.Dataset], names: list[str], filtered_too: bool) -> list[dict[str, Any]]:
    """The rows that are not ok, each clip once, with the full name of the stage that set it aside."""
    found: dict[str, dict[str, Any]] = {}
    texts = []
    in_sets: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        kind = name.partition("@")[0]
        for row in _set_aside(tables[name], filtered_too):
            if kind == "encode_text" and row["reason_stage"] == kind:
                texts.append({"clip_id": "", "caption": row["prompt"], **{key: row[key] for key in _STATUS}})
            elif kind == row["reason_stage"] == "encode_latents":
                in_sets.setdefault(row["clip_id"], []).append(row | {"reason_stage": name})
            elif kind != "encode_text":
                if kind == "score" and row["reason_stage"] not in STAGES:  # the operator's name
                    row = row | {"reason_stage": name}
                first = found.setdefault(row["clip_id"], row)
                if row["status"] == _QUARANTINED != first["status"]:  # a copy of what turned out to be broken
                    found[row["clip_id"]] = row
    sets = sum(1 for name in names if name.partition("@")[0] == "encode_latents")
    for clip_id, rows in in_sets.items():
        broken = [row for row in rows if row["status"] == _QUARANTINED]
        # Each set refuses the other sets' media: another reason says more.
        refused = [row for row in rows if row["reason"] != _OTHER_MEDIA] or rows
        if broken or len(rows) == sets:
            found.setdefault(clip_id, (broken or refused)[0])
    return [*found.values(), *texts]


def _set_aside(rows: ds.Dataset, filtered_too: bool) -> Iterator[dict[str, Any]]:
    import pyarrow.compute as pc

    wanted = pc.field("status") != "ok" if filtered_too else pc.field("status") == _QUARANTINED
    columns = [name for name in ("clip_id", "prompt", *_STATUS) if name in rows.schema.names]
    yield from rows.to_table(columns=columns, filter=wanted).to_pylist()


def _named(
    tables: Mapping[str, ds.Dataset], names: list[str], clip_ids: list[str]
) -> tuple[dict[str, dict[str, str]], dict[str, int]]:
    """URI, source and caption of clips by id, and the rows of each source: from the last table that has them all."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in reversed([name for name in names if name in STAGES]):
        rows = tables[name]
        if set(_NAMED) <= set(rows.schema.names):
            counted = rows.to_table(columns=["source"])["source"].value_counts()
            table = rows.to_table(
                columns=list(_NAMED), filter=pc.field("clip_id").isin(pa.array(clip_ids, pa.string()))
            )
            by_source = {str(entry["values"]): int(entry["counts"]) for entry in counted.to_pylist()}
            return {row["clip_id"]: row for row in table.to_pylist()}, by_source
    raise ValueError(f"none of {', '.join(names)} has the columns {', '.join(_NAMED)}")


def quarantine_view(found: Quarantine) -> RenderableType:
    """Counts by stage and reason, the worst sources, and a clip of each reason with a command to look at it."""
    head = Text(f"Run {found.run} ({found.name}, {found.started})", "dim")
    total, kind = sum(found.rows.values()), "set aside" if found.filtered_too else "quarantined"
    if not found.clips:
        more = "" if found.filtered_too else "; --all counts the filtered ones too"
        return Group(head, Text(f"None of {total:,} clips was {kind}{more}.", "bold green"))
    counts = make_table("~stage", "~reason", *["~status"] * found.filtered_too, ">clips")
    for (stage, status, reason), number in found.counts().items():
        counts.add_row(stage, reason, *((status,) if found.filtered_too else ()), f"{number:,}")
    line = Text(f"{sum(1 for clip in found.clips if clip.clip_id):,} of {total:,} clips were {kind}", "bold")
    return Group(head, counts, line, _sources(found), _examples(found))


def _sources(found: Quarantine) -> RenderableType:
    table = make_table("~source", ">set aside", ">clips", ">share")
    worst = found.sources()
    for source, lost, clips in worst[:WORST]:
        table.add_row(in_line(source), f"{lost:,}", f"{clips:,}", f"{lost / clips:.1%}")
    if len(worst) > WORST:
        table.add_row(Text(f"and {len(worst) - WORST} more", "dim"))
    return table


def _examples(found: Quarantine) -> RenderableType:
    parts: list[RenderableType] = [Text("One of each:", "bold")]
    for (stage, _, reason), clip in found.examples().items():
        parts.append(Text(reason, "bold").append(f" ({stage})", "not bold dim"))
        parts.append(Padding(in_line(clip.uri or clip.caption), (0, 0, 0, 2), expand=False))
        parts.append(Padding(in_line(clip.detail, "dim"), (0, 0, 0, 2), expand=False))
        if command := found.look(clip):
            parts.append(Text(f"  {command}", no_wrap=True, overflow="ignore"))
    return Group(*parts)
