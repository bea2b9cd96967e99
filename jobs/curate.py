"""Run a curation operator on Ray Data: rows in, the same rows out, as Parquet with a digest.

The plan is fed from memory in blocks that hold whole units of work (`from_arrow`), for three reasons measured with
Ray 2.60: a small table read from Parquet collapses into one block and so into one task; its listing, reading and
repartitioning operators each start workers of their own (ten seconds on two cores); and tasks that need a CPU upstream
of an actor pool wait for ever when the pool holds the last free one. Ray's row checkpoints are not used.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.digest import RowsDigest
from curation.operator import Env, Input, Operator, apply, dataset
from curation.schema import Reason, Status, conform
from jobs.context import JobContext, JobResult
from jobs.parquet_sink import Part, PartsSink, rows_written, write_parts

_UNIT, _UNIT_ROWS = "__unit", "__unit_rows"
_PROGRESS_EVERY_S = 0.5


def run(ctx: JobContext) -> JobResult:
    """Run the operator that `ctx.operator` names over `ctx.inputs`; writes `<out>/data/*.parquet`.

    RuntimeError if rows are lost, or if every row that came in well met the same kind of unforeseen error: that is a
    broken set-up, not bad clips.
    """
    operator = _load(ctx.operator)
    env = Env(ctx.media_root, dict(ctx.weights), "cuda" if operator.accelerator and ctx.runtime.use_gpu else "cpu")
    inputs = {name: Input(path) for name, path in ctx.files.items()}
    inputs |= {name: Input(ref.path) for name, ref in ctx.inputs.items()}
    missing = [name for name in operator.inputs if name not in inputs]
    if missing:
        raise ValueError(f"stage {ctx.stage!r} needs inputs {missing}, got {sorted(inputs)}")
    rows = operator.plan(inputs, ctx.config, env)
    data = ctx.out / "data"
    data.mkdir()
    ctx.progress(0, len(rows), "rows")
    if operator.make is None:
        parts = _write(rows.cast(operator.schema), data, operator)
    elif operator.finish is None:
        parts = _compute(ctx, operator, env, rows, data)
    else:
        scratch = ctx.work / "rows"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        _compute(ctx, operator, env, rows, scratch)
        parts = _write(operator.finish(dataset(scratch).to_table(), ctx.config).cast(operator.schema), data, operator)
    return _result(ctx, operator, rows, parts)


def _result(ctx: JobContext, operator: Operator, rows: pa.Table, parts: list[Part]) -> JobResult:
    counts = sum((part.counts for part in parts), Counter[str]())
    digest = sum((part.digest for part in parts), RowsDigest())
    broken = counts[f"{Status.QUARANTINED}/{Reason.INTERNAL_ERROR}"]
    if sum(counts.values()) != 2 * len(rows) or digest.rows != len(rows):  # `in` plus its parts
        raise RuntimeError(f"{ctx.stage}: {len(rows)} rows went in, {digest.rows} came out: {dict(counts)}")
    written = dataset(ctx.out / "data")
    if broken and not counts["ok"]:
        found = written.to_table(columns=["detail"], filter=pc.field("reason") == Reason.INTERNAL_ERROR)
        raise RuntimeError(f"{ctx.stage}: no row succeeded; the first error was: {found['detail'][0].as_py()}")
    report = operator.report(written, ctx.config, ctx.out)
    listing = [{"name": p.name, "rows": p.rows, "digest": str(p.digest)} for p in parts]
    (ctx.out / "parts.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")
    ctx.progress(len(rows), len(rows), "rows")
    ordered = {"in": len(rows), "ok": counts["ok"], **{key: counts[key] for key in sorted(counts) if "/" in key}}
    return JobResult("rows", str(digest), ordered, dict(report.metrics), artifacts=report.files)


def cut_units(rows: pa.Table, rows_per_unit: int, group: str | None) -> pa.Table:
    """Number the units of work: consecutive `ok` rows of one group, `rows_per_unit` at most; the others separately.

    Returns the rows sorted by unit, with the columns `__unit` and `__unit_rows` added.
    """
    is_ok = pc.equal(rows["status"], Status.OK).to_pylist()
    groups = rows[group].to_pylist() if group else [None] * len(rows)
    filling: dict[tuple[bool, Any], int] = {}
    sizes: list[int] = []
    units = []
    for key in zip(is_ok, groups, strict=True):
        unit = filling.get(key)
        if unit is None or sizes[unit] == rows_per_unit:
            unit = filling[key] = len(sizes)
            sizes.append(0)
        sizes[unit] += 1
        units.append(unit)
    table = rows.append_column(_UNIT, pa.array(units, pa.int64()))
    table = table.append_column(_UNIT_ROWS, pa.array([sizes[unit] for unit in units], pa.int32()))
    # Units of one group side by side, so that a block, and with it a file, holds few groups.
    order = sorted(range(len(units)), key=lambda at: (not is_ok[at], str(groups[at]), units[at], at))
    return table.take(pa.array(order, pa.int64()))


def cut_blocks(units: pa.Table, rows_per_block: int) -> list[pa.Table]:
    """Cut a table of units into blocks of whole units with about `rows_per_block` rows."""
    sizes = units[_UNIT_ROWS].to_pylist()
    blocks, start, at = [], 0, 0
    while at < len(units):
        at += sizes[at]
        if at - start >= rows_per_block or at == len(units):
            blocks.append(units.slice(start, at - start).combine_chunks())
            start = at
    return blocks


def _compute(ctx: JobContext, operator: Operator, env: Env, rows: pa.Table, directory: Path) -> list[Part]:
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # its plans and bars would tear the driver's own apart
    if not len(rows):
        return _write(conform(rows, operator.computed_schema), directory, operator)
    units = cut_units(rows, operator.rows_per_unit(ctx.config), operator.group)
    cpus = int(ray.cluster_resources().get("CPU", 1))
    # A local cluster declares more CPUs than the machine has cores; and other stages run beside this one.
    workers = max(1, cpus // 2 if ctx.runtime.ray_address is None else cpus - 1)
    blocks = cut_blocks(units, max(1, min(operator.layout.rows_per_file, math.ceil(len(rows) / (4 * workers)))))
    workers = min(workers, len(blocks))
    arguments = {"reference": ctx.operator, "config": ctx.config, "env": env}
    source = ray.data.from_arrow(blocks)
    sink = PartsSink(directory, operator.computed_schema, operator.layout)
    with _progress(ctx, directory, len(rows)):
        if operator.pool == "tasks":
            source.map_batches(
                _apply_blocks,
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.TaskPoolStrategy(size=workers),
                fn_kwargs=arguments,
                num_cpus=1,
            ).write_datasink(sink, ray_remote_args={"num_cpus": 1}, concurrency=workers)
        else:
            # Writing takes no CPU of its own, so that an actor that holds the last free one can get rid of its rows.
            source.map_batches(
                _Worker,
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
                fn_constructor_kwargs=arguments,
                num_cpus=1,
                num_gpus=1 if env.device == "cuda" else None,
            ).write_datasink(sink, ray_remote_args={"num_cpus": 0}, concurrency=max(1, workers // 4))
    return sink.parts


def _write(table: pa.Table, directory: Path, operator: Operator) -> list[Part]:
    parts = []
    for index, start in enumerate(range(0, max(len(table), 1), 65536)):
        parts += write_parts(table.slice(start, 65536), directory, index, operator.layout)
    return parts


class _Worker:
    """Applies an operator to blocks of whole units; what the operator prepares is kept for the worker's life."""

    def __init__(self, reference: str, config: Any, env: Env) -> None:
        self.operator = _load(reference)
        if self.operator.make is None:
            raise TypeError(f"{reference} computes its rows in its plan: nothing is left for a worker")
        self.compute = self.operator.make(config, env)

    def __call__(self, block: pa.Table) -> pa.Table:
        tables = []
        start = 0
        while start < len(block):
            size = block[_UNIT_ROWS][start].as_py()
            unit = block.slice(start, size)
            if len(unit) != size or len(pc.unique(unit[_UNIT])) != 1:
                raise RuntimeError(f"{self.operator.name}: a unit of {size} rows was cut apart on its way to a worker")
            tables.append(apply(self.operator, self.compute, unit.drop_columns([_UNIT, _UNIT_ROWS])))
            start += size
        return pa.concat_tables(tables)


_WORKERS: dict[str, _Worker] = {}
"""What the tasks of this process have prepared: Ray reuses processes, so a network or a decoder is loaded once."""


def _apply_blocks(block: pa.Table, reference: str, config: Any, env: Env) -> pa.Table:
    """The task form of `_Worker`."""
    key = json.dumps([reference, config.model_dump(mode="json"), asdict(env)], sort_keys=True)
    if key not in _WORKERS:
        _WORKERS.clear()
        _WORKERS[key] = _Worker(reference, config, env)
    return _WORKERS[key](block)


def _load(reference: str) -> Operator:
    module, _, name = reference.partition(":")
    operator = getattr(importlib.import_module(module), name, None)
    if not isinstance(operator, Operator):
        raise TypeError(f"{reference!r} does not name an Operator (expected 'module:NAME')")
    return operator


@contextmanager
def _progress(ctx: JobContext, directory: Path, total: int) -> Iterator[None]:
    """Report rows of finished files twice a second."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_PROGRESS_EVERY_S):
            ctx.progress(min(rows_written(directory), total), total, "rows")

    thread = threading.Thread(target=watch, name=f"progress {ctx.stage}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
