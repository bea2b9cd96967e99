"""Run a curation operator on Ray Data: rows in, the same rows out, as Parquet with a digest.

Workers write what they finish themselves, as parts that survive whatever is killed (`jobs.parts`), every few seconds;
a stage that starts again computes only the units of work that no part holds, and no row that an earlier output of the
stage has from the same content (`jobs.taken`). Only numbers travel back to the driver: neither frames nor latents are
ever in the object store, which holds the plan's rows alone. A worker's memory is bounded by its network, the frames of
two units, 256 MiB of finished rows, and `runtime.decode_memory_gb` for its decoder.

The plan is fed from memory in blocks that hold whole units of work (`from_arrow`), for three reasons measured with
Ray 2.60: a small table read from Parquet collapses into one block and so into one task; its listing, reading and
repartitioning operators each start workers of their own (ten seconds on two cores); and tasks that need a CPU upstream
of an actor pool wait for ever when the pool holds the last free one. Ray's row checkpoints are not used: they know
rows by their id alone, and keep nothing of a task that did not end.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from curation.decode_limits import DecodeLimits
from curation.digest import RowsDigest
from curation.operator import Env, Input, Operator, apply_ahead, dataset
from curation.schema import Reason, Status, conform
from jobs import capacity
from jobs.context import JobContext, JobResult
from jobs.failed_alike import check_failed_alike
from jobs.kept import adopt
from jobs.parts import Part, link_parts, read_part, read_parts, record_path, rows_written, write_part
from jobs.row_index import write_row_index
from jobs.taken import take
from jobs.units import UNIT, UNIT_ROWS, cut_blocks, cut_units, given_marks
from lumina.faults import MachineError, told_by

if TYPE_CHECKING:
    from jobs.runtime import RuntimeConfig

_PROGRESS_EVERY_S = 0.5
_FLUSH_S, _FLUSH_SHARE, _FLUSH_BYTES = 2.0, 0.02, 256 << 20
"""A worker writes a part when it has computed for two seconds, or a fiftieth of its life, or holds so many bytes: what
a kill costs stays a small share of what was done, and long stages do not end in countless small files."""


def run(ctx: JobContext) -> JobResult:
    """Run the operator that `ctx.operator` names over `ctx.inputs`; writes `<out>/data/*.parquet`.

    RuntimeError if rows are lost, or if every row that was computed met an unforeseen error: that is a broken set-up,
    not bad clips. MachineError for a fault of the machine, and if so many rows failed alike that one is likely; rows
    that are finished, and not among these, are kept for the next run.
    """
    operator = load_operator(ctx.operator)
    device = ctx.runtime.curation_device if operator.runs_network(ctx.config) else "cpu"
    env = Env(ctx.media_root, dict(ctx.weights), device, decode_limits(ctx.runtime), ctx.runtime.object_stores)
    inputs = {name: Input(path) for name, path in ctx.files.items()}
    inputs |= {name: Input(ref.path) for name, ref in ctx.inputs.items()}
    missing = [name for name in operator.inputs if name not in inputs]
    if missing:
        raise ValueError(f"stage {ctx.stage!r} needs inputs {missing}, got {sorted(inputs)}")
    rows = operator.plan(inputs, ctx.config, env)
    data, scratch = ctx.out / "data", ctx.work / "parts"
    data.mkdir()
    scratch.mkdir(parents=True, exist_ok=True)
    ctx.progress(0, len(rows), "rows")
    given: dict[str, bytes] = {}
    if operator.make is None:
        directory, parts = _write(rows.cast(operator.schema), ctx, operator)
    else:
        units = cut_units(rows, operator.rows_per_unit(ctx.config), operator.group)
        if operator.finish is None:
            given = given_marks(units, operator.key, operator.carries)
        directory, parts = scratch, _compute(ctx, operator, env, units, given, scratch)
        if operator.finish is not None:
            files = [str(scratch / file.name) for part in parts for file in part.files]
            computed = ds.dataset(files, operator.computed_schema, format="parquet").to_table()
            directory, parts = _write(operator.finish(computed, ctx.config).cast(operator.schema), ctx, operator)
    link_parts(parts, directory, data)
    return _result(ctx, operator, rows, parts, given)


def decode_limits(runtime: RuntimeConfig) -> DecodeLimits:
    """What the decoding of one clip may cost."""
    return DecodeLimits(runtime.decode_timeout_s, round(runtime.decode_memory_gb * (1 << 30)))


def _result(
    ctx: JobContext, operator: Operator, rows: pa.Table, parts: list[Part], given: Mapping[str, bytes]
) -> JobResult:
    counts = sum((part.counts for part in parts), Counter[str]())
    digest = sum((file.digest for part in parts for file in part.files), RowsDigest())
    broken = counts[f"{Status.QUARANTINED}/{Reason.INTERNAL_ERROR}"]
    lost = digest.rows < len(rows) if operator.expands else digest.rows != len(rows)
    if lost or sum(counts.values()) != 2 * digest.rows:  # `in` plus its parts
        raise RuntimeError(f"{ctx.stage}: {len(rows)} rows went in, {digest.rows} came out: {dict(counts)}")
    written = dataset(ctx.out / "data")
    taken = Counter[str]()
    for part in parts:
        taken[part.taken_from] += sum(file.rows for file in part.files)
    del taken[""]
    # Beside rows that were well before, a single one may be a bad clip.
    if broken > bool(taken) and counts["ok"] == taken.total():
        found = written.to_table(columns=["detail"], filter=pc.field("reason") == Reason.INTERNAL_ERROR)
        # Nothing of it is worth keeping: once the cause is mended, all rows are computed anew.
        shutil.rmtree(ctx.work / "parts", ignore_errors=True)
        raise RuntimeError(f"{ctx.stage}: no row succeeded; the first error was: {found['detail'][0].as_py()}")
    check_failed_alike(ctx, operator, rows, written)
    report = operator.report(written, ctx.config, ctx.out)
    write_row_index(ctx.out, {file.name: file.marks for part in parts for file in part.files}, operator.key, given)
    ctx.progress(len(rows), len(rows), "rows")
    ordered = {"in": digest.rows, "ok": counts["ok"], **{key: counts[key] for key in sorted(counts) if "/" in key}}
    return JobResult("rows", str(digest), ordered, dict(report.metrics), artifacts=report.files, taken=dict(taken))


def _compute(
    ctx: JobContext, operator: Operator, env: Env, units: pa.Table, given: Mapping[str, bytes], directory: Path
) -> list[Part]:
    """Bring the parts of all units into `directory`, and return them."""
    layout = operator.layout(ctx.config)
    if not len(units):
        return [write_part(conform(units, operator.computed_schema), [0], directory, layout)]
    total = len(pc.unique(units[UNIT]))
    if operator.finish is None:
        sizes = zip(units[UNIT].to_pylist(), units[UNIT_ROWS].to_pylist(), strict=True)
        by_id = dict(zip(units[operator.key].to_pylist(), sizes, strict=True))
        adopt(ctx.work, by_id, operator.key, directory, layout)
        take(ctx.earlier, units, given, operator, directory, layout)
    parts, done = read_parts(directory), -1
    with _progress(ctx, directory, len(units)):
        while (have := sum(len(part.units) for part in parts)) < total:
            if have == done:
                raise RuntimeError(f"{ctx.stage}: {total - have} of {total} units of work were not written")
            done = have
            finished = pa.array([unit for part in parts for unit in part.units], pa.int64())
            todo = units.filter(pc.invert(pc.is_in(units[UNIT], finished)))
            _execute(ctx, operator, env, todo, directory)
            parts = read_parts(directory)
    return parts


def _execute(ctx: JobContext, operator: Operator, env: Env, units: pa.Table, directory: Path) -> None:
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # its plans and bars would tear the driver's own apart
    gpus = ctx.runtime.gpus_of(ctx.stage) if env.device == "cuda" else 0
    workers = capacity.curation_workers(ctx.runtime, gpus)
    most = operator.layout(ctx.config).rows_per_file
    blocks = cut_blocks(units, max(1, min(most, math.ceil(len(units) / (4 * workers)))))
    workers = min(workers, len(blocks))
    arguments = {"reference": ctx.operator, "config": ctx.config, "env": env, "directory": str(directory)}
    # A block is one row, its table inside: no batching can cut it apart or join it to another.
    source = ray.data.from_arrow([pa.table({"block": [_to_bytes(block)]}) for block in blocks])
    if gpus:
        written = source.map_batches(
            _Worker,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
            fn_constructor_kwargs=arguments,
            num_cpus=1,
            num_gpus=gpus,
        )
    else:
        # Ray keeps the processes of tasks: the next stage finds torch imported, which takes seconds in a new actor.
        written = source.map_batches(
            _apply_blocks,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.TaskPoolStrategy(size=workers),
            fn_kwargs=arguments,
            num_cpus=1,
            resources=capacity.curation_place(ctx.runtime),
        )
    try:
        written.materialize()
    except Exception as error:
        fault = told_by(error)
        if fault is None:
            raise
        raise fault from error


def _to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _from_bytes(data: pa.Buffer) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()


def _write(table: pa.Table, ctx: JobContext, operator: Operator) -> tuple[Path, list[Part]]:
    """Write what the driver computed; the directory, and the parts in it."""
    directory = ctx.work / "result"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    layout, starts = operator.layout(ctx.config), range(0, max(len(table), 1), 65536)
    return directory, [write_part(table.slice(start, 65536), [start], directory, layout) for start in starts]


class _Worker:
    """Applies an operator to blocks of whole units; what the operator prepares is kept for the worker's life."""

    def __init__(self, reference: str, config: Any, env: Env, directory: str) -> None:
        self.operator = load_operator(reference)
        if self.operator.make is None:
            raise TypeError(f"{reference} computes its rows in its plan: nothing is left for a worker")
        self.compute = self.operator.make(config, env)
        self.directory, self.layout = Path(directory), self.operator.layout(config)
        self.born = self.flushed = time.monotonic()

    def __call__(self, packed: pa.Table) -> pa.Table:
        """Write the rows of all units in one packed block that are in no part yet; return their number."""
        units = self._todo(_from_bytes(packed["block"][0].as_buffer()))
        held: dict[int, pa.Table] = {}
        rows = held_bytes = 0
        try:
            for number, made in zip(units, apply_ahead(self.operator, self.compute, units.values()), strict=True):
                held[number] = made
                held_bytes += made.nbytes
                rows += len(units[number])
                if self._is_due(held_bytes):
                    self._flush(held)
                    held_bytes = 0
        except MachineError:
            self._flush(held)  # what is done stays
            raise
        self._flush(held)
        return pa.table({"rows": pa.array([rows], pa.int64())})

    def _todo(self, block: pa.Table) -> dict[int, pa.Table]:
        """The units of a block that are in no part yet, by their numbers."""
        units: dict[int, pa.Table] = {}
        done = set[int]()
        start = 0
        while start < len(block):
            size, number = block[UNIT_ROWS][start].as_py(), block[UNIT][start].as_py()
            # Ray gives a block of a dead worker to another one, which finds here what was written before.
            record = record_path(self.directory, number)
            if record.exists():
                done.update(read_part(record).units)
            if number not in done:
                units[number] = block.slice(start, size).drop_columns([UNIT, UNIT_ROWS])
            start += size
        return units

    def _is_due(self, held_bytes: int) -> bool:
        now = time.monotonic()
        return held_bytes > _FLUSH_BYTES or now - self.flushed > max(_FLUSH_S, _FLUSH_SHARE * (now - self.born))

    def _flush(self, held: dict[int, pa.Table]) -> None:
        if held:
            write_part(pa.concat_tables(held.values()).combine_chunks(), list(held), self.directory, self.layout)
            held.clear()
        self.flushed = time.monotonic()


_WORKERS: dict[str, _Worker] = {}
"""What the tasks of this process have prepared, the latest last: a network or a decoder is loaded once."""
_MOST_WORKERS = 2
"""Stages run side by side, two by default."""


def _apply_blocks(packed: pa.Table, reference: str, config: Any, env: Env, directory: str) -> pa.Table:
    """The task form of `_Worker`."""
    key = json.dumps([reference, config.model_dump(mode="json"), asdict(env), directory], sort_keys=True, default=repr)
    worker = _WORKERS.pop(key, None) or _Worker(reference, config, env, directory)
    _WORKERS[key] = worker
    while len(_WORKERS) > _MOST_WORKERS:
        del _WORKERS[next(iter(_WORKERS))]
    return worker(packed)


def load_operator(reference: str) -> Operator:
    """The operator that `module:NAME` names; TypeError if it is none."""
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
