"""Content check of an output: the SHA-256 of its files, its content digest, and its rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from curation.digest import HASH_BYTES, RowsDigest, row_digest_and_hashes
from jobs.files import listing_digest
from jobs.row_index import INDEX_FILE, read_row_index
from lumina.files import sha256_file
from pipelines.compare.verification import Row, StageFindings
from pipelines.engine.store.manifest import Manifest, OutputFile

_SMALL_BYTES = 256 << 10
"""Files up to this size are read at once: opening costs more than reading."""
_CHUNK = 256
"""Files that a thread takes at a time."""
_BATCH_BYTES = 1 << 30
"""That are fetched from a bucket at a time."""


def check_content(stage: StageFindings, manifest: Manifest, deep: bool, rows: bool, threads: int) -> None:
    """Compare what files contain with the record.

    Args:
        stage: takes what is found; the problems of files with rows tell which, with `rows`.
        manifest: its record.
        deep: hash every file, and compute the content digest again.
        rows: read all rows, and name those that are wrong.
        threads: that hash files.
    """
    tables = _Tables(stage, manifest, rows) if manifest.kind == "rows" else None
    batches = _batches(stage, manifest, deep)
    for files in batches:
        with stage.store.copy.download_temp(stage.out, files) as here:
            if deep:
                known = _broken(stage)
                present = [file for file in files if stage.place(file.path) not in known]
                for file, detail in _hash_all(here, present, threads):
                    stage.add("damaged", stage.out / file.path, detail)
            if tables is not None:
                tables.read(here, [file.path for file in files if _is_table(file)])
            elif deep and files is batches[-1]:
                _check_digest(stage, manifest, here)
    if tables is not None:
        tables.end()


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
                value = _sha256(root + file.path, file.bytes)
            except OSError as error:
                wrong.append((file, f"cannot be read: {error.strerror or error}"))
                continue
            if value != file.sha256:
                wrong.append((file, f"has the SHA-256 {value}, {file.sha256} expected"))
        return wrong

    chunks = [files[at : at + _CHUNK] for at in range(0, len(files), _CHUNK)]
    with ThreadPoolExecutor(threads) as pool:
        return [one for wrong in pool.map(check, chunks) for one in wrong]


def _sha256(path: str, size: int) -> str:
    if size > _SMALL_BYTES:
        return sha256_file(Path(path))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        data = os.read(descriptor, size + 1)
    finally:
        os.close(descriptor)
    # A short read is no error of the file.
    return hashlib.sha256(data).hexdigest() if len(data) == size else sha256_file(Path(path))


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


class _Tables:
    """Computes the digest of all rows again, some files at a time; holds each row against the index of rows, if asked.

    Args:
        stage: takes what is found.
        manifest: its record.
        name_rows: whether to name rows.
    """

    def __init__(self, stage: StageFindings, manifest: Manifest, name_rows: bool) -> None:
        self.stage, self.manifest, self.name_rows = stage, manifest, name_rows
        self.index: Mapping[str, tuple[list[str], list[bytes]]] | None = None if name_rows else {}
        self.total, self.whole = RowsDigest(), True
        self.suspects: dict[str, tuple[Row, ...]] = {}

    def read(self, here: Path, files: Sequence[str]) -> None:
        """Check the rows of these files in a directory; that of the first call has the index, too."""
        stage = self.stage
        if self.index is None:
            self.index = _index(stage, self.manifest, here)
        broken = _broken(stage)
        for path in files:
            place = stage.place(path)
            if place in broken and not self.name_rows:
                self.whole = False
                continue
            read = _read_rows(here / path)
            self.total, self.whole = self.total + read.digest, self.whole and read.error is None
            wrong = _wrong_rows(*self.index[path], read.marks) if path in self.index else ()
            if place not in broken and (read.error or wrong):
                detail = stage.text(read.error or "rows are not what was written", here)
                stage.add("damaged", stage.out / path, detail)
            if wrong:
                self.suspects[place] = wrong
            elif path in self.index and (place in broken or read.error):
                note = f"{path}: all its rows can be read and are right; the damage lies between them"
                stage.skip(note)

    def end(self) -> None:
        """All files were read: name the rows, and compare the digest."""
        stage = self.stage
        stage.problems = [
            replace(problem, rows=self.suspects[problem.path]) if problem.path in self.suspects else problem
            for problem in stage.problems
        ]
        if not self.whole:
            stage.skip("its content digest: files of it are missing or damaged")
        elif str(self.total) != self.manifest.digest and not self.suspects:
            stage.blame("edited", f"has the digest {self.manifest.digest}, its rows {self.total}")


def _index(stage: StageFindings, manifest: Manifest, out: Path) -> dict[str, tuple[list[str], list[bytes]]]:
    """The index of rows, if it is there and can be trusted."""
    listed = next((file for file in manifest.files if file.path == INDEX_FILE), None)
    if listed is None:
        stage.skip("its single rows: it was made without an index of rows")
        return {}
    try:
        if _sha256(str(out / INDEX_FILE), listed.bytes) != listed.sha256:
            raise ValueError(f"{out / INDEX_FILE} is not what was written")
        return read_row_index(out)
    except (OSError, ValueError) as error:
        stage.skip(f"its single rows: the index of rows cannot be used: {stage.text(error, out)}")
        return {}


@dataclass(frozen=True)
class _Read:
    """The rows of one file, as far as they can be read."""

    digest: RowsDigest
    marks: list[bytes | None]
    """None for a row that cannot be read."""
    error: str | None


def _read_rows(path: Path) -> _Read:
    import pyarrow as pa
    import pyarrow.parquet as pq

    digest, marks, failed = RowsDigest(), list[bytes | None](), None
    unreadable = (OSError, ValueError, MemoryError, TypeError, pa.ArrowException)
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                try:
                    part, found = row_digest_and_hashes(file.read_row_group(group))
                except unreadable as error:
                    size = file.metadata.row_group(group).num_rows
                    failed = failed or f"rows {len(marks)} to {len(marks) + size - 1} cannot be read: {_line(error)}"
                    marks += [None] * size
                    continue
                digest = digest + part
                marks += [found[at : at + HASH_BYTES] for at in range(0, len(found), HASH_BYTES)]
    except FileNotFoundError:
        failed = "is not there"
    except unreadable as error:
        failed = f"cannot be read: {_line(error)}"
    return _Read(digest, marks, failed)


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def _wrong_rows(ids: Sequence[str], marks: Sequence[bytes], found: Sequence[bytes | None]) -> tuple[Row, ...]:
    """Rows that were written and are not there any more, or not as they were."""
    there = [*found, *[None] * max(0, len(ids) - len(found))]
    return tuple(
        Row(row, name)
        for row, (name, mark, now) in enumerate(zip(ids, marks, there[: len(ids)], strict=True))
        if mark != now
    )
