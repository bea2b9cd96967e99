"""A worker whose task Ray cancels: what the process computes afterwards is whole."""

from __future__ import annotations

import _thread
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curation.operator import Env, Operator
from curation.schema import status_ok
from jobs import row_worker
from jobs.batches import BATCH
from jobs.row_worker import RowStage, map_task
from jobs.shards import write_table
from lumina.config import Config

_SCHEMA = pa.schema([(name, pa.string()) for name in ("clip_id", *status_ok())])
_said: list[str] = []
_cancelled_in = ""


def _cancel(place: str) -> None:
    if place == _cancelled_in:
        _thread.interrupt_main()
    _said.append(place)


def _make(config: Any, env: Env) -> Any:
    _cancel("making")

    def compute(rows: pa.Table) -> pa.Table:
        _cancel("computing")
        return rows.select(_SCHEMA.names)

    return compute


OPERATOR = Operator(name="cancelled", config=Config, schema=_SCHEMA, inputs=(), map=_make)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RowStage:
    monkeypatch.setattr(row_worker, "_MAPPERS", {})
    monkeypatch.setattr(f"{__name__}._said", [])
    made = RowStage(f"{__name__}:OPERATOR", Config(), Env(str(tmp_path)), tmp_path)
    made.planned(0).parent.mkdir()
    row = pa.Table.from_pylist([{"clip_id": "a"} | status_ok()], _SCHEMA)
    write_table(made.planned(0), row.append_column(BATCH, pa.array([0], pa.int64())))
    return made


@pytest.mark.parametrize(("place", "again"), [("making", ["computing"]), ("computing", ["making", "computing"])])
def test_a_cancelled_task_leaves_nothing_half_made(
    stage: RowStage, monkeypatch: pytest.MonkeyPatch, place: str, again: list[str]
) -> None:
    tasks = pa.table({"shard": [0], "batches": [json.dumps([(0, 1)])]})
    monkeypatch.setattr(f"{__name__}._cancelled_in", place)
    with pytest.raises(KeyboardInterrupt):
        map_task(tasks, stage)
    # An import is never broken off: what was being made is whole. What was being computed is not used again.
    assert _said == {"making": ["making"], "computing": ["making"]}[place]
    _said.clear()
    monkeypatch.setattr(f"{__name__}._cancelled_in", "")
    assert map_task(tasks, stage)["rows"].to_pylist() == [1]
    assert _said == again
