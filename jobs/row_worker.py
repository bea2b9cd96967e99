"""Row worker: what is done to one shard of a curation stage, wherever it runs; the driver sees numbers alone.

A worker writes the rows that it finishes itself, as parts that survive whatever is killed (`jobs.parts`), every few
seconds. Its memory is bounded by the rows of one shard without their tensors, its network, the frames of two batches,
256 MiB of finished rows, and `runtime.decode_memory_gb` for its decoder.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from curation.operator import Env, Halves, Input, Operator, Report, Shard, apply_ahead, dataset, load_operator
from jobs import row_reuse
from jobs.batches import BATCH, INPUT_HASH, batch_starts, cut_batches, with_input_hashes
from jobs.parts import PartWriter, Span, read_parts
from jobs.row_index import write_row_index
from jobs.shards import read_slices, read_table, write_slices, write_table
from lumina.faults import MachineError

_P = ParamSpec("_P")
_Result = TypeVar("_Result")
_FLUSH_S, _FLUSH_SHARE, _FLUSH_BYTES = 2.0, 0.02, 256 << 20
"""A worker writes a part when it has computed for two seconds, or a fiftieth of its life, or holds so many bytes: what
a kill costs stays a small share of what was done, and long stages do not end in countless small files."""
_STEP_S = 0.2
"""Rows that are each their own batch are computed together while that takes less: calls cost more than small rows."""


@dataclass(frozen=True)
class RowStage:
    """A curation stage, as its workers know it."""

    reference: str
    """`module:NAME` of the operator."""
    config: Any
    env: Env
    work: Path
    """Scratch directory of the stage, which all workers see."""

    @property
    def operator(self) -> Operator:
        """Of the stage."""
        return load_operator(self.reference)

    def planned(self, number: int) -> Path:
        """Where the planned rows of a shard are."""
        return self.work / "plan" / f"{number:06}.arrow"

    def sliced(self, number: int) -> Path:
        """Where the rows of a shard are that go to other ranges of ids."""
        return self.work / "slices" / f"{number:06}.arrow"

    def writer(self, directory: str) -> PartWriter:
        """Writes to `directory` of the scratch: `parts` what is computed, `result` what is final and cheap."""
        operator = self.operator
        return PartWriter(self.work / directory, operator.layout(self.config), operator.key, operator.name)


def _of(function: Callable[_P, _Result] | None) -> Callable[_P, _Result]:
    if function is None:
        raise TypeError("the operator lacks a function that its others call for")
    return function


@dataclass(frozen=True)
class Planned:
    """Size of a planned shard."""

    rows: int
    batches: int


def plan_shard(stage: RowStage, number: int, inputs: Mapping[str, Input]) -> Planned:
    """Plan a shard, for `Mapper`; or its result, where nothing is left to compute."""
    operator = stage.operator
    rows = _of(operator.plan)(inputs, stage.config, stage.env)
    if operator.map is not None:
        return write_plan(stage, number, rows)
    stage.writer("result").write(rows.cast(operator.schema).combine_chunks(), number)
    return Planned(len(rows), 1)


def write_plan(stage: RowStage, number: int, rows: pa.Table) -> Planned:
    """Cut a shard's rows into batches, and write them down."""
    operator = stage.operator
    rows = cut_batches(rows, operator.rows_per_batch(stage.config), operator.group)
    if operator.reduce is None:
        rows = with_input_hashes(rows, operator.passthrough_columns)
    write_table(stage.planned(number), rows)
    return Planned(len(rows), len(batch_starts(rows)) - 1)


def slice_plan(stage: RowStage, number: int, inputs: Mapping[str, Input], count: int) -> None:
    """Plan a shard whose rows go to others, so many in all."""
    operator = stage.operator
    rows = _of(operator.plan)(inputs, stage.config, stage.env)
    rows = _of(operator.gather)(rows, stage.config, stage.env)
    write_slices(stage.sliced(number), rows, operator.key, count)


def gather_plan(stage: RowStage, number: int, of: int) -> Planned:
    """Bring planned rows of one range together."""
    operator = stage.operator
    rows = read_slices(map(stage.sliced, range(of)), number)
    return write_plan(stage, number, _of(operator.gather)(rows, stage.config, stage.env))


def reuse_earlier(stage: RowStage, number: int, shard: Shard, out: Path, fingerprint: str) -> tuple[list[str], str]:
    """See `jobs.row_reuse.reuse_earlier`."""
    planned = read_table(stage.planned(number))
    return row_reuse.reuse_earlier(planned, shard, number, out, stage.operator, stage.writer("parts"), fingerprint)


def reuse_kept(stage: RowStage, number: int, files: Iterable[str]) -> None:
    """See `jobs.row_reuse.reuse_kept`."""
    planned = read_table(stage.planned(number))
    row_reuse.reuse_kept(planned, number, files, row_reuse.kept(stage.work), stage.writer("parts"))


def slice_computed(stage: RowStage, number: int, files: Sequence[str], count: int) -> None:
    """Write the computed rows of a shard by the range that they go to, of so many."""
    operator = stage.operator
    rows = ds.dataset(list(files), operator.computed_schema, format="parquet").to_table()
    if operator.expand is not None:
        rows = operator.expand(rows, stage.config)
    write_slices(stage.sliced(number), rows, operator.key, count)


