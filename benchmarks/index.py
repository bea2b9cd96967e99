"""Measure how a training worker starts on many clips, against a list of objects, as it was.

    python benchmarks/index.py --clips 1000000 --out WORK

Tables with the columns of the encode stages are written, with tensors of no bytes, which no index looks at: a video of
one of forty buckets and a caption for every clip, from four sources. Their indexes are made as the stages make them.
Then a fresh process starts as a training worker does, with the clips, three tasks as the paper has them, and their
first batches; it tells its time, its peak of resident memory and how much of it is its own: the rest are pages of the
mapped files, which all workers of a machine share. Last, in as fresh a process and on `--reference` clips of the same,
an object is made of every clip and entry from the Parquet files, as the loop did before.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lumina.training.data.index import CLIPS, INDEX_FILE, TEXTS, write_index

SOURCES = ("web", "film", "stock", "synthetic")
TASKS = (("fine", (1, 2, 2)), ("middle", (2, 2, 2)), ("coarse", (2, 4, 4)))


def _ids(rng: np.random.Generator, count: int) -> list[str]:
    text = rng.bytes(16 * count).hex()
    return [text[start : start + 32] for start in range(0, 32 * count, 32)]


def write(root: Path, clips: int, rows_per_file: int) -> None:
    """Write the latents and the texts of `clips` clips."""
    rng = np.random.default_rng(0)
    for start in range(0, clips, rows_per_file):
        count = min(rows_per_file, clips - start)
        ids, texts = _ids(rng, count), _ids(rng, count)
        buckets = rng.integers(40, size=count)
        frames, heights = 2 + 3 * (buckets % 8), 24 + 8 * (buckets // 8)
        latents = {
            "clip_id": ids,
            "vae_latent_bytes": pa.array([b""] * count, pa.large_binary()),
            "vae_latent_shape": [[16, 1 + f, h, 32] for f, h in zip(frames.tolist(), heights.tolist(), strict=True)],
            "vae_latent_dtype": ["bfloat16"] * count,
            "bucket": [f"256x{8 * h}x{4 * f + 1}" for f, h in zip(frames.tolist(), heights.tolist(), strict=True)],
            "media": ["video"] * count,
            "source": [SOURCES[number] for number in rng.integers(4, size=count)],
            "text_id": texts,
            "text_id_dropped": ["dropped"] * count,
            "motion_score": pa.array(rng.random(count), pa.float32()),
            "split": np.where(rng.random(count) < 0.001, "heldout", "train").tolist(),
            "status": ["ok"] * count,
        }
        _put(pa.table(latents), root / "latents" / "data" / f"part-{start:09}.parquet")
        names = [*texts, "dropped"] if start == 0 else texts
        features = {
            "text_id": names,
            "text_feature_bytes": pa.array([b""] * len(names), pa.large_binary()),
            "text_feature_shape": [[length, 2304] for length in rng.integers(40, 256, size=len(names)).tolist()],
            "text_feature_dtype": ["bfloat16"] * len(names),
            "status": ["ok"] * len(names),
        }
        _put(pa.table(features), root / "text" / "data" / f"part-{start:09}.parquet")


def _put(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=16384)


def _memory(kind: str) -> int:
    """Bytes of this process: VmHWM is the peak of what is resident, RssAnon what is its own."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind)]
    return int(line.split()[1]) << 10


def start(root: Path) -> dict[str, float]:
    """Start as a worker does, and draw the first batches."""
    import lumina.cost  # noqa: F401 - of_task wants it
    from lumina.models.config import RELEASED_MODELS
    from lumina.training.data.latents import LatentDataset
    from lumina.training.stage import TrainStageConfig

    tasks = [
        {"name": name, "media": "video", "patch": patch, "time_shift": 1, "batch_size": 256} for name, patch in TASKS
    ]
    config = TrainStageConfig.model_validate({"steps": 10, "model": RELEASED_MODELS["2B_GQA"], "tasks": tasks})
    own, resident, begun, cpu = _memory("RssAnon"), _memory("VmRSS"), time.perf_counter(), time.process_time()
    data = LatentDataset([root / "latents"], root / "text")
    opened, opened_cpu, opened_own = time.perf_counter(), time.process_time(), _memory("RssAnon")
    for task in config.tasks:
        # What is kept of a task stays, as in a trainer.
        made = data.of_task(task, config)
        globals()[task.name] = made, made.items(made.plan.micro_batches(0, 0, 8)[0])
    return {
        "clips": len(data.clips),
        "seconds": time.perf_counter() - begun,
        "CPU seconds": time.process_time() - cpu,
        "index seconds": opened - begun,
        "index CPU seconds": opened_cpu - cpu,
        "index own bytes": opened_own - own,
        "own bytes": _memory("RssAnon") - own,
        "peak bytes": _memory("VmHWM"),
        "peak bytes above its imports": _memory("VmHWM") - resident,
    }


