"""Measure `lumina verify --deep` on many files against `sha256sum` on the same files, and on many rows.

    python benchmarks/verify.py --out WORK [--files 100000] [--kilobytes 40]
    python benchmarks/verify.py --out WORK --rows 30000 300000

One stage with that many files is put into a store. Both then hash all of it, in turns; `sha256sum` gets as many
processes as the verification has threads. What `verify` does besides (reading the record, sizes, lineage, the content
digest) is in its time. With --cold the system is told before each turn to forget the content of the files, so that the
disk is measured.

With --rows a stage of so many clips is checked instead by `verify --deep --rows`, in a process of its own: its time
against that of reading the same files by pyarrow alone, and its peak memory against that of the smallest table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow.parquet as pq

from curation.digest import RowsDigest
from curation.operator import Layout
from curation.schema import INGEST, to_table
from jobs.files import files_digest
from jobs.parts import PartWriter, link_parts
from jobs.row_index import write_row_index
from jobs.shards import read_table
from pipelines.compare.verify import verify
from pipelines.engine.fingerprint import fingerprint
from pipelines.engine.store.attempt import Attempt, list_files
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.run_record import RunRecord, StageEntry
from pipelines.engine.store.store import Store

RUN = "bench"
_FILE_ROWS = 16384


Made = tuple[str, str, dict[str, int]]
"""Kind, digest and counts of an output."""


def fill_files(files: int, size: int) -> Callable[[Attempt], Made]:
    """Write `files` files of `size` bytes."""

    def write(attempt: Attempt) -> Made:
        rng = np.random.Generator(np.random.Philox(0))
        for number in range(files):
            (attempt.out / f"{number:08}.bin").write_bytes(rng.bytes(size))
        return "files", files_digest(attempt.out), {}

    return write


def fill_rows(rows: int) -> Callable[[Attempt], Made]:
    """Write a table of `rows` clips and its index, as curation does."""

    def write(attempt: Attempt) -> Made:
        (attempt.out / "data").mkdir()
        writer, parts, digest = PartWriter(attempt.work, Layout()), [], RowsDigest()
        for start in range(0, rows, _FILE_ROWS):
            numbers = range(start, min(start + _FILE_ROWS, rows))
            clips = [
                {"clip_id": f"{n:032x}", "uri": f"s3://clips/{n}.mp4", "caption": f"clip {n} " * 20, "status": "ok"}
                for n in numbers
            ]
            parts.append(writer.write(to_table(clips, INGEST), batches=[start]))
            digest = sum((file.digest for file in parts[-1].files), digest)
        link_parts(parts, attempt.work, attempt.out / "data")
        write_row_index(attempt.out, (read_table(part.index_path(attempt.work)) for part in parts))
        return "rows", str(digest), {"in": rows, "ok": rows}

    return write


def fill(store: Store, config: dict[str, int], write: Callable[[Attempt], Made]) -> Path:
    """Put a finished stage into an empty store; where its files lie."""
    recipe = {"stage": "made", "inputs": {}, "config": config}
    name = fingerprint(recipe)
    found = store.lookup("made", name)
    if found is None:
        attempt = store.acquire("made", name)
        if not isinstance(attempt, Attempt):
            raise SystemExit(f"{attempt} fills this store")
        kind, digest, counts = write(attempt)
        listed = list_files(attempt.out)
        made = Manifest("made", name, attempt.out.name, kind, digest, recipe, listed, counts=counts)
        found = store.commit(attempt, made)
    entry = StageEntry(state="done", fingerprint=found.fingerprint, digest=found.digest)
    store.put_run(RunRecord(run=RUN, name=RUN, started="2026-01-01T00:00:00+00:00", stages={"made": entry}))
    return store.output(found)


def sums(paths: list[str], processes: int) -> None:
    """Hash all files by `sha256sum`, in so many processes at a time."""
    chunks = [paths[at : at + 1000] for at in range(0, len(paths), 1000)]
    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(lambda chunk: subprocess.run(["sha256sum", *chunk], check=True, capture_output=True), chunks))


def forget(paths: list[str]) -> None:
    """Have files read from the disk next time."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read(paths: list[str], threads: int) -> None:
    """Read all files and do nothing with them."""

    def read_some(chunk: list[str]) -> None:
        for path in chunk:
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read_some, [paths[at : at + 256] for at in range(0, len(paths), 256)]))


