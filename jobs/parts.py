"""Part files: finished rows of a shard on the disk, as Parquet, each with its index of rows and one small record.

A part holds whole work batches. Its files come first and its record last, each put under its name when it is complete
and on the disk; so whatever was killed, the parts with a record are what need not be computed again.
"""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.digest import RowsDigest, row_digest_and_hashes
from curation.operator import Layout
from curation.schema import Status, counts
from jobs.files import link_or_copy
from jobs.row_index import index_rows
from jobs.shards import write_table
from lumina.files import replace_file, replacing

log = logging.getLogger(__name__)

Span = tuple[int, int]
"""Numbers from the first up to, and not with, the second."""
_FILE = re.compile(r"part-\d+-\d+-[0-9a-f]{8}-\d+-n(\d+)\.parquet")


@dataclass(frozen=True)
class PartFile:
    """One Parquet file."""

    name: str
    rows: int
    digest: RowsDigest


@dataclass(frozen=True)
class Failed:
    """Rows that came in well, and that the stage quarantined for one reason."""

    rows: int
    key: str
    """Of the first of them, by its id."""
    detail: str
    """What happened to it."""


@dataclass(frozen=True)
class Part:
    """What one worker put on the disk at once."""

    shard: int
    batches: tuple[Span, ...]
    files: tuple[PartFile, ...]
    counts: Counter[str] = field(hash=False)
    """See `curation.schema.counts`."""
    came_well: int = 0
    """Rows that were `ok` as they were planned."""
    failed: Mapping[str, Failed] = field(default_factory=dict, hash=False)
    """By reason."""
    reused_from: str = ""
    """Fingerprint of the earlier output whose rows these are; empty for rows that were computed."""

    @property
    def numbers(self) -> set[int]:
        """Of its batches."""
        return {number for start, stop in self.batches for number in range(start, stop)}

    @property
    def stem(self) -> str:
        """Names of its files begin so: told by the batches alone, so that work done twice replaces itself."""
        return f"part-{self.shard:06}-{self.batches[0][0]:08}-{zlib.crc32(repr(self.batches).encode()):08x}"

    def index_path(self, directory: Path) -> Path:
        """Where its rows are listed, see `jobs.row_index`."""
        return directory / f"{self.stem}.arrow"

    def record_path(self, directory: Path) -> Path:
        """Where its record lies."""
        return directory / f"{self.stem}.json"


@dataclass(frozen=True)
class PartWriter:
    """Where finished rows of one stage go."""

    directory: Path
    layout: Layout
    key: str = "clip_id"
    stage: str = ""
    """Name by which the operator signs the rows that it sets aside."""

    def write(
        self,
        table: pa.Table,
        shard: int = 0,
        batches: Sequence[int] = (0,),
        planned: pa.Table | None = None,
        reused_from: str = "",
    ) -> Part:
        """Write the rows of some batches as one file, or as one per value of `layout.split_by`, and their record.

        Args:
            table: the rows.
            shard: that they belong to.
            batches: ascending numbers of all batches that they make.
            planned: the same rows as they were planned, where that is known: with `jobs.batches.INPUT_HASH`.
            reused_from: see `Part`.
        """
        came_well, failed = (0, {}) if planned is None else self._failed(table, planned)
        part = Part(shard, spans(batches), (), Counter(counts(table)), came_well, failed, reused_from)
        files, indexes = [], []
        for number, rows in enumerate(_split(table, self.layout.split_by)):
            name = f"{part.stem}-{number:03}-n{len(rows)}.parquet"
            digest, hashes = row_digest_and_hashes(rows)
            with replacing(self.directory / name, sync=True) as partial:
                _write_parquet(rows, partial, self.layout)
            files.append(PartFile(name, len(rows), digest))
            indexes.append(index_rows(name, rows, hashes, self.key, planned))
        write_table(part.index_path(self.directory), pa.concat_tables(indexes))
        record = {
            "shard": part.shard,
            "batches": part.batches,
            "files": [{"name": file.name, "rows": file.rows, "digest": str(file.digest)} for file in files],
            "counts": part.counts,
            "came_well": came_well,
            "failed": {reason: [one.rows, one.key, one.detail] for reason, one in failed.items()},
            "reused_from": reused_from,
        }
        replace_file(part.record_path(self.directory), json.dumps(record).encode(), sync=True)
        return Part(part.shard, part.batches, tuple(files), part.counts, came_well, failed, reused_from)

    def _failed(self, table: pa.Table, planned: pa.Table) -> tuple[int, dict[str, Failed]]:
        well = planned.filter(pc.equal(planned["status"], Status.OK))
        own = pc.and_(pc.equal(table["status"], Status.QUARANTINED), pc.equal(table["reason_stage"], self.stage))
        rows = table.filter(own.fill_null(False))
        if len(rows):
            rows = rows.filter(pc.is_in(rows[self.key], well[self.key].combine_chunks())).sort_by(self.key)
        found: dict[str, Failed] = {}
        for one in pc.value_counts(rows["reason"]).to_pylist():
            first = rows.filter(pc.equal(rows["reason"], one["values"])).slice(0, 1).to_pylist()[0]
            uri = first.get("uri")
            if uri is None and "uri" in planned.column_names:
                uri = planned.filter(pc.equal(planned[self.key], first[self.key]))["uri"][0].as_py()
            detail = " ".join((first["detail"] or "").split())
            detail = detail if uri is None or uri in detail else f"{uri}: {detail}"
            found[one["values"]] = Failed(one["counts"], first[self.key], detail)
        return len(well), found