def objects(root: Path) -> dict[str, float]:
    """Make a list of objects, as it was: the clips, and for each task its entries."""
    from dataclasses import dataclass

    from lumina.training.data.batches import Entry

    @dataclass(frozen=True)
    class Row:
        values: dict[str, object]
        file: Path
        group: int
        offset: int

    own, resident, begun, cpu = _memory("RssAnon"), _memory("VmRSS"), time.perf_counter(), time.process_time()
    rows = []
    for folder, columns in (("latents", CLIPS.columns[:-1]), ("text", TEXTS.columns[:-1])):
        for path in sorted((root / folder / "data").glob("*.parquet")):
            with pq.ParquetFile(path, memory_map=True) as file:
                table = file.read(columns=list(columns), use_threads=False)
            rows += [Row(values, path, number // 16384, number) for number, values in enumerate(table.to_pylist())]
    opened = time.perf_counter()
    chosen = sorted((row.values for row in rows if "clip_id" in row.values), key=lambda row: str(row["clip_id"]))
    entries = [
        sorted(
            (Entry(str(row["clip_id"]), str(row["source"]), str(row["bucket"]), 1, 1.0) for row in chosen),
            key=lambda entry: (entry.clip_id, entry.bucket),
        )
        for _ in TASKS
    ]
    return {
        "clips": len(entries[0]),
        "seconds": time.perf_counter() - begun,
        "CPU seconds": time.process_time() - cpu,
        "index seconds": opened - begun,
        "own bytes": _memory("RssAnon") - own,
        "peak bytes above its imports": _memory("VmHWM") - resident,
    }


def _apart(function: Callable[[Path], dict[str, float]], root: Path) -> dict[str, float]:
    """What a function says that runs in a process of its own."""
    command = [sys.executable, __file__, "--run", function.__name__, "--out", str(root)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def compare(root: Path, clips: int, reference: int, rows_per_file: int) -> None:
    """Print what a worker takes, and what it took."""
    write(root / "all", clips, rows_per_file)
    begun = time.perf_counter()
    write_index(root / "all" / "latents", CLIPS)
    write_index(root / "all" / "text", TEXTS)
    size = sum((root / "all" / name / INDEX_FILE).stat().st_size for name in ("latents", "text"))
    print(
        f"{clips:,} clips: both indexes {size / clips:.0f} bytes a clip, made in {time.perf_counter() - begun:.1f} s "
        f"({1e6 * (time.perf_counter() - begun) / clips:.1f} us a clip), peak {_memory('VmHWM') / 1e9:.2f} GB"
    )
    found = _apart(start, root / "all")
    print(
        f"a worker with three tasks starts in {found['seconds']:.1f} s ({found['CPU seconds']:.1f} of CPU; aim 120), "
        f"its peak {found['peak bytes'] / 1e9:.2f} GB (aim 3), {found['peak bytes above its imports'] / 1e9:.2f} above "
        f"its imports; {found['own bytes'] / 1e9:.2f} GB its own\n"
        f"of it the index: {1e6 * found['index seconds'] / clips:.2f} us and {size / clips:.0f} bytes a clip on the "
        f"disk, shared (aim 5 us, 200 bytes); {found['index own bytes'] / clips:.0f} bytes its own; all with the tasks "
        f"{1e6 * found['seconds'] / clips:.2f} us, {found['own bytes'] / clips:.0f} bytes its own"
    )
    few = root / "few"
    write(few, min(clips, reference), rows_per_file)
    before = _apart(objects, few)
    each, was = (1e6 * one["seconds"] / one["clips"] for one in (found, before))
    mine, its = (one["peak bytes above its imports"] / one["clips"] for one in (found, before))
    print(
        f"objects, {before['clips']:,} clips: {was:.0f} us and {its:.0f} bytes a clip; "
        f"ours {each / was:.3f} of the time, {mine / its:.3f} of the memory"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, help="where the tables are written and removed again; default: a new folder"
    )
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--reference", type=int, default=100_000, help="clips of which objects are made at most")
    parser.add_argument("--rows-per-file", type=int, default=16384)
    parser.add_argument("--run", choices=("start", "objects"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps({"start": start, "objects": objects}[args.run](args.out)))
        return
    root = Path(tempfile.mkdtemp(prefix="index-", dir=args.out))
    try:
        compare(root, args.clips, args.reference, args.rows_per_file)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
