"""Measure `lumina verify --deep` on many files against `sha256sum` on the same files.

    python benchmarks/verify.py --out WORK [--files 100000] [--kilobytes 40]

One stage with that many files is put into a store. Both then hash all of it, in turns; `sha256sum` gets as many
processes as the verification has threads. What `verify` does besides (reading the record, sizes, lineage, the content
digest) is in its time. With --cold the system is told before each turn to forget the content of the files, so that the
disk is measured.
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

from jobs.files import files_digest
from pipelines.compare.verify import verify
from pipelines.engine.fingerprint import fingerprint
from pipelines.engine.store.attempt import Attempt, list_files
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.run_record import RunRecord, StageEntry
from pipelines.engine.store.store import Store

RUN = "bench"


def fill(store: Store, files: int, size: int) -> Path:
    """Put a finished stage with `files` files of `size` bytes into an empty store; where they lie."""
    rng = np.random.Generator(np.random.Philox(0))
    recipe = {"stage": "made", "inputs": {}, "config": {"files": files, "size": size}}
    name = fingerprint(recipe)
    found = store.lookup("made", name)
    if found is None:
        attempt = store.acquire("made", name)
        if not isinstance(attempt, Attempt):
            raise SystemExit(f"{attempt} fills this store")
        for number in range(files):
            (attempt.out / f"{number:08}.bin").write_bytes(rng.bytes(size))
        listed = list_files(attempt.out)
        made = Manifest("made", name, attempt.out.name, "files", files_digest(attempt.out), recipe, listed)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--kilobytes", type=float, default=40)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    store = Store(args.out)
    store.prepare()
    out = fill(store, args.files, int(args.kilobytes * 1000))
    paths = sorted(str(path) for path in out.iterdir())

    def check() -> None:
        if verify(store, RUN, deep=True, threads=args.threads).found:
            raise SystemExit("something is wrong with the files that were just written")

    def timed(work: Callable[[], object]) -> float:
        if args.cold:
            forget(paths)
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    looks: list[tuple[float, float, float, float]] = []
    for _ in range(args.repeats):
        ours, theirs = timed(check), timed(lambda: sums(paths, args.threads))
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
