"""Measure how fast latents are read, against what pyarrow alone reads from the same files.

    python benchmarks/reading.py --out WORK

Clips of one size are written as the encode stage lays them out, several times what the reader may keep. All of them are
then read in the order of the files, and in a random order, as training does: by the reader, and by pyarrow alone, which
opens every file once and reads the row groups one after the other, keeping none. Both hand over memory, and in a second
measurement every byte is copied out of it. The files stay in the page cache, the reader's own cache is full from the
start, and the clock counts CPU time: what is measured is the work, not the disk and not the neighbours.
`--row-group-bytes` writes other row groups, to see what they cost.

Last, every opening of a file and every read of a row group is made to wait `--latency` milliseconds, as on network
storage, no cache keeps anything, and passes of eight rows are prepared by 1 to 8 threads, eight passes ahead.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from curation.latents import ENCODE_LATENTS_OPERATOR, EncodeLatentsConfig
from curation.schema import LATENTS
from jobs.parts import PartWriter
from lumina.training.data.blobs import BlobReader
from lumina.training.data.index import CLIPS, Index
from lumina.training.data.prefetch import prefetched

COLUMN = "vae_latent_bytes"
SHAPE = (16, 21, 32, 32)
SIZE = 2 * 16 * 21 * 32 * 32
"""Bytes of one latent: 81 frames of 256 pixels in bfloat16, 688 kB."""
_FILE_CLIPS = 64


def write(directory: Path, clips: int, row_group_bytes: int | None) -> None:
    """Write `clips` rows as the encode stage does."""
    rng, layout = np.random.default_rng(0), ENCODE_LATENTS_OPERATOR.layout(EncodeLatentsConfig())
    if row_group_bytes is not None:
        layout = replace(layout, row_group_bytes=row_group_bytes)
    for start in range(0, clips, _FILE_CLIPS):
        rows = [
            {
                "clip_id": rng.bytes(32).hex(),
                "media": "video",
                "source": "web",
                "split": "train",
                "bucket": "256x256x81",
                COLUMN: rng.bytes(SIZE),
                "vae_latent_shape": list(SHAPE),
                "vae_latent_dtype": "bfloat16",
                "caption": "what the clip shows " * 20,
                "text_id": rng.bytes(32).hex(),
                "text_id_dropped": "dropped",
                "latent_sha256": rng.bytes(32).hex(),
                "status": "ok",
            }
            for _ in range(min(_FILE_CLIPS, clips - start))
        ]
        PartWriter(directory, layout).write(pa.Table.from_pylist(rows, LATENTS), batches=[start])


def places(paths: list[Path]) -> list[tuple[int, int, int]]:
    """(file, row group, offset) of every row."""
    found = []
    for number, path in enumerate(paths):
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            found += [(number, group, offset) for offset in range(metadata.row_group(group).num_rows)]
    return found


def in_files(index: Index) -> list[int]:
    """The rows of the index in the order of the files."""
    places = [index.place(row) for row in range(len(index))]
    return sorted(range(len(index)), key=lambda row: (places[row].path, places[row].group, places[row].offset))


def by_reader(index: Index, cache: int, order: list[int]) -> Iterator[np.ndarray]:
    reader = BlobReader(index, COLUMN, cache)
    for row in order:
        reader.read(row)
    yield np.empty(0, np.uint8)  # the clock starts here
    for row in order:
        yield reader.read(row).view(torch.uint8).numpy().reshape(-1)


def by_pyarrow(paths: list[Path], order: list[tuple[int, int, int]], opened: bool) -> Iterator[np.ndarray]:
    """Read the row group of every run of rows that share one; `opened`: the files are open before the clock starts."""
    files = [pq.ParquetFile(path, memory_map=True) for path in paths] if opened else []
    yield np.empty(0, np.uint8)
    for (number, group), rows in groupby(order, key=lambda place: place[:2]):
        file = files[number] if opened else pq.ParquetFile(paths[number], memory_map=True)
        blobs = file.read_row_group(group, columns=[COLUMN]).column(0).chunk(0)
        # A value taken from the array would be one more copy.
        values = np.frombuffer(blobs.buffers()[-1], np.uint8)
        for _, _, offset in rows:
            yield values[offset * SIZE : (offset + 1) * SIZE]


def megabytes_per_second(read: Callable[[], Iterator[np.ndarray]], copied: bool) -> float:
    blobs, out, size = read(), np.empty(SIZE, np.uint8), 0
    next(blobs)
    begun = time.process_time()
    for blob in blobs:
        size += len(blob)
        if copied:
            np.copyto(out, blob)
    return size / 1e6 / (time.process_time() - begun)


def compare(directory: Path, clips: int, cache: int, rounds: int, row_group_bytes: int | None = None) -> None:
    """Write clips to `directory` and print how fast they are read; `cache` is what the reader may keep, in bytes."""
    (directory / "data").mkdir()
    write(directory / "data", clips, row_group_bytes)
    paths = sorted((directory / "data").glob("*.parquet"))
    index = Index([directory], CLIPS)
    by_place = in_files(index)
    found = places(paths)
    held = max(offset for _, _, offset in found) + 1
    print(f"{clips} clips of {SIZE / 1e3:.0f} kB in {len(paths)} files, row groups of {held}")
    for name, order in (
        ("in the order of the files", np.arange(clips)),
        ("in a random order", np.random.default_rng(1).permutation(clips)),
    ):
        rows = order.tolist()
        at = [found[row] for row in rows]
        ways: dict[str, Callable[[], Iterator[np.ndarray]]] = {
            "reader": partial(by_reader, index, cache, [by_place[row] for row in rows]),
            "pyarrow, files open": partial(by_pyarrow, paths, at, True),
        }
        if name == "in a random order":
            ways["pyarrow, opened per row"] = partial(by_pyarrow, paths, at, False)
            groups = sum(1 for _ in groupby(at, key=lambda place: place[:2]))
            print(f"a random order without a cache reads {groups * held / clips:.1f} bytes for one")
        for copied in (False, True):
            # Round by round, so that what else the machine does slows all of them.
            speeds = {way: list[float]() for way in ways}
            for _ in range(rounds):
                for way, read in ways.items():
                    speeds[way].append(megabytes_per_second(read, copied))
            ratio = statistics.median(
                own / alone for own, alone in zip(speeds["reader"], speeds["pyarrow, files open"], strict=True)
            )
            each = ", ".join(f"{way} {statistics.median(values):,.0f}" for way, values in speeds.items())
            what = "copied out" if copied else "handed over"
            print(f"{name}, {what}: {each} MB/s; reader over pyarrow {ratio:.2f}", flush=True)


class Slow(pq.ParquetFile):  # type: ignore[misc]
    """A file on storage that answers after a while."""

    latency = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        time.sleep(self.latency)
        super().__init__(*args, **kwargs)

    def read_row_group(self, *args: Any, **kwargs: Any) -> pa.Table:
        time.sleep(self.latency)
        return super().read_row_group(*args, **kwargs)


def threads(directory: Path, latency: float, passes: int, size: int = 8) -> None:
    """Print how fast passes of `size` rows are read, by how many threads, where each read waits `latency` seconds."""
    index, fast = Index([directory], CLIPS), pq.ParquetFile
    order = np.random.default_rng(2).permutation(len(index))[: passes * size].reshape(-1, size).tolist()
    print(f"\npasses of {size} rows, {1e3 * latency:.0f} ms for opening a file and for each read")
    Slow.latency = latency
    pq.ParquetFile = Slow
    try:
        alone = 0.0
        for count in (1, 2, 4, 8):
            reader = BlobReader(index, COLUMN, cache_bytes=1)
            begun = time.perf_counter()
            with prefetched(lambda rows, reader=reader: [reader.read(row) for row in rows], order, 8, count) as made:
                taken = sum(1 for _ in made)
            pace = taken / (time.perf_counter() - begun)
            alone = alone or pace
            print(f"{count} threads: {pace:.1f} passes/s, {pace / alone:.2f} of one thread's pace", flush=True)
    finally:
        pq.ParquetFile = fast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the files are written and removed again; default: a new folder")
    parser.add_argument("--clips", type=int, default=1500)
    parser.add_argument("--cache", type=int, default=128 << 20, help="bytes that the reader may keep")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--row-group-bytes", type=int)
    parser.add_argument("--latency", type=float, default=5.0, help="milliseconds")
    args = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="reading-", dir=args.out))
    try:
        compare(directory, args.clips, args.cache, args.rounds, args.row_group_bytes)
        threads(directory, args.latency / 1e3, min(48, args.clips // 8))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
