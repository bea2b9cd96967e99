"""Selected clips of a recorded run, with captions, prompts, splits and every score, in the order of their ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError
from pipelines.reports.recorded_rows import id_ranges, reading, recorded_rows

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

    from curation.operator import Shard

STAGE = "select"
_SELECTED = ("clip_id", "split", "source", "caption", "system_prompt_id", "media")
_PLACE = ("uri", "span_start_s", "span_end_s", "sha256", "num_bytes", "parent_id")
_SIZE = ("width", "height", "fps", "duration_s", "codec", "container")
_READING = ("track", "rotation", "mirrored", "interlaced", "hdr", "frames_shown")
"""Columns of `probe` by which a clip is cut."""


@dataclass(frozen=True)
class SelectedClips:
    """What a run kept."""

    store: Store
    record: RunRecord
    inputs: Mapping[str, str]
    """What `select` read: key to stage."""
    system_prompts: Mapping[str, str]
    """By their ids."""
    counts: Mapping[tuple[str, str], int]
    """Kept clips by split and kind of media."""

    @property
    def splits(self) -> list[str]:
        """Names of those that have clips."""
        return sorted({split for split, _ in self.counts}, reverse=True)

    @property
    def media(self) -> list[str]:
        """Kinds that occur."""
        return sorted({kind for _, kind in self.counts})

    @property
    def outputs(self) -> dict[str, str]:
        """Stage to the digest of its output that is read."""
        names = sorted({STAGE, *self.inputs.values()})
        return {name: self.record.stages[name].digest or "" for name in names}

    def schema(self) -> pa.Schema:
        """Columns of the rows that are exported."""
        import pyarrow as pa

        tables = self._tables()
        clips, selected = tables["clips"].schema, recorded_rows(self.store, self.record, STAGE).schema
        known = {name: field for table in (clips, selected) for name, field in zip(table.names, table, strict=True)}
        fields = [known[name] for name in _SELECTED]
        fields[4:4] = [pa.field("system_prompt", pa.string()), pa.field("composed_prompt", pa.string())]
        fields += [known[name] for name in (*_PLACE, *_SIZE)]
        fields += [known["motion_score"], pa.field("sets", pa.string()), known["extra"]]
        taken, own = {field.name for field in fields}, {*_scores(tables["clips"])}
        scores: dict[str, pa.Field] = {}
        for key, table in tables.items():
            # Of several tables the one whose values they are, see `_range`.
            names = (name for name in _scores(table) if key == "clips" or name not in own)
            scores |= {name: table.schema.field(name) for name in names if name not in taken}
        return pa.schema(pa.field(field.name, field.type) for field in (*fields, *scores.values()))

    def rows(self, split: str) -> Iterator[dict[str, Any]]:
        """The clips of a split, with all columns of the schema, and those by which they are cut."""
        selected = recorded_rows(self.store, self.record, STAGE)
        tables = self._tables()
        with reading(self.record.run, "selected clips"):
            for ids in id_ranges(selected):
                yield from self._range(selected, tables, ids, split)

    def _range(
        self, selected: ds.Dataset, tables: Mapping[str, ds.Dataset], ids: Shard, split: str
    ) -> Iterator[dict[str, Any]]:
        import pyarrow.compute as pc

        wanted = ids.holds("clip_id") & pc.field("keep") & (pc.field("split") == split)
        columns = [*_SELECTED, "motion_score", "stages"]
        rows = selected.to_table(columns=columns, filter=wanted).sort_by("clip_id")
        found: dict[str, pa.ChunkedArray] = {}
        # A name that several tables have is the clips' own, else the last one's, as for the rules.
        for key, table in reversed([*tables.items()]):
            names = _scores(table) if key != "clips" else [*_scores(table), *_PLACE, *_SIZE, *_READING, "extra"]
            names = [*dict.fromkeys(name for name in names if key == "clips" or name not in found)]
            beside = table.to_table(columns=["clip_id", *names], filter=ids.holds("clip_id"))
            at = pc.index_in(rows["clip_id"], beside["clip_id"])
            if at.null_count:
                raise ValueError(f"{at.null_count} clips are missing from the table of {self.inputs[key]}")
            found |= {name: beside[name].take(at) for name in names}
        for name, column in found.items():
            if name not in rows.column_names:
                rows = rows.append_column(name, column)
        for batch in rows.to_batches(max_chunksize=4096):
            for row in batch.to_pylist():
                yield row | self._prompts(row)

    def _prompts(self, row: Mapping[str, Any]) -> dict[str, str | None]:
        from lumina.system_prompts import compose

        system, stages = self.system_prompts.get(row["system_prompt_id"] or ""), row["stages"]
        return {
            "system_prompt": system,
            "composed_prompt": row["caption"].strip() if system is None else compose(system, row["caption"]),
            "sets": None if stages is None else " ".join(stages),
        }

    def _tables(self) -> dict[str, ds.Dataset]:
        """The clips, and the tables beside them that hold scores, in the order of `curation.selection`."""
        from curation.selection import DUPLICATES

        given = [key for key in ("clips", "motion", "scores", DUPLICATES) if key in self.inputs]
        others = sorted(key for key in self.inputs if key not in (*given, "tag"))
        return {key: recorded_rows(self.store, self.record, self.inputs[key]) for key in (*given, *others)}


def _scores(table: ds.Dataset) -> list[str]:
    from curation.rules import score_columns

    return list(score_columns(table.schema))


def read_selected(store: Store, record: RunRecord) -> SelectedClips:
    """What a recorded run selected.

    Raises:
        PipelineError: it has no selection, or one that keeps nothing.
        StoreError: an output is gone or damaged.
    """
    import pyarrow.compute as pc

    entry = record.stages.get(STAGE)
    if entry is None or entry.path is None or "clips" not in entry.inputs:
        raise PipelineError(
            f"run {record.run} has no selection, so there is nothing to export: its stage {STAGE} is not done; "
            "`lumina run` with its config goes on"
        )
    counts = Counter[tuple[str, str]]()
    with reading(record.run, "selected clips"):
        for batch in recorded_rows(store, record, STAGE).to_batches(
            columns=["split", "media"], filter=pc.field("keep")
        ):
            counts.update(zip(batch["split"].to_pylist(), batch["media"].to_pylist(), strict=True))
        prompts = _system_prompts(store, record, entry.inputs)
    if not counts:
        raise PipelineError(
            f"run {record.run} selected no clip, so there is nothing to export: `lumina selection {record.run}` says "
            "which rule took them"
        )
    return SelectedClips(store, record, dict(entry.inputs), prompts, dict(counts))


def _system_prompts(store: Store, record: RunRecord, inputs: Mapping[str, str]) -> dict[str, str]:
    from curation.sources import SYSTEM_PROMPTS_FILE
    from lumina.system_prompts import read_system_prompts

    if "tag" not in inputs:
        return {}
    entry = record.stages[inputs["tag"]]
    manifest = store.lookup(inputs["tag"], entry.fingerprint) if entry.fingerprint else None
    path = store.root / (entry.path or "")
    if manifest is not None and store.output(manifest) == path:
        path = store.fetch(manifest, lambda name: name == SYSTEM_PROMPTS_FILE)
    prompts = read_system_prompts(path / SYSTEM_PROMPTS_FILE)
    return {prompt.system_prompt_id: prompt.text for prompt in prompts.values()}
