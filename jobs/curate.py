"""Run a curation operator on Ray: rows in, the same rows out, as Parquet with a digest; the driver holds no rows.

The inputs are cut into shards by their size alone, and workers plan them, compute them on Ray Data and write them down
(`jobs.row_worker`); a stage that starts again computes only the batches that no part holds, and no row that an earlier
output of the stage has from the same content (`jobs.row_reuse`). Only numbers travel back: neither rows nor frames nor
latents are ever in the object store. Small tables are planned right here, which takes less time than a task.

Tasks are fed to Ray Data from memory, one a block (`from_arrow`), for three reasons measured with Ray 2.60: a small
table read from Parquet collapses into one block and so into one task; its listing, reading and repartitioning operators
each start workers of their own (ten seconds on two cores); and tasks that need a CPU upstream of an actor pool wait for
ever when the pool holds the last free one. Ray's row checkpoints are not used: they know rows by their id alone, and
keep nothing of a task that did not end.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curation.decode_limits import DecodeLimits
from curation.digest import RowsDigest
from curation.operator import FAILED, Env, Input, Operator, Shard, load_operator
from curation.schema import Reason
from jobs import capacity, row_worker
from jobs.context import JobContext, JobResult
from jobs.failed_alike import check_failed_alike
from jobs.parts import Part, Span, link_parts, read_parts, rows_written
from jobs.row_index import INDEX_FILE
from jobs.row_reuse import kept
from jobs.row_worker import Planned, RowStage
from jobs.shards import cut_inputs, cut_shards, files_of, table_files
from lumina.faults import told_by

if TYPE_CHECKING:
    from jobs.runtime import RuntimeConfig

log = logging.getLogger(__name__)

_PROGRESS_EVERY_S = 0.5
_SMALL_ROWS = 2048
"""As many rows are planned in no time: they are not worth a task."""
_TASK_ROWS = 4096
"""Rows of a task at most: workers that end early wait for no more, and a task costs the driver some 20 ms."""


def run(ctx: JobContext) -> JobResult:
    """Run the operator that `ctx.operator` names over `ctx.inputs`; writes `<out>/data/*.parquet`.

    RuntimeError if rows are lost, or if every row that was computed met an unforeseen error: that is a broken set-up,
    not bad clips. MachineError for a fault of the machine, and if so many rows failed alike that one is likely; rows
    that are finished, and not among these, are kept for the next run.
    """
    operator = load_operator(ctx.operator)
    device = ctx.runtime.curation_device if operator.runs_network(ctx.config) else "cpu"
    limits, stores = decode_limits(ctx.runtime), ctx.runtime.object_stores
    env = Env(ctx.media_root, dict(ctx.weights), device, limits, stores, str(ctx.work), ctx.aside)
    inputs = {name: Input(path) for name, path in ctx.files.items()}
    inputs |= {name: Input(ref.path) for name, ref in ctx.inputs.items()}
    missing = [name for name in operator.inputs if name not in inputs]
    if missing:
        raise ValueError(f"stage {ctx.stage!r} needs inputs {missing}, got {sorted(inputs)}")
    return _Run(ctx, operator, RowStage(ctx.operator, ctx.config, env, ctx.work)).run(inputs)


def decode_limits(runtime: RuntimeConfig) -> DecodeLimits:
    """What the decoding of one clip may cost."""
    return DecodeLimits(runtime.decode_timeout_s, round(runtime.decode_memory_gb * (1 << 30)))


@dataclass(frozen=True)
class _Run:
    """One run of a stage."""

    ctx: JobContext
    operator: Operator
    stage: RowStage

    def run(self, inputs: Mapping[str, Input]) -> JobResult:
        ctx, operator = self.ctx, self.operator
        for name in ("plan", "slices", "result", "reduced"):
            shutil.rmtree(ctx.work / name, ignore_errors=True)
        for name in ("plan", "slices", "result", "reduced", "parts"):
            (ctx.work / name).mkdir(parents=True, exist_ok=True)
        operator.check(inputs, ctx.config)
        shards, planned = self._plan(inputs)
        rows = sum(one.rows for one in planned)
        directory = ctx.work / self._directory
        computed = read_parts(directory) if operator.map is None else self._compute(shards, planned)
        parts = computed
        if operator.reduce is not None and (reduced := self._reduce(computed, inputs, rows)) is not None:
            parts, directory = reduced, ctx.work / "reduced"
        (ctx.out / "data").mkdir()
        link_parts(parts, directory, ctx.out / "data")
        return self._result(rows, computed, parts, directory)

    def _plan(self, inputs: Mapping[str, Input]) -> tuple[list[Shard], list[Planned]]:
        operator, stage = self.operator, self.stage
        if operator.read is not None:
            tables = operator.read(inputs, self.ctx.config, stage.env)
            planned = [row_worker.write_plan(stage, number, rows) for number, rows in enumerate(tables)]
            return [Shard()] * len(planned), planned
        files = {name: table_files(one.path / "data", "clip_id") for name, one in inputs.items()}
        rows = max((sum(file.rows for file in table) for table in files.values()), default=0)
        shards = cut_shards(rows)
        cut = cut_inputs(inputs, files, shards)
        tasks = [(stage, number, one) for number, one in enumerate(cut)]
        if operator.gather is None:
            return shards, self._each(row_worker.plan_shard, tasks, rows)
        self._each(row_worker.slice_plan, [(*task, len(shards)) for task in tasks], rows)
        gathered = [(stage, number, len(shards)) for number in range(len(shards))]
        return shards, self._each(row_worker.gather_plan, gathered, rows)

    def _compute(self, shards: Sequence[Shard], planned: Sequence[Planned]) -> list[Part]:
        """Bring the parts of all batches into the scratch, and return them."""
        ctx, directory = self.ctx, self.ctx.work / "parts"
        rows, total = sum(one.rows for one in planned), sum(one.batches for one in planned)
        if not total:
            return [self.stage.writer("parts").write(self.operator.computed_schema.empty_table())]
        if self.operator.reduce is None:
            self._reuse(shards, planned, rows)
        # The first count, from which the rate is told: rows that are there were not computed now.
        ctx.progress(min(rows_written(directory), rows), rows, "rows")
        parts, before = read_parts(directory), -1
        with _progress(ctx, directory, rows):
            while todo := _unfinished(parts, planned):
                left = sum(stop - start for _, spans_of in todo for start, stop in spans_of)
                if left == before:
                    raise RuntimeError(f"{ctx.stage}: {left} of {total} work batches were not written")
                before = left
                self._map(todo, rows * left // total)
                parts = read_parts(directory)
        return parts

    def _reuse(self, shards: Sequence[Shard], planned: Sequence[Planned], rows: int) -> None:
        """Write parts of all rows that need not be computed."""
        ctx, stage = self.ctx, self.stage
        if files := table_files(kept(ctx.work), self.operator.key):
            held = files_of(files, shards)
            self._each(row_worker.reuse_kept, [(stage, number, some) for number, some in enumerate(held)], rows)
        for earlier in ctx.earlier:
            todo = [number for number, _ in _unfinished(read_parts(ctx.work / "parts"), planned)]
            if not todo:
                return
            try:
                out = earlier.fetch(lambda path: path == INDEX_FILE)
                for _ in range(2):
                    tasks = [(stage, number, shards[number], out, earlier.fingerprint) for number in todo]
                    found = self._each(row_worker.reuse_earlier, tasks, rows)
                    wanted = {path for missing, _ in found for path in missing}
                    todo = [number for number, (missing, _) in zip(todo, found, strict=True) if missing]
                    if not wanted:
                        break
                    earlier.fetch(wanted.__contains__)
                damaged = next((text for _, text in found if text), "")
                if wanted or damaged:
                    raise ValueError(damaged or f"{sorted(wanted)[0]} is not there")
            except (FileNotFoundError, ValueError) as error:
                # What was written is whole; the rest is computed.
                log.warning(
                    "%s: an earlier output is damaged, so rows are computed again: %s", self.operator.name, error
                )

    def _map(self, todo: Sequence[tuple[int, tuple[Span, ...]]], rows: int) -> None:
        import ray.data

        ctx, stage = self.ctx, self.stage
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)  # its plans and bars would tear the driver's own apart
        gpus = ctx.runtime.gpus_of(ctx.stage) if stage.env.device == "cuda" else 0
        workers = capacity.curation_workers(ctx.runtime, gpus)
        tasks = _cut_tasks(todo, max(4 * workers, math.ceil(rows / _TASK_ROWS)))
        source = ray.data.from_arrow(
            [pa.table({"shard": [number], "batches": [json.dumps(batches)]}) for number, batches in tasks]
        )
        if gpus:
            workers = min(workers, len(tasks))
            written = source.map_batches(
                row_worker.Mapper,
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
                fn_constructor_args=(stage,),
                num_cpus=1,
                num_gpus=gpus,
            )
        else:
            # Ray keeps the processes of tasks: the next stage finds torch imported, which takes seconds in a new actor.
            written = source.map_batches(
                row_worker.map_task,
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.TaskPoolStrategy(min(workers, len(tasks))),
                fn_args=(stage,),
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

    def _reduce(self, parts: Sequence[Part], inputs: Mapping[str, Input], rows: int) -> list[Part] | None:
        """Bring computed rows of one range of ids together, and make the result of them; None: it is made."""
        import pyarrow.dataset as ds

        operator, stage, directory = self.operator, self.stage, self.ctx.work / self._directory
        files: dict[int, list[str]] = {}
        for part in parts:
            files.setdefault(part.shard, []).extend(str(directory / file.name) for file in part.files)
        surveyed: Any = ()
        if operator.survey is not None:
            every = [path for paths in files.values() for path in paths]
            computed = ds.dataset(every, operator.computed_schema, format="parquet")
            surveyed = operator.survey(computed, inputs, self.ctx.config)
            if surveyed is None:
                return None
        count = len(cut_shards(rows))
        numbers = sorted(files)
        self._each(row_worker.slice_computed, [(stage, number, files[number], count) for number in numbers], rows)
        self._each(row_worker.reduce_shard, [(stage, at, numbers, surveyed) for at in range(count)], rows)
        return read_parts(self.ctx.work / "reduced")

    def _result(self, rows: int, computed: Sequence[Part], parts: Sequence[Part], directory: Path) -> JobResult:
        ctx, operator = self.ctx, self.operator
        counts = sum((part.counts for part in parts), Counter[str]())
        digest = sum((file.digest for part in parts for file in part.files), RowsDigest())
        lost = digest.rows < rows if operator.expand is not None else digest.rows != rows
        if lost or sum(counts.values()) != 2 * digest.rows:  # `in` plus its parts
            raise RuntimeError(f"{ctx.stage}: {rows} rows went in, {digest.rows} came out: {dict(counts)}")
        reused = Counter[str]()
        for part in parts:
            if part.reused_from:
                reused[part.reused_from] += sum(file.rows for file in part.files)
        broken = [part.failed[Reason.INTERNAL_ERROR] for part in computed if Reason.INTERNAL_ERROR in part.failed]
        # Beside rows that were well before, a single one may be a bad clip.
        if sum(one.rows for one in broken) > bool(reused) and counts["ok"] == reused.total():
            # Nothing of it is worth keeping: once the cause is mended, all rows are computed anew.
            for name in ("parts", FAILED):
                shutil.rmtree(ctx.work / name, ignore_errors=True)
            first = min(broken, key=lambda one: one.key)
            raise RuntimeError(f"{ctx.stage}: no row succeeded; the first error was: {first.detail}")
        check_failed_alike(ctx, computed)
        indexes = [part.index_path(directory) for part in parts]
        [report] = self._each(row_worker.finish, [(self.stage, ctx.out, indexes)], rows)
        for line in report.warnings:
            log.warning("%s: %s", operator.name, line)
        ctx.progress(rows, rows, "rows")
        ordered = {"in": digest.rows, "ok": counts["ok"], **{key: counts[key] for key in sorted(counts) if "/" in key}}
        return JobResult("rows", str(digest), ordered, dict(report.metrics), artifacts=report.files, taken=dict(reused))

    @property
    def _directory(self) -> str:
        """Of the scratch, where rows lie before they are reduced."""
        return "result" if self.operator.map is None else "parts"

    def _each(self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], rows: int) -> list[Any]:
        """The results of a function for each of `tasks`, its arguments: by workers, unless there are few rows."""
        if rows <= _SMALL_ROWS or not tasks:
            return [function(*task) for task in tasks]
        import ray

        remote = ray.remote(num_cpus=1, resources=capacity.curation_place(self.ctx.runtime))(function)
        try:
            found: list[Any] = ray.get([remote.remote(*task) for task in tasks])
        except ray.exceptions.RayTaskError as error:
            raise told_by(error) or error.cause from error
        return found


def _unfinished(parts: Sequence[Part], planned: Sequence[Planned]) -> list[tuple[int, tuple[Span, ...]]]:
    """Numbers of the shards that have batches in no part, with these."""
    done: dict[int, list[Span]] = {}
    for part in parts:
        done.setdefault(part.shard, []).extend(part.batches)
    found = []
    for number, one in enumerate(planned):
        have = sorted(done.get(number, ()))
        ends, starts = [0, *(stop for _, stop in have)], [*(start for start, _ in have), one.batches]
        gaps = tuple((end, start) for end, start in zip(ends, starts, strict=True) if end < start)
        if gaps:
            found.append((number, gaps))
    return found


def _cut_tasks(todo: Sequence[tuple[int, tuple[Span, ...]]], tasks: int) -> list[tuple[int, list[Span]]]:
    """Share out the batches of each shard, to about so many tasks in all."""
    most = max(1, math.ceil(sum(stop - start for _, spans_of in todo for start, stop in spans_of) / tasks))
    found: list[tuple[int, list[Span]]] = []
    for number, spans_of in todo:
        room = 0
        for start, stop in spans_of:
            while start < stop:
                if not room:
                    found.append((number, []))
                    room = most
                end = min(stop, start + room)
                found[-1][1].append((start, end))
                room, start = room - (end - start), end
    return found


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
