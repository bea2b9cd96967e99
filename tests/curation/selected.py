"""Real files as `select` hands them on: ingested, probed and kept, without scores; and an encoder run on them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.decode import PROBE_OPERATOR, ProbeConfig
from curation.manifests import INGEST_OPERATOR, IngestConfig
from curation.operator import Env, Input, Operator, Report, apply_ahead, dataset
from curation.schema import SELECT, Status, to_table
from jobs.batches import batch_starts, cut_batches
from tests.curation.in_memory import computed, planned

Row = dict[str, Any]


def write_rows(root: Path, table: pa.Table) -> Path:
    """A stage's output."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, root / "data" / "part.parquet")
    return root


def select_all(root: Path, spans: Mapping[str, tuple[float, float]] | None = None) -> Input:
    """All of the folder `root/clips`; every other clip is held out. `spans` are seconds of files, by their names."""
    env = Env(str(root / "clips"))
    rows = computed(INGEST_OPERATOR, {"manifest": Input(root / "clips")}, IngestConfig(), env).to_pylist()
    for row in rows:
        row["span_start_s"], row["span_end_s"] = (spans or {}).get(row["uri"], (None, None))
    ingested = write_rows(root / "ingest", to_table(rows, INGEST_OPERATOR.schema))
    probed = computed(PROBE_OPERATOR, {"clips": Input(ingested)}, ProbeConfig(), env).to_pylist()
    selected = [
        row
        | {
            "keep": row["status"] == Status.OK,
            "split": "train" if number % 2 == 0 else "heldout",
            "stages": ["all", "aligned"] if number % 3 == 0 else ["all"],
            "caption": f"the sound of {Path(row['uri']).stem}",
        }
        for number, row in enumerate(probed)
    ]
    return Input(write_rows(root / "select", to_table(selected, SELECT)))


def encoded(
    operator: Operator, select: Input, config: Any, weights: Mapping[str, str], backwards: bool = False
) -> dict[str, Row]:
    """What an encoder makes of them, by the file's name, each batch loaded ahead; `backwards`: the last batch first."""
    root = select.path.parent
    env = Env(str(root / "clips"), weights)
    plan = planned(operator, {"select": select}, config, env)
    batched = cut_batches(plan, operator.rows_per_batch(config), operator.group)
    spans = list(pairwise(batch_starts(batched).tolist()))
    batches = [batched.slice(start, stop - start) for start, stop in (reversed(spans) if backwards else spans)]
    assert operator.map is not None
    table = pa.concat_tables(apply_ahead(operator, operator.map(config, env), batches))
    write_rows(root / operator.name, table)
    names = {row["clip_id"]: row["uri"] for row in select.rows().to_pylist()}
    rows = table.to_pylist()
    assert sorted(row["clip_id"] for row in rows) == sorted(names)
    return {names[row["clip_id"]]: row for row in rows}


def report(operator: Operator, select: Input, config: Any) -> Report:
    """Of what `encoded` wrote."""
    out = select.path.parent / operator.name
    return operator.report(dataset(out / "data"), config, out)


def outcome(row: Row) -> tuple[str, str | None, str | None]:
    """What became of a row."""
    return row["status"], row["reason"], row["reason_stage"]
