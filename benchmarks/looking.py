"""Memory and time of `lumina selection` and `lumina quarantine` over tables of many rows.

    python benchmarks/looking.py --rows 100000 300000 1000000

Two in five clips are set aside: by ingest, probe, motion, and the rules of `select`. Each command runs in a process of
its own. Prints its wall time, the peak of its memory, and the ratio of the peak to that over the smallest table.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.schema import INGEST, MOTION, PROBE, SELECT, TAG
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.run_record import RunRecord, StageEntry
from pipelines.engine.store.store import Store

_SCHEMAS = {"ingest": INGEST, "probe": PROBE, "motion": MOTION, "tag": TAG, "select": SELECT}
_ASIDE = {"ingest": ("quarantined", "missing_file"), "probe": ("quarantined", "decode_error"),
          "motion": ("filtered", "too_few_frames"), "select": ("filtered", "min_fps")}  # fmt: skip
_FILE_ROWS = 16384
COMMANDS = ("selection one two", "quarantine", "quarantine --all", "quarantine --all --csv CSV")


def write_store(root: Path, rows: int) -> None:
    """A store with two runs of curation, `one` and `two`, which select otherwise."""
    store = Store(root)
    store.prepare()
    ids = sorted(hashlib.blake2b(str(row).encode(), digest_size=16).hexdigest() for row in range(rows))
    shared = {name: _write(store, name, ids, 0) for name in ("ingest", "probe", "motion", "tag")}
    for number, run in enumerate(("one", "two")):
        inputs = {"clips": "probe", "motion": "motion", "tag": "tag"}
        entry = _write(store, "select", ids, number)
        stages = shared | {"select": StageEntry(**vars(entry) | {"inputs": inputs})}
        store.put_run(RunRecord(run=run, name=run, started=f"2026-11-01T00:00:0{number}+00:00", stages=stages))


def _write(store: Store, stage: str, ids: list[str], number: int) -> StageEntry:
    fingerprint = hashlib.sha256(f"{stage}{number}".encode()).hexdigest()
    out = store.directory(stage, fingerprint) / "a-1"
    (out / "data").mkdir(parents=True)
    stages = list(_ASIDE)[: list(_SCHEMAS).index(stage) + 1 if stage in ("ingest", "probe", "motion") else 4]
    stages = [name for name in stages if name != "select"] if stage != "select" else stages
    for start in range(0, len(ids), _FILE_ROWS):
        part = ids[start : start + _FILE_ROWS]
        codes = np.array([int(name[-4:], 16) % 20 for name in part])
        status, reason, where = (np.full(len(part), None, object) for _ in range(3))
        status[:] = "ok"
        for code, (name, (state, why)) in enumerate(_ASIDE.items()):
            if name in stages:
                at = (codes == 2 * code) | (codes == 2 * code + 1 + (number if name == "select" else 0))
                status[at], reason[at], where[at] = state, why, name
        columns = {
            "clip_id": part, "status": status, "reason": reason, "reason_stage": where,
            "detail": [None if one is None else f"what {name} said" for one, name in zip(reason, part, strict=True)],
            "uri": [f"folder/of/clips/{name}.mp4" for name in part],
            "source": [f"source{code % 3}" for code in codes],
            "caption": ["a caption of some hundred letters, as a person writes it about a clip that she sees: " + name
                        for name in part],
            "keep": status == "ok", "policy_id": [f"p{number}"] * len(part),
            "failed_rules": [["min_fps"] if name == "select" else [] for name in where],
        }  # fmt: skip
        schema = _SCHEMAS[stage]
        arrays = [
            pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(len(part), f.type) for f in schema
        ]
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), out / "data" / f"{start:09}.parquet")
    manifest = Manifest(stage, fingerprint, out.name, "rows", "", {"config": {"min_fps": number}}, ())
    (out.parent / "MANIFEST.json").write_text(manifest.to_json())
    return StageEntry(state="done", path=str(out.relative_to(store.root)), fingerprint=fingerprint, digest="")


def measured(store: Path, command: str) -> tuple[float, float]:
    """Wall time in s, and peak memory in MB, of a command in a process of its own."""
    words = command.replace("CSV", str(store / "x.csv")).split()
    code = (
        "import atexit, resource, sys\n"
        "atexit.register(lambda: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr))\n"
        "from pipelines.cli import app\n"
        f"app({[*words, '--store', str(store)]!r})\n"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, int(done.stderr.split()[-1]) / 1024


def main() -> None:
    """Measure each command over each table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    sizes = sorted(parser.parse_args().rows)
    least: dict[str, float] = {}
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_store(Path(folder), rows)
            for command in COMMANDS:
                (Path(folder) / "x.csv").unlink(missing_ok=True)
                seconds, peak = measured(Path(folder), command)
                ratio = peak / least.setdefault(command, peak)
                print(f"{rows:>9,} rows  {command:<28} {seconds:6.1f} s  {peak:6.0f} MB  {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
