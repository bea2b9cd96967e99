"""What a row costs the driver of a curation stage, with operators that do nothing.

    python benchmarks/rows.py --rows 10000 100000 1000000

`plain` computes rows one by one, as probe does, `batched` in batches of one size, as encode_latents does, `again` is
`plain` once more after one row in a hundred was replaced. `manifest` is ingest itself, of a CSV of so many spans of a
thousand files, `folder` of so many small files without a manifest; both with what their plan reads. Each runs in a
process of its own on a local cluster. Prints CPU time of the driver per row, its peak memory, files of the output, wall
time, and the ratio of each to the smallest table's; then what 10 and 100 million rows would cost by the last step.
Writes some 2 GB of tables for a million rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.decode import PROBE_OPERATOR, ProbeConfig
from curation.film_frames import Track
from curation.latents import ENCODE_LATENTS_OPERATOR, EncodeLatentsConfig
from curation.manifest_formats import IngestConfig
from curation.manifests import external_digest, read_manifest
from curation.operator import Env, RowsFunction
from curation.schema import LATENTS, PROBE, SELECT, conform
from curation.sources import SYSTEM_PROMPTS_FILE, TagConfig, check_sources
from lumina.system_prompts import write_system_prompts

CASES = ("plain", "batched", "again", "manifest", "folder")
_FILE_ROWS = 16384
_SIZES = ((640, 480), (1280, 720), (1920, 1080), (720, 1280), (480, 640), (1024, 1024), (854, 480), (1280, 544))


def _nothing(_config: Any, _env: Env) -> RowsFunction:
    return lambda table: conform(table, PROBE)


def _no_latents(_config: Any, _env: Env) -> RowsFunction:
    def encode(table: pa.Table) -> pa.Table:
        count = len(table)
        found = {
            "vae_latent_bytes": pa.array([bytes(16)] * count, pa.large_binary()),
            "vae_latent_shape": pa.array([[1, 1, 2, 2]] * count, pa.list_(pa.int32())),
            "vae_latent_dtype": pa.array(["float32"] * count),
        }
        for name, column in found.items():
            table = table.set_column(table.column_names.index(name), name, column)
        return conform(table, LATENTS)

    return encode


PLAIN = dataclasses.replace(PROBE_OPERATOR, map=_nothing)
BATCHED = dataclasses.replace(ENCODE_LATENTS_OPERATOR, map=_no_latents, runs_network=lambda _config: False)


def _ids(rows: int, salt: str) -> list[str]:
    return sorted(hashlib.blake2b(f"{salt}{row}".encode(), digest_size=16).hexdigest() for row in range(rows))


def write_table(directory: Path, rows: int, schema: pa.Schema, changed: bool = False) -> None:
    """Clips as the stage before would have written them, sorted by id; with `changed` one in a hundred is another."""
    (directory / "data").mkdir(parents=True)
    ids = _ids(rows, "clip")
    if changed:
        ids = sorted(ids[: -max(1, rows // 100)] + _ids(max(1, rows // 100), "new"))
    for start in range(0, rows, _FILE_ROWS):
        names = pa.array(ids[start : start + _FILE_ROWS])
        count = len(names)
        size = np.arange(count) % len(_SIZES)
        values: dict[str, Any] = {
            "clip_id": names,
            "uri": pc.binary_join_element_wise("clips/", names, ".mp4", ""),
            "sha256": pc.binary_join_element_wise(names, names, ""),
            "caption": pc.binary_join_element_wise("a clip of some length and of the number ", names, ""),
            "source": pa.array([f"source{number % 8}" for number in range(count)]),
            "num_bytes": pa.array(np.arange(count)),
            "width": pa.array(np.array([width for width, _ in _SIZES])[size]),
            "height": pa.array(np.array([height for _, height in _SIZES])[size]),
        }
        constants = {"media": "video", "extra": "{}", "status": "ok", "keep": True, "split": "train", "fps": 24.0}
        constants |= {
            "duration_s": 4.0,
            "track": str(Track(0, "{}", 1 / 24)),
            "motion_score": 1.0,
            "system_prompt_id": "prompt",
        }
        values |= {name: pa.array([value] * count) for name, value in constants.items()}
        table = pa.table({name: column for name, column in values.items() if name in schema.names})
        pq.write_table(conform(table, schema), directory / "data" / f"{start:09}.parquet", compression="zstd")


def write_media(folder: Path, rows: int, listed: bool) -> Path:
    """Small files, 1,000 in a folder, which ingest does not decode; with a manifest of their spans, if `listed`."""
    for number in range(1000 if listed else rows):
        if number % 1000 == 0:
            (folder / f"{number // 1000:04}").mkdir(parents=True)
        (folder / f"{number // 1000:04}" / f"a clip {number:09}.mp4").write_bytes(number.to_bytes(8, "big") * 8)
    if not listed:
        return folder
    with (folder / "clips.csv").open("w", encoding="utf-8") as file:
        file.write("video,caption,source,span_start_s,span_end_s\n")
        for row in range(rows):
            number, start = row % 1000, row // 1000
            file.write(f"0000/a clip {number:09}.mp4,a clip of the number {row},source{row % 8},{start},{start + 1}\n")
    return folder / "clips.csv"


def run_case(case: str, rows: int, root: Path) -> dict[str, float]:
    """Run one stage on a fresh cluster; what it cost this process."""
    from jobs import cluster, ingest
    from jobs.context import EarlierOutput, InputRef, JobContext
    from jobs.curate import run
    from jobs.runtime import RuntimeConfig

    runtime = RuntimeConfig()
    cluster.ensure(runtime)

    def stage(name: str, operator: str, config: Any, inputs: Mapping[str, Path], earlier: Path | None) -> Path:
        out, work = root / name, root / f"{name}-work"
        out.mkdir()
        work.mkdir()
        job = run
        if operator.startswith("curation."):
            external_digest(read_manifest(inputs["manifest"], config))  # the plan
            job = ingest.run
        job(
            JobContext(
                stage=name,
                fingerprint="",
                operator=operator,
                config=config,
                runtime=runtime,
                inputs={key: InputRef(key, path, "") for key, path in inputs.items()},
                weights={},
                media_root=str(root / "media"),
                out=out,
                work=work,
                progress=lambda *_: None,
                log_metrics=lambda *_: None,
                earlier=() if earlier is None else (EarlierOutput("sha256:earlier", lambda _wanted: earlier),),
            )
        )
        return out

    earlier = None
    if case == "batched":
        operator, config = "rows:BATCHED", EncodeLatentsConfig(num_frames=17)
        write_table(root / "select", rows, SELECT)
        (root / "tag").mkdir()
        prompts = check_sources([f"source{number}" for number in range(8)], TagConfig(template="{source}."))
        write_system_prompts(root / "tag" / SYSTEM_PROMPTS_FILE, prompts)
        inputs = {"select": root / "select", "tag": root / "tag"}
    elif case in ("manifest", "folder"):
        operator, config = "curation.manifests:INGEST_OPERATOR", IngestConfig()
        inputs = {"manifest": write_media(root / "media", rows, case == "manifest")}
    else:
        operator, config = "rows:PLAIN", ProbeConfig()
        write_table(root / "clips", rows, PROBE)
        inputs = {"clips": root / "clips"}
        if case == "again":
            earlier = stage("before", operator, config, inputs, None)
            write_table(root / "changed", rows, PROBE, changed=True)
            inputs = {"clips": root / "changed"}
    rest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    cpu, began = time.process_time(), time.perf_counter()
    out = stage("stage", operator, config, inputs, earlier)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {
        "us": 1e6 * (time.process_time() - cpu) / rows,
        "wall_s": time.perf_counter() - began,
        "peak_mb": int(peak.split()[1]) / 1024,
        "before_mb": rest / 1024,
        "files": sum(1 for _ in out.rglob("*.parquet")),
        "scratch": sum(1 for path in (root / "stage-work").rglob("*") if path.is_file()),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        case, root = options.one
        print(json.dumps(run_case(case, options.rows[0], Path(root))))
        return
    print("case      rows      us/row   peak MB   files  scratch   wall s   of the smallest: us/row, peak")
    for case in options.cases:
        found: list[tuple[int, dict[str, float]]] = []
        for rows in options.rows:
            with tempfile.TemporaryDirectory() as root:
                command = [sys.executable, __file__, "--one", case, root, "--rows", str(rows)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            one = json.loads(done.stdout.splitlines()[-1])
            found.append((rows, one))
            first = found[0][1]
            print(
                f"{case:8} {rows:9,} {one['us']:9.1f} {one['peak_mb']:9.0f} {one['files']:7.0f} {one['scratch']:8.0f} "
                f"{one['wall_s']:8.1f}   {one['us'] / first['us']:.2f}, {one['peak_mb'] / first['peak_mb']:.2f}",
                flush=True,
            )
        if len(found) > 1:
            (few, one), (many, other) = found[-2:]
            us = (other["us"] * many - one["us"] * few) / (many - few)
            mb, files = ((other[name] - one[name]) / (many - few) for name in ("peak_mb", "files"))
            for rows in (10_000_000, 100_000_000):
                peak = other["peak_mb"] + mb * (rows - many)
                total = other["files"] + files * (rows - many)
                print(f"{case:8} {rows:9,} would take {us * rows / 6e7:.0f} min, {peak:,.0f} MB, {total:,.0f} files")


if __name__ == "__main__":
    main()
