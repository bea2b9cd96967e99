"""Quarantine report: clips that a run set aside, at which stage, why, and how to look at one."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from curation.control_characters import shown
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError
from pipelines.reports.recorded_rows import id_ranges, reading, recorded_rows
from pipelines.terminal import Text, command_line, in_line, indented, make_table

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

    from curation.operator import Shard

STAGES = (
    "ingest",
    "split",
    "probe",
    "motion",
    "tag",
    "frame_hashes",
    "embeddings",
    "scores",
    "score",
    "caption",
    "select",
    "encode_text",
    "encode_latents",
    "encode_captions",
    "encode_sound",
    "encode_visual",
    "encode_sync",
)
"""Kinds of stage that set clips aside, in the order in which a clip meets them."""
_NAMED = ("uri", "source", "caption")
_SCORING = ("scores", "score", "caption")
_COMPARED = ("frame_hashes", "embeddings")
"""Read through `duplicates`, whose rows have their reasons."""
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
class Count:
    """What one stage set aside for one reason."""

    stage: str
    status: str
    reason: str
    clips: int
    example: SetAside
    """The one with the lowest id."""
    look: str | None
    """A command that shows what is wrong with it; None where its file is not on this machine."""


@dataclass(frozen=True)
class Source:
    """What a source lost."""

    source: str
    set_aside: int
    clips: int
    share: float


@dataclass(frozen=True)
class Quarantine:
    """What one run set aside, each clip once, under the stage that did so."""

    run: str
    name: str
    started: str
    filtered_too: bool
    """Whether filtered clips count."""
    rows: int
    """Clips, whatever became of them."""
    set_aside: int
    """Of them, and texts that could not be encoded."""
    counts: tuple[Count, ...]
    """In the order of the stages, the largest first."""
    sources: tuple[Source, ...]
    """Those that lost any, the largest share first."""


def read_quarantine(store: Store, record: RunRecord, filtered_too: bool = False) -> Quarantine:
    """Count what a recorded run set aside; see `set_aside`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    counts: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str], SetAside] = {}
    lost: Counter[str] = Counter()
    for rows in set_aside(store, record, filtered_too):
        grouped = rows.append_column("at", pa.array(range(len(rows)))).group_by(["reason_stage", "status", "reason"])
        for group in grouped.aggregate([([], "count_all"), ("at", "min")]).to_pylist():
            fate = (group["reason_stage"], group["status"], group["reason"])
            counts[fate] += group["count_all"]
            if fate not in examples:
                [examples[fate]] = _clips(rows.slice(group["at_min"], 1))
        lost.update(_numbers(rows.filter(pc.field("clip_id") != "")["source"]))
    clips = _by_source(store, record)
    order = _stages(record)
    shares = [(source, number, max(number, clips[source])) for source, number in lost.items()]
    return Quarantine(
        run=record.run,
        name=record.name,
        started=record.started,
        filtered_too=filtered_too,
        rows=clips.total(),
        set_aside=counts.total(),
        counts=tuple(
            Count(*fate, number, examples[fate], _look(examples[fate], store, record))
            for fate, number in sorted(counts.items(), key=lambda one: (order.index(one[0][0]), -one[1], one[0]))
        ),
        sources=tuple(
            Source(source, number, total, number / total)
            for source, number, total in sorted(shares, key=lambda one: (-one[1] / one[2], -one[1], one[0]))
        ),
    )


def _look(clip: SetAside, store: Store, record: RunRecord) -> str | None:
    from curation.media_uris import absolute
    from curation.schema import RowError

    if not clip.uri or not record.media_root:
        return None
    try:
        uri = absolute(clip.uri, str(store.root / record.media_root))
    except RowError:
        return None
    return command_line(["lumina", "probe", uri]) if "://" in uri or Path(uri).is_file() else None