def reduce_shard(stage: RowStage, number: int, of: Sequence[int], surveyed: Any) -> None:
    """Make the result of all computed rows of one range."""
    operator = stage.operator
    rows = _of(operator.reduce)(read_slices(map(stage.sliced, of), number), stage.config, surveyed)
    stage.writer("reduced").write(rows.cast(operator.schema).combine_chunks(), number)


def finish(stage: RowStage, out: Path, indexes: Sequence[Path]) -> Report:
    """Write the index of the output's rows, and what the stage says about them."""
    write_row_index(out, map(read_table, indexes))
    return stage.operator.report(dataset(out / "data"), stage.config, out)


class Mapper:
    """Applies an operator to batches of planned shards; what the operator prepares is kept for the worker's life."""

    def __init__(self, stage: RowStage) -> None:
        self.stage, self.operator, self.writer = stage, stage.operator, stage.writer("parts")
        self.compute = _of(self.operator.map)(stage.config, stage.env)
        self.born = self.flushed = time.monotonic()

    def __call__(self, tasks: pa.Table) -> pa.Table:
        """Write the rows of a task's batches that are in no part yet; return their number.

        Args:
            tasks: one row with `shard`, its number, and `batches`, spans of their numbers as JSON.
        """
        number, wanted = tasks["shard"][0].as_py(), json.loads(tasks["batches"][0].as_py())
        planned = self._todo(number, wanted)
        starts = batch_starts(planned)
        steps = list[Span]()
        held: list[pa.Table] = []
        first = held_bytes = 0

        def flush() -> None:
            nonlocal first, held_bytes
            if held:
                last = steps[len(held) - 1][1]
                its = planned.slice(int(starts[first]), int(starts[last] - starts[first]))
                numbers = planned[BATCH].take(pa.array(starts[first:last])).to_pylist()
                self.writer.write(pa.concat_tables(held).combine_chunks(), number, numbers, its)
                del steps[: len(held)]
                held.clear()
                first, held_bytes = last, 0
            self.flushed = time.monotonic()

        try:
            for made in apply_ahead(self.operator, self.compute, self._steps(planned, starts, steps)):
                held.append(made)
                held_bytes += made.nbytes
                if self._is_due(held_bytes):
                    flush()
        except MachineError:
            flush()  # what is done stays
            raise
        flush()
        return pa.table({"rows": pa.array([len(planned)], pa.int64())})

    def _todo(self, number: int, wanted: Sequence[Span]) -> pa.Table:
        """The planned rows of batches that are in no part yet."""
        # Ray gives a task of a dead worker to another one, which finds here what was written before.
        done = {batch for part in read_parts(self.writer.directory, number) for batch in part.numbers}
        todo = [batch for start, stop in wanted for batch in range(start, stop) if batch not in done]
        planned = read_table(self.stage.planned(number))
        return planned.filter(pc.is_in(planned[BATCH], pa.array(todo, pa.int64()))).combine_chunks()

    def _steps(self, planned: pa.Table, starts: Any, steps: list[Span]) -> Iterator[pa.Table]:
        """The batches in their order, single rows several at a time; `steps` gets the places of those in each."""
        rows = planned.drop_columns([name for name in (BATCH, INPUT_HASH) if name in planned.column_names])
        count, at, last = self.operator.waiting(self.stage.env), 0, len(starts) - 1
        together = isinstance(self.compute, Halves) or self.operator.rows_per_batch(self.stage.config) > 1
        while at < last:
            began, stop = time.monotonic(), min(at + count, last)
            steps.append((at, stop))
            yield rows.slice(int(starts[at]), int(starts[stop] - starts[at]))
            took, at = time.monotonic() - began, stop
            if not together:
                count = count * 2 if took < _STEP_S / 2 else max(1, count // 2) if took > _STEP_S else count

    def _is_due(self, held_bytes: int) -> bool:
        now = time.monotonic()
        return held_bytes > _FLUSH_BYTES or now - self.flushed > max(_FLUSH_S, _FLUSH_SHARE * (now - self.born))


_MAPPERS: dict[str, Mapper] = {}
"""What the tasks of this process have prepared, the latest last: a network or a decoder is loaded once."""
_MOST_MAPPERS = 2
"""Stages run side by side, two by default."""


def map_task(tasks: pa.Table, stage: RowStage) -> pa.Table:
    """The task form of `Mapper`."""
    described = [stage.reference, stage.config.model_dump(mode="json"), asdict(stage.env), str(stage.work)]
    key = json.dumps(described, sort_keys=True, default=repr)
    with _interrupts_held():
        mapper = _MAPPERS.pop(key, None) or Mapper(stage)
        _MAPPERS[key] = mapper
        while len(_MAPPERS) > _MOST_MAPPERS:
            del _MAPPERS[next(iter(_MAPPERS))]
    try:
        return mapper(tasks)
    except (KeyboardInterrupt, MachineError):
        # Its decoder may be in the middle of an answer, or what asks a server has stopped.
        del _MAPPERS[key]
        raise


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let a KeyboardInterrupt wait until the end: Ray cancels a task by one, and gives the process to other stages.

    An import of torch that is broken off fails in that process for ever: "partially initialized module".
    """
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt
