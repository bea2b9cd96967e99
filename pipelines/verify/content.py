"""What `lumina verify` finds inside files: their SHA-256, content digests, and rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.files import listing_digest
from lumina.files import sha256_file
from pipelines.storage.manifest import Manifest, OutputFile
from pipelines.verify.verification import Problem, Row

if TYPE_CHECKING:
    from curation.digest import RowsDigest

_SMALL_BYTES = 256 << 10
"""Files up to this size are read at once: opening costs more than reading."""
_CHUNK = 256
"""Files that a thread takes at a time."""


@dataclass
class Content:
    """What was found of one stage."""

    problems: list[Problem]
    not_checked: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Output:
    """The output of one stage, and what is recorded of it."""

    store: Path
    """The store's directory."""
    path: Path
    manifest: Manifest

    def place(self, path: str) -> str:
        """A file's path relative to the store, from the one relative to the output."""
        return (self.path / path).relative_to(self.store).as_posix()

    def edited(self, detail: str) -> Problem:
        """The record says something that the files do not."""
        record = self.path.parents[1] / self.manifest.fingerprint.removeprefix("sha256:")[:20] / "MANIFEST.json"
        return Problem("edited", record.relative_to(self.store).as_posix(), detail)


def check_content(output: Output, problems: Sequence[Problem], deep: bool, rows: bool, threads: int) -> Content:
    """Compare what files contain with the record.

    Args:
        output: what is checked.
        problems: what is known to be wrong with it.
        deep: hash every file, and compute the content digest again.
        rows: read all rows, and name those that are wrong.
        threads: that hash files.

    Returns the problems, known and new; those of files with rows tell which, with `rows`.
    """
    manifest, known = output.manifest, {problem.path for problem in problems}
    content = Content(list(problems))
    if deep:
        present = [file for file in manifest.files if output.place(file.path) not in known]
        for file, detail in _hash_all(output.path, present, threads):
            content.problems.append(Problem("damaged", output.place(file.path), detail))
    broken = {problem.path for problem in content.problems}
    sound = not any(output.place(file.path) in broken for file in manifest.files)
    if manifest.kind == "rows":
        tables = [file for file in manifest.files if file.path.startswith("data/") and file.path.endswith(".parquet")]
        _check_rows(output, [file.path for file in tables], content, rows)
    elif deep and sound:
        _check_digest(output, content)
    elif deep:
        content.not_checked.append("its content digest: files of it are missing or damaged")
    return content


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


def _check_digest(output: Output, content: Content) -> None:
    """The content digest of an output that has no rows, computed again from files that are as recorded."""
    manifest, out = output.manifest, output.path
    if manifest.kind == "checkpoint":
        if not manifest.weights:
            content.not_checked.append("its content digest: its record does not say which weights it is over")
            return
        from lumina import checkpoints

        try:
            weights = {name: checkpoints.load_weights(out / folder) for name, folder in manifest.weights.items()}
        except (OSError, ValueError) as error:
            content.problems.append(output.edited(f"its weights cannot be loaded: {error}"))
            return
        if (value := checkpoints.digest(weights)) != manifest.digest:
            content.problems.append(output.edited(f"has the digest {manifest.digest}, weights {value}"))
        return
    # The files are as recorded by now, so their recorded digests will do.
    of_all = listing_digest((file.path, file.sha256) for file in manifest.files)
    if manifest.digest not in {of_all, *(f"sha256:{file.sha256}" for file in manifest.files)}:
        content.not_checked.append("its content digest: neither of one of its files nor of all together")


def _check_rows(output: Output, files: Sequence[str], content: Content, name_rows: bool) -> None:
    """Compute the digest of all rows again; with `name_rows`, hold each row against the index of rows.

    Args:
        output: what is checked.
        files: the data files, relative to the output.
        content: takes what is found.
        name_rows: whether to name rows.
    """
    from curation.digest import RowsDigest

    broken = {problem.path for problem in content.problems}
    index = _index(output, content) if name_rows else {}
    total, whole = RowsDigest(), True
    suspects: dict[str, tuple[Row, ...]] = {}
    for path in files:
        place = output.place(path)
        if place in broken and not name_rows:
            whole = False
            continue
        read = _read_rows(output.path / path)
        total, whole = total + read.digest, whole and read.error is None
        wrong = _wrong_rows(*index[path], read.marks) if path in index else ()
        if place not in broken and (read.error or wrong):
            content.problems.append(Problem("damaged", place, read.error or "rows are not what was written"))
        if wrong:
            suspects[place] = wrong
        elif path in index and (place in broken or read.error):
            content.not_checked.append(f"{path}: all its rows can be read and are right; the damage lies between them")
    content.problems = [
        replace(problem, rows=suspects[problem.path]) if problem.path in suspects else problem
        for problem in content.problems
    ]
    if not whole:
        content.not_checked.append("its content digest: files of it are missing or damaged")
    elif str(total) != output.manifest.digest and not suspects:
        content.problems.append(output.edited(f"has the digest {output.manifest.digest}, its rows {total}"))


def _index(output: Output, content: Content) -> dict[str, tuple[list[str], list[bytes]]]:
    """The index of rows, if it is there and can be trusted."""
    from jobs.row_index import INDEX_FILE, read_row_index

    out = output.path
    listed = next((file for file in output.manifest.files if file.path == INDEX_FILE), None)
    if listed is None:
        content.not_checked.append("its single rows: it was made without an index of rows")
        return {}
    try:
        if _sha256(str(out / INDEX_FILE), listed.bytes) != listed.sha256:
            raise ValueError(f"{out / INDEX_FILE} is not what was written")
        return read_row_index(out)
    except (OSError, ValueError) as error:
        content.not_checked.append(f"its single rows: the index of rows cannot be used: {error}")
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

    from curation.digest import MARK_BYTES, RowsDigest, row_digest_and_marks

    digest, marks, failed = RowsDigest(), list[bytes | None](), None
    unreadable = (OSError, ValueError, MemoryError, TypeError, pa.ArrowException)
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                try:
                    part, found = row_digest_and_marks(file.read_row_group(group))
                except unreadable as error:
                    size = file.metadata.row_group(group).num_rows
                    failed = failed or f"rows {len(marks)} to {len(marks) + size - 1} cannot be read: {_line(error)}"
                    marks += [None] * size
                    continue
                digest = digest + part
                marks += [found[at : at + MARK_BYTES] for at in range(0, len(found), MARK_BYTES)]
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
