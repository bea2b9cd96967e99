"""Content check of an output: the SHA-256 of its files, its content digest, and its rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.digest import HASH_BYTES, RowsDigest, row_digest_and_hashes
from jobs.files import listing_digest
from jobs.row_index import INDEX_FILE, RowIndex
from lumina.files import sha256_file
from pipelines.compare.verification import Row, StageFindings
from pipelines.engine.store.manifest import Manifest, OutputFile

_CHUNK = 256
"""Files that a thread takes at a time."""
_BATCH_BYTES = 1 << 30
"""That are fetched from a bucket at a time."""
_READ_ROWS = 4096
"""Rows that are in memory at a time."""
_HASH = pa.binary(HASH_BYTES)


def check_content(stage: StageFindings, manifest: Manifest, deep: bool, rows: bool, threads: int) -> None:
    """Compare what files contain with the record.

    Args:
        stage: takes what is found; the problems of files with rows tell which, with `rows`.
        manifest: its record.
        deep: hash every file, and compute the content digest again.
        rows: read all rows, and name those that are wrong.
        threads: that hash files.
    """
    total: RowsDigest | None = RowsDigest()
    index: RowIndex | None = None
    batches = _batches(stage, manifest, deep)
    with ExitStack() as to_close:
        for files in batches:
            with stage.store.copy.download_temp(stage.out, files) as here:
                if deep:
                    known = _broken(stage)
                    present = [file for file in files if stage.place(file.path) not in known]
                    for file, detail in _hash_all(here, present, threads):
                        stage.add("damaged", stage.out / file.path, detail)
                if manifest.kind != "rows":
                    if deep and files is batches[-1]:
                        _check_digest(stage, manifest, here)
                    continue
                if rows and files is batches[0] and (index := _index(stage, manifest, here)) is not None:
                    to_close.enter_context(closing(index))
                for file in filter(_is_table, files):
                    digest = _check_table(stage, here, file.path, rows, index)
                    total = None if total is None or digest is None else total + digest
    if manifest.kind != "rows":
        return
    if total is None:
        stage.skip("its content digest: files of it are missing or damaged")
    elif str(total) != manifest.digest and not any(problem.rows for problem in stage.problems):
        stage.blame("edited", f"has the digest {manifest.digest}, its rows {total}")


def _broken(stage: StageFindings) -> set[str]:
    return {problem.path for problem in stage.problems}


def _batches(stage: StageFindings, manifest: Manifest, deep: bool) -> list[list[OutputFile]]:
    """The files that are looked at, at least one batch; from a bucket no more at a time than a disk has room for."""
    files, kind = list(manifest.files), manifest.kind
    if not stage.store.in_bucket or (deep and kind == "checkpoint"):
        return [files]
    if not deep:
        files = [file for file in files if kind == "rows" and (_is_table(file) or file.path == INDEX_FILE)]
    batches: list[list[OutputFile]] = [[]]
    room = _BATCH_BYTES
    # What every table is held against comes first.
    for file in sorted(files, key=lambda file: file.path != INDEX_FILE):
        if batches[-1] and room < file.bytes:
            batches.append([])
            room = _BATCH_BYTES
        batches[-1].append(file)
        room -= file.bytes
    return batches


def _is_table(file: OutputFile) -> bool:
    return file.path.startswith("data/") and file.path.endswith(".parquet")


def _hash_all(out: Path, files: Sequence[OutputFile], threads: int) -> list[tuple[OutputFile, str]]:
    """The files whose content is not the recorded one, with what is wrong."""
    root = f"{out}{os.sep}"

    def check(chunk: Sequence[OutputFile]) -> list[tuple[OutputFile, str]]:
        wrong = []
        for file in chunk:
            try:
                value = sha256_file(Path(root + file.path))
            except OSError as error:
                wrong.append((file, f"cannot be read: {error.strerror or error}"))
                continue
            if value != file.sha256:
                wrong.append((file, f"has the SHA-256 {value}, {file.sha256} expected"))
        return wrong

    chunks = [files[at : at + _CHUNK] for at in range(0, len(files), _CHUNK)]
    with ThreadPoolExecutor(threads) as pool:
        return [one for wrong in pool.map(check, chunks) for one in wrong]


def _check_digest(stage: StageFindings, manifest: Manifest, out: Path) -> None:
    """The content digest of an output that has no rows, computed again if its files are as recorded."""
    broken = _broken(stage)
    if any(stage.place(file.path) in broken for file in manifest.files):
        stage.skip("its content digest: files of it are missing or damaged")
        return
    if manifest.kind == "checkpoint":
        if not manifest.weights:
            stage.skip("its content digest: its record does not say which weights it is over")
            return
        from lumina import checkpoints

        try:
            weights = {name: checkpoints.load_weights(out / folder) for name, folder in manifest.weights.items()}
        except (OSError, ValueError) as error:
            stage.blame("edited", f"its weights cannot be loaded: {stage.text(error, out)}")
            return
        if (value := checkpoints.digest(weights)) != manifest.digest:
            stage.blame("edited", f"has the digest {manifest.digest}, weights {value}")
        return
    # The files are as recorded by now, so their recorded digests will do.
    of_all = listing_digest((file.path, file.sha256) for file in manifest.files)
    if manifest.digest not in {of_all, *(f"sha256:{file.sha256}" for file in manifest.files)}:
        stage.skip("its content digest: neither of one of its files nor of all together")


def _index(stage: StageFindings, manifest: Manifest, out: Path) -> RowIndex | None:
    """The index of rows, if it is there and can be trusted."""
    listed = next((file for file in manifest.files if file.path == INDEX_FILE), None)
    if listed is None:
        stage.skip("its single rows: it was made without an index of rows")
        return None
    try:
        if sha256_file(out / INDEX_FILE) != listed.sha256:
            raise ValueError(f"{out / INDEX_FILE} is not what was written")
        return RowIndex(out)
    except (OSError, ValueError) as error:
        stage.skip(f"its single rows: the index of rows cannot be used: {stage.text(error, out)}")
        return None


def _check_table(
    stage: StageFindings, here: Path, path: str, name_rows: bool, index: RowIndex | None
) -> RowsDigest | None:
    """Hold the rows of a file against the index, if there is one; returns their digest, None if some are lost."""
    place = stage.place(path)
    broken = place in _broken(stage)
    if broken and not name_rows:
        return None
    read = _read_rows(here / path)
    expected = index.rows(path) if index else None
    wrong = _wrong_rows(expected, read.hashes) if expected else ()
    if not broken and (read.error or wrong):
        stage.add("damaged", stage.out / path, stage.text(read.error or "rows are not what was written", here))
    if wrong:
        stage.problems = [
            replace(problem, rows=wrong) if problem.path == place else problem for problem in stage.problems
        ]
    elif expected and (broken or read.error):
        stage.skip(f"{path}: all its rows can be read and are right; the damage lies between them")
    return None if read.error else read.digest


@dataclass(frozen=True)
class _Read:
    """The rows of one file, as far as they can be read."""

    digest: RowsDigest
    hashes: pa.ChunkedArray
    """Content hash of each; null for a row that cannot be read."""
    error: str | None


def _read_rows(path: Path) -> _Read:
    digest, hashes, failed = RowsDigest(), pa.chunked_array([], _HASH), None
    unreadable = (OSError, ValueError, MemoryError, TypeError, pa.ArrowException)
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                try:
                    batches = file.iter_batches(_READ_ROWS, [group])
                    parts = [row_digest_and_hashes(pa.Table.from_batches([batch])) for batch in batches]
                except unreadable as error:
                    size = file.metadata.row_group(group).num_rows
                    lost = f"rows {len(hashes)} to {len(hashes) + size - 1} cannot be read: {_line(error)}"
                    failed, found = failed or lost, [pa.nulls(size, _HASH)]
                else:
                    digest = sum((part for part, _ in parts), digest)
                    found = [_as_hashes(part) for _, part in parts]
                hashes = pa.chunked_array([*hashes.chunks, *found], _HASH)
    except FileNotFoundError:
        failed = "is not there"
    except unreadable as error:
        failed = f"cannot be read: {_line(error)}"
    return _Read(digest, hashes, failed)


def _as_hashes(data: bytes) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(_HASH, len(data) // HASH_BYTES, [None, pa.py_buffer(data)])


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def _wrong_rows(expected: pa.Table, found: pa.ChunkedArray) -> tuple[Row, ...]:
    """Rows that were written and are not there any more, or not as they were."""
    lacking = pa.nulls(max(0, len(expected) - len(found)), _HASH)
    now = pa.chunked_array([*found.chunks, lacking], _HASH).slice(0, len(expected))
    places = np.flatnonzero(pc.fill_null(pc.not_equal(expected["content_hash"], now), True).to_numpy())
    ids = expected["id"].take(pa.array(places)).to_pylist()
    return tuple(Row(row, name) for row, name in zip(places.tolist(), ids, strict=True))
