"""Row reuse: rows that an earlier output of a stage, or its own output opened again, has already.

What a row's computation is given is in the plan: where an earlier output of the same recipe was given the same for a
clip, it holds the same result, whatever other clips came or went. Passthrough columns are those of now. Shards look by
themselves, each in its own range of ids.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.digest import row_digest_and_hashes
from curation.operator import Operator, Shard
from jobs.batches import BATCH, INPUT_HASH
from jobs.files import link_or_copy
from jobs.parts import PartWriter, read_parts
from jobs.row_index import read_input_hashes
from lumina.files import replace_file

_DATA_FILE = re.compile(r"data/(?!\.)[^/\0]+\.parquet")
_PART_BYTES = 256 << 20
_WITHOUT = "without.json"


def keep(data: Path, work: Path, without: Iterable[str]) -> None:
    """Link the Parquet files in `data` into the scratch directory `work`, for the next run to reuse their rows.

    Those with the ids `without` are not reused.
    """
    directory = kept(work)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for file in sorted(data.glob("*.parquet")):
        link_or_copy(file, directory / file.name)
    replace_file(directory / _WITHOUT, json.dumps(sorted(without)).encode())


def kept(work: Path) -> Path:
    """Where `keep` puts rows."""
    return work / "kept"


def reuse_kept(planned: pa.Table, number: int, files: Iterable[str], directory: Path, writer: PartWriter) -> None:
    """Write the rows of a shard that were kept as parts, as far as they fill whole batches.

    Args:
        planned: rows of the shard, see `jobs.batches`.
        number: of the shard.
        files: kept Parquet files that may hold its rows.
        directory: see `kept`.
        writer: of the stage.
    """
    if not (directory / _WITHOUT).exists():
        return
    without = pa.array(json.loads((directory / _WITHOUT).read_text(encoding="utf-8")), pa.string())
    tables = (pq.read_table(file, partitioning=None) for file in files)
    wanted = (rows.filter(pc.invert(pc.is_in(rows[writer.key], without))) for rows in tables)
    _write(wanted, _unfinished(planned, number, writer), number, writer, "")


def reuse_earlier(
    planned: pa.Table, shard: Shard, number: int, out: Path, operator: Operator, writer: PartWriter, fingerprint: str
) -> tuple[list[str], str]:
    """Write the rows of a shard that an earlier output has as parts, as far as they fill whole batches.

    Args:
        planned: rows of the shard, see `jobs.batches`.
        shard: its range of ids.
        number: of the shard.
        out: directory of the output.
        operator: of the stage.
        writer: of the stage.
        fingerprint: of the output.

    Returns paths in `out` that are wanted and not there, and what is damaged: rows of these are not reused.
    """
    rows, missing = _unfinished(planned, number, writer), []
    try:
        index = read_input_hashes(out, shard)
        at = pc.index_in(index["id"], rows[writer.key].combine_chunks())
        index = index.append_column("at", at).filter(pc.is_valid(at))
        now = rows[INPUT_HASH].take(index["at"])
        index = index.filter(pc.equal(index["input_hash"], now).fill_null(False)).sort_by(
            [("file", "ascending"), ("row", "ascending")]
        )
        names = pc.unique(index["file"]).to_pylist()
        for name in names:
            if not _DATA_FILE.fullmatch(name or ""):
                raise ValueError(f"the index of rows names {name!r:.80}, which is no file of rows")
        missing = [name for name in names if not (out / name).is_file()]
        found = (
            _read(out / name, index.filter(pc.equal(index["file"], name)), rows, operator)
            for name in names
            if name not in missing
        )
        _write(found, rows, number, writer, fingerprint)
    except (FileNotFoundError, ValueError) as error:
        return missing, str(error)  # what was written is whole
    return missing, ""


def _unfinished(planned: pa.Table, number: int, writer: PartWriter) -> pa.Table:
    done = sorted(batch for part in read_parts(writer.directory, number) for batch in part.numbers)
    return planned.filter(pc.invert(pc.is_in(planned[BATCH], pa.array(done, pa.int64()))))


def _read(file: Path, index: pa.Table, planned: pa.Table, operator: Operator) -> pa.Table:
    """The indexed rows of a file, with passthrough columns as planned. ValueError if it is not what was written."""
    try:
        rows = pq.read_table(file, partitioning=None)
        rows = rows.take(index["row"])
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    _, hashes = row_digest_and_hashes(rows)
    if hashes != b"".join(index["content_hash"].to_pylist()) or not rows[operator.key].equals(index["id"]):
        raise ValueError(f"{file}: its rows are not what was written")
    for column, field in enumerate(rows.schema):
        if field.name in operator.passthrough_columns:
            rows = rows.set_column(column, field, planned[field.name].take(index["at"]).cast(field.type))
    return rows


def _write(tables: Iterable[pa.Table], planned: pa.Table, number: int, writer: PartWriter, fingerprint: str) -> None:
    whole: list[pa.Table] = []
    held = 0

    def flush() -> None:
        if whole:
            rows = pa.concat_tables(whole)
            numbers = np.unique(rows[BATCH].to_numpy()).tolist()
            its = planned.filter(pc.is_in(planned[BATCH], pa.array(numbers, pa.int64())))
            writer.write(rows.drop_columns([BATCH]).combine_chunks(), number, numbers, its, fingerprint)
            whole.clear()

    for rows in _whole_batches(tables, planned, writer.key):
        whole.append(rows)
        held += rows.nbytes
        if held > _PART_BYTES:
            flush()
            held = 0
    flush()


def _whole_batches(tables: Iterable[pa.Table], planned: pa.Table, key: str) -> Iterator[pa.Table]:
    """The planned ones of the rows in `tables`, as soon as all of their batch have come, with its number."""
    if not len(planned):
        return
    ids, numbers = planned[key].combine_chunks(), planned[BATCH].to_numpy()
    sizes = np.bincount(numbers)
    waiting: list[pa.Table] = []
    for table in tables:
        at = pc.index_in(table[key], ids)
        rows = table.filter(pc.is_valid(at))
        rows = rows.append_column(BATCH, pa.array(numbers[at.drop_null().to_numpy()]))
        rows = pa.concat_tables([*waiting, rows])
        batches = rows[BATCH].to_numpy()
        is_whole = np.bincount(batches, minlength=len(sizes))[batches] == sizes[batches]
        waiting = [rows.filter(pa.array(~is_whole))]
        if is_whole.any():
            yield rows.filter(pa.array(is_whole))