def check(store: Store, threads: int, rows: bool = False) -> None:
    """`lumina verify --deep`, which finds nothing wrong."""
    if verify(store, RUN, deep=True, rows=rows, threads=threads).found:
        raise SystemExit("something is wrong with the files that were just written")


def peak_mb() -> float:
    """Most memory that this process had; what `getrusage` tells may be of the process that started it."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1e3


def look_at_rows(root: Path, threads: int) -> None:
    """Print seconds of `verify --deep --rows`, seconds of reading alone, memory before, and memory after verifying."""
    store = Store(root)
    before, begun = peak_mb(), time.perf_counter()
    check(store, threads, rows=True)
    ours, after = time.perf_counter() - begun, peak_mb()
    begun = time.perf_counter()
    for path in root.glob("stages/made/*/*/data/*.parquet"):
        for _ in pq.ParquetFile(path).iter_batches():
            pass
    print(ours, time.perf_counter() - begun, before, after)


def compare_rows(root: Path, sizes: list[int], threads: int) -> None:
    """Verify tables of several sizes, each in a process of its own."""
    peaks = []
    for rows in sizes:
        store = Store(root / str(rows))
        store.prepare()
        fill(store, {"rows": rows}, fill_rows(rows))
        command = [sys.executable, __file__, "--out", str(store.root), "--look", "--threads", str(threads)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        ours, bare, before, after = map(float, told.split())
        peaks.append(after)
        print(
            f"{rows:,} rows: {ours:.2f} s, {ours / bare:.1f} times reading alone; peak {after:.0f} MB "
            f"({before:.0f} before), {after / peaks[0]:.2f} of that of {sizes[0]:,} rows",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--kilobytes", type=float, default=40)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--look", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.look:
        look_at_rows(args.out, args.threads)
    elif args.rows:
        compare_rows(args.out, args.rows, args.threads)
    else:
        compare_files(args)


def compare_files(args: argparse.Namespace) -> None:
    """Hash all files in turns with `sha256sum`."""
    store, size = Store(args.out), int(args.kilobytes * 1000)
    store.prepare()
    out = fill(store, {"files": args.files, "size": size}, fill_files(args.files, size))
    paths = sorted(str(path) for path in out.iterdir())

    def timed(work: Callable[[], object]) -> float:
        if args.cold:
            forget(paths)
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    looks: list[tuple[float, float, float, float]] = []
    for _ in range(args.repeats):
        ours, theirs = timed(lambda: check(store, args.threads)), timed(lambda: sums(paths, args.threads))
        looks.append((ours, theirs, timed(lambda: verify(store, RUN)), timed(lambda: read(paths, args.threads))))
        print(f"verify --deep {ours:.2f} s, sha256sum {theirs:.2f} s, ratio {ours / theirs:.2f}", flush=True)
    ours, theirs, shallow, bare = (statistics.median(column) for column in zip(*looks, strict=True))
    total = args.files * args.kilobytes / 1e6
    print(
        f"{args.files:,} files, {total:.2f} GB, {args.threads} threads, {'cold' if args.cold else 'cached'}; medians:"
    )
    print(f"  verify          {shallow:6.2f} s")
    print(f"  verify --deep   {ours:6.2f} s  {total / ours:.2f} GB/s")
    print(f"  sha256sum       {theirs:6.2f} s  {total / theirs:.2f} GB/s")
    print(f"  reading alone   {bare:6.2f} s  {total / bare:.2f} GB/s")
    print(f"  ratio           {statistics.median(a / b for a, b, _, _ in looks):6.2f}")


if __name__ == "__main__":
    main()