def spans(numbers: Iterable[int]) -> tuple[Span, ...]:
    """Ascending numbers as spans: (3, 4, 5, 9) is ((3, 6), (9, 10))."""
    found: list[Span] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return tuple(found)


def _split(table: pa.Table, column: str | None) -> Iterator[pa.Table]:
    if column is None or not len(table):
        yield table
        return
    values = sorted(pc.unique(table[column]).to_pylist(), key=lambda value: (value is None, value))
    for value in values:
        is_its = pc.is_null(table[column]) if value is None else pc.equal(table[column], value).fill_null(False)
        yield table.filter(is_its)


def _write_parquet(rows: pa.Table, path: Path, layout: Layout) -> None:
    most = layout.row_group_bytes * len(rows) // max(1, rows.nbytes)
    pq.write_table(
        rows,
        path,
        row_group_size=max(1, min(layout.row_group_size, most)),
        compression=layout.compression,
        use_dictionary=layout.use_dictionary,
    )


def read_part(path: Path) -> Part:
    """Read a record. ValueError if it is none, or names a file that is not beside it."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        part = Part(
            int(record["shard"]),
            tuple((int(start), int(stop)) for start, stop in record["batches"]),
            tuple(
                PartFile(_own(file["name"]), int(file["rows"]), RowsDigest.parse(file["digest"]))
                for file in record["files"]
            ),
            Counter(record["counts"]),
            int(record["came_well"]),
            {reason: Failed(int(rows), key, detail) for reason, (rows, key, detail) in record["failed"].items()},
            record["reused_from"],
        )
        if path.stem != part.stem:
            raise ValueError("it is another part's")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"{path} is no record of a part: {error!r}") from error
    return part


def _own(name: str) -> str:
    if not _FILE.fullmatch(name):
        raise ValueError(f"{name!r:.80} is no name of a part")
    return name


def read_parts(directory: Path, shard: int | None = None) -> list[Part]:
    """The whole parts in `directory`, or those of a shard, in order, such that no batch is in two of them.

    Two workers may have done the same batch (one was taken for dead); the later part is then left out, whole.
    """
    parts: list[Part] = []
    seen = set[int]()
    for path in sorted(directory.glob("part-*.json" if shard is None else f"part-{shard:06}-*.json")):
        try:
            part = read_part(path)
        except ValueError as error:
            log.warning("%s; its rows are computed again", error)
            continue
        if parts and parts[-1].shard != part.shard:
            seen.clear()
        numbers = part.numbers
        here = [*(directory / file.name for file in part.files), part.index_path(directory)]
        if seen.isdisjoint(numbers) and all(map(_is_here, here)):
            seen.update(numbers)
            parts.append(part)
    return parts


def _is_here(path: Path) -> bool:
    """A link is not: it may lead anywhere."""
    return path.is_file() and not path.is_symlink()


def link_parts(parts: Iterable[Part], source: Path, target: Path) -> None:
    """Put the files of finished parts where the stage's output belongs; they stay, in case it is never committed."""
    for part in parts:
        for file in part.files:
            link_or_copy(source / file.name, target / file.name)


def rows_written(directory: Path) -> int:
    """Rows of the files in `directory`, from their names alone."""
    matches = (_FILE.fullmatch(path.name) for path in directory.iterdir())
    return sum(int(match[1]) for match in matches if match)