def set_aside(store: Store, record: RunRecord, filtered_too: bool = False) -> Iterator[pa.Table]:
    """Clips that a recorded run set aside, with the columns of `SetAside`, by id, a range of ids at a time.

    A clip counts once: at the first stage that quarantined it, else at the first that filtered it; later stages carry
    its row along. A clip that one of the latents sets holds is in use, whatever rules keep it out of the others, so it
    counts only if one quarantined it. Texts that could not be encoded come along, without an id.

    Args:
        store: where the outputs are.
        record: of the run.
        filtered_too: take clips that are sound and that a rule set aside as well.

    Raises:
        PipelineError: the run has no output of curation yet.
        StoreError: an output is gone or damaged.
    """
    with reading(record.run, "clips"):
        tables, named = _tables(store, record)
        for ids in id_ranges(named):
            yield _range(tables, named, ids, filtered_too)


def clips_set_aside(store: Store, record: RunRecord, filtered_too: bool = False) -> Iterator[SetAside]:
    """The same one by one, as `write_csv` takes them."""
    for rows in set_aside(store, record, filtered_too):
        yield from _clips(rows)


def _clips(rows: pa.Table) -> list[SetAside]:
    return [SetAside(**row) for row in rows.to_pylist()]


def _stages(record: RunRecord) -> list[str]:
    # What a scoring stage sets aside is out of the run only where rules name its scores, new captions train, or
    # near-duplicates are looked for.
    select = record.stages.get("select")
    read = set(select.inputs.values()) if select is not None and select.path else set()
    read |= set(_COMPARED) if "duplicates" in read else set()
    names = [
        name
        for name, entry in record.stages.items()
        if (kind := name.partition("@")[0]) in STAGES
        and entry.path
        and (kind not in (*_SCORING, *_COMPARED) or name in read)
    ]
    if not names:
        raise PipelineError(f"run {record.run} has no clips yet: its stage ingest is not done")
    return sorted(names, key=lambda name: STAGES.index(name.partition("@")[0]))  # stable: sets in the run's order


def _tables(store: Store, record: RunRecord) -> tuple[dict[str, ds.Dataset], ds.Dataset]:
    """The rows of each stage, and the last that have URI, source and caption of all clips."""
    # Whether a clip without a new caption is out of the run, the selection knows: another may train.
    tables = {name: recorded_rows(store, record, "select" if name == "caption" else name) for name in _stages(record)}
    for name, rows in reversed([*tables.items()]):
        if name in STAGES and set(_NAMED) <= set(rows.schema.names):
            return tables, rows
    raise ValueError(f"none of {', '.join(tables)} has the columns {', '.join(_NAMED)}")


def _by_source(store: Store, record: RunRecord) -> Counter[str]:
    with reading(record.run, "clips"):
        _, named = _tables(store, record)
        found: Counter[str] = Counter()
        for batch in named.to_batches(columns=["source"]):
            found.update(_numbers(batch["source"]))
        return found


def _numbers(values: pa.Array | pa.ChunkedArray) -> dict[str, int]:
    return {str(entry["values"]): entry["counts"] for entry in values.value_counts().to_pylist()}


def _range(tables: Mapping[str, ds.Dataset], named: ds.Dataset, ids: Shard, filtered_too: bool) -> pa.Table:
    """Clips and texts of a range of ids that were set aside, each once."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: dict[str, list[pa.Table]] = {}
    for place, (name, rows) in enumerate(tables.items()):
        kind, told = name.partition("@")[0], pc.field("reason_stage")
        wanted = pc.field("status") != "ok" if filtered_too else pc.field("status") == _QUARANTINED
        # The rows of a scoring stage have the name of its operator.
        wanted &= ~told.isin([one for one in STAGES if one != "scores"]) if kind == "score" else told == kind
        key, caption = ("text_id", pc.field("prompt")) if kind == "encode_text" else ("clip_id", pc.scalar(""))
        columns = {name: pc.field(name) for name in _STATUS}
        columns |= {"id": pc.field(key), "caption": caption, "reason_stage": pc.scalar(name), "place": pc.scalar(place)}
        found.setdefault(kind, []).append(rows.to_table(columns=columns, filter=wanted & ids.holds(key)))
    if sets := found.pop("encode_latents", None):
        found["encode_latents"] = [_out_of_sets(pa.concat_tables(sets), len(sets))]
    first = _first(pa.concat_tables([rows for kind in found.values() for rows in kind]))
    wanted = ids.holds("clip_id") & pc.field("clip_id").isin(first["id"].combine_chunks())
    names = named.to_table(columns=["clip_id", *_NAMED], filter=wanted)
    names = names.take(pc.index_in(first["id"], names["clip_id"]))
    known = {name: pc.fill_null(names[name], "") for name in ("clip_id", "uri", "source")}
    known["caption"] = pc.coalesce(names["caption"], first["caption"])
    return pa.table(known | {name: pc.fill_null(first[name], "") for name in _STATUS})


def _out_of_sets(rows: pa.Table, sets: int) -> pa.Table:
    """Clips that a set quarantined, or that all sets refused."""
    import pyarrow.compute as pc

    counted = rows.group_by("id").aggregate([([], "count_all")])
    refused = counted.filter(pc.field("count_all") == sets)["id"].combine_chunks()
    return rows.filter((pc.field("status") == _QUARANTINED) | pc.field("id").isin(refused))


def _first(rows: pa.Table) -> pa.Table:
    """Of each clip the row that counts."""
    import numpy as np
    import pyarrow.compute as pc

    rows = rows.append_column("is_sound", pc.not_equal(rows["status"], _QUARANTINED))
    # Each set refuses the other sets' media: another reason says more.
    rows = rows.append_column("is_other", pc.equal(rows["reason"], _OTHER_MEDIA))
    rows = rows.sort_by([(name, "ascending") for name in ("id", "is_sound", "is_other", "place")])
    _, first = np.unique(rows["id"].to_numpy().astype(str), return_index=True)
    return rows.take(first)


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
    wanted: dict[str, list[str]] = {}
    reasons: set[str] = set()
    for clip in clips_set_aside(store, record):
        if clip.clip_id:
            reasons.add(clip.reason)
            if clip.reason == reason:
                wanted.setdefault(clip.reason_stage, []).append(clip.clip_id)
    if not wanted:
        named = ", ".join(sorted(reasons)) or "none"
        raise PipelineError(f"run {record.run} quarantined no clip for {reason}; its reasons are {named}")
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


def quarantine_view(found: Quarantine) -> RenderableType:
    """Counts by stage and reason, the worst sources, and a clip of each reason with a command to look at it."""
    head = Text(f"Run {found.run} ({found.name}, {found.started})", "dim")
    kind = "set aside" if found.filtered_too else "quarantined"
    if not found.counts:
        more = "" if found.filtered_too else "; --all counts the filtered ones too"
        return Group(head, Text(f"None of {found.rows:,} clips was {kind}{more}.", "bold green"))
    counts = make_table("~stage", "~reason", *["~status"] * found.filtered_too, ">clips")
    sources = make_table("~source", ">set aside", ">clips", ">share")
    examples: list[RenderableType] = [Text("One of each:", "bold")]
    for one in found.counts:
        counts.add_row(one.stage, one.reason, *[one.status] * found.filtered_too, f"{one.clips:,}")
        examples.append(Text(one.reason, "bold").append(f" ({one.stage})", "not bold dim"))
        examples.append(indented(in_line(one.example.uri or one.example.caption)))
        examples.append(indented(in_line(one.example.detail, "dim")))
        if one.look:
            examples.append(Text(f"  {one.look}", no_wrap=True, overflow="ignore"))
    for source in found.sources[:WORST]:
        sources.add_row(in_line(source.source), f"{source.set_aside:,}", f"{source.clips:,}", f"{source.share:.1%}")
    if len(found.sources) > WORST:
        sources.add_row(Text(f"and {len(found.sources) - WORST} more", "dim"))
    lost = sum(source.set_aside for source in found.sources)
    return Group(head, counts, Text(f"{lost:,} of {found.rows:,} clips were {kind}", "bold"), sources, *examples)
