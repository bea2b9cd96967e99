"""Operator of a curation stage: a record of functions over Arrow tables, run by any executor (`jobs/curate.py` is one).

Every function but `check` and `survey` sees one shard: the rows whose ids lie in one range, in all inputs alike. It is
planned (`plan`: join the inputs to one row per clip), then computed (`map`: a function over the rows of a work batch),
then may be looked at once more (`reduce`), beside all rows of the same range whatever shard they were computed in.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from curation.decode_limits import DecodeLimits
from curation.object_stores import ObjectStores
from curation.schema import Reason, RowError, Status, conform, status_not_ok, status_ok, to_table
from lumina.config import Config
from lumina.faults import MachineError, patiently

if TYPE_CHECKING:
    import pyarrow.dataset as ds

RowsFunction = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class Halves:
    """A function over the rows of one batch in two halves: the next batch is loaded while this one is computed."""

    load: Callable[[pa.Table], Any]
    """Reads and decodes what the rows name. Runs on a thread of its own, one batch after another."""
    compute: Callable[[Any], pa.Table]
    """Makes rows of what `load` returned: the network's half."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Both, one after the other."""
        return self.compute(self.load(table))


@dataclass(frozen=True)
class Env:
    """Where things are and what they run on; none of it may change what is computed."""

    media_root: str
    """Directory against which relative URIs resolve."""
    weights: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    stores: ObjectStores = field(default_factory=ObjectStores)
    """Which servers hold the media in object stores."""
    work: str = ""
    """Scratch directory of the stage, which all its workers see."""
    aside: Any = None
    """Settings of how the operator computes that are in no identity, such as where a server is."""


FAILED = "failed"
"""Folder in `Env.work` for what an operator keeps of rows that failed: gone where these are to be computed again."""


@dataclass(frozen=True)
class Shard:
    """The rows whose ids are at least `low` and below `high`, which is no bound where it is empty."""

    low: str = ""
    high: str = ""

    def holds(self, key: str) -> pc.Expression:
        """Whether the column `key` is in the range."""
        above = pc.field(key) >= self.low
        return above & (pc.field(key) < self.high) if self.high else above


@dataclass(frozen=True)
class Input:
    """The output of an earlier stage, or of it the rows of one shard; or a file or folder from outside."""

    path: Path
    files: tuple[str, ...] | None = None
    """The Parquet files that may hold rows of the shard, one at least; None: all rows of the stage."""
    shard: Shard = Shard()

    def rows(self, columns: list[str] | None = None) -> pa.Table:
        """All rows, or those of the shard, in no particular order."""
        if self.files is None:
            return dataset(self.path / "data").to_table(columns=columns)
        import pyarrow.dataset as ds

        return ds.dataset(list(self.files), format="parquet").to_table(columns, filter=self.shard.holds("clip_id"))


@dataclass(frozen=True)
class Report:
    """What a stage says about itself beside its rows."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    """Names of the files it wrote into the stage's output directory."""
    warnings: tuple[str, ...] = ()
    """Lines for whoever runs it."""


def quantile_report(dataset: ds.Dataset, *columns: str) -> Report:
    """The 10, 50 and 90 % quantiles of the numbers of each column; nothing of one without any."""
    metrics = dict[str, float]()
    for column in columns:
        values = dataset.to_table(columns=[column])[column].drop_null()
        if len(values):
            quantiles = pc.quantile(values, [0.1, 0.5, 0.9]).to_pylist()
            metrics |= {f"{column}_{name}": one for name, one in zip(("p10", "p50", "p90"), quantiles, strict=True)}
    return Report(metrics)


RANDOM_READ_BYTES = 512 << 10
"""Bytes of a row group at most where training reads rows in random order: a larger row is a group of its own."""


@dataclass(frozen=True)
class Layout:
    """How rows lie in Parquet files. No part of a dataset's digest."""

    split_by: str | None = None
    """Rows of one file agree in this column."""
    row_group_size: int = 65536
    """Rows of a row group at most."""
    row_group_bytes: int = 16 << 20
    """Fewer rows where they would hold more than this: a random read costs a row group."""
    compression: str = "zstd"
    use_dictionary: bool = True


def _no_check(_inputs: Mapping[str, Input], _config: Any) -> None:
    return


def _no_report(_dataset: ds.Dataset, _config: Any, _out: Path) -> Report:
    return Report()


def _layout(_config: Any) -> Layout:
    return Layout()


def _no_network(_config: Any) -> bool:
    return False


def _one_row(_config: Any) -> int:
    return 1


def _not_waiting(_env: Env) -> int:
    return 1


@dataclass(frozen=True)
class Operator:
    """One curation stage."""

    name: str
    config: type[Config]
    schema: pa.Schema
    inputs: tuple[str, ...]
    """Keys of the inputs it reads."""
    plan: Callable[[Mapping[str, Input], Any, Env], pa.Table] | None = None
    """The rows of one shard of the inputs, in an order that depends on nothing but their content. A cheap stage (`map`
    is None) returns its result here."""
    read: Callable[[Mapping[str, Input], Any, Env], Iterator[pa.Table]] | None = None
    """Instead of `plan`, for what is no table yet: its rows, a few thousand at a time, on the driver."""
    check: Callable[[Mapping[str, Input], Any], None] = _no_check
    """Raises, before anything is planned, for what only the whole inputs tell. On the driver: reads what it must."""
    gather: Callable[[pa.Table, Any, Env], pa.Table] | None = None
    """Where planned rows have other ids than the clips they are planned from, one row for many clips: leaves one of
    each, in an order that depends on nothing but their content. Of the rows of one shard, then of one range of ids."""
    map: Callable[[Any, Env], RowsFunction] | None = None
    """Called once in each worker; the function it returns gets the `ok` rows of one work batch and returns as many rows
    of `schema`. Rows that are not `ok` pass by. `Halves` are loaded ahead, see `apply_ahead`."""
    computed: pa.Schema | None = None
    """Columns of what `map`'s function returns, where `reduce` makes others of them."""
    rows_per_batch: Callable[[Any], int] = _one_row
    """Rows that are computed together, such as the batch of an encoder; else a row depends on nothing but itself.
    Batches are cut from the plan of a shard, so their composition depends on the rows alone."""
    waiting: Callable[[Env], int] = _not_waiting
    """Where rows of one batch each wait for a server: how many of them `map`'s function is given at once."""
    passthrough_columns: tuple[str, ...] = ()
    """Columns of the plan that `map`'s function hands on, and computes nothing from. The path of a clip is one of them:
    its content is known by its id. Rows that an earlier output has are not computed again when only these differ."""
    key: str = "clip_id"
    """Column that tells its rows apart."""
    group: str | None = None
    """Column of the plan in which the rows of a batch agree (the bucket of an encoder)."""
    runs_network: Callable[[Any], bool] = _no_network
    """Whether it loads a network under this config, which uses a GPU where the runtime has them."""
    expand: Callable[[pa.Table, Any], pa.Table] | None = None
    """Makes more rows of the computed rows of a shard, before `reduce`: a clip becomes its shots."""
    survey: Callable[[ds.Dataset, Mapping[str, Input], Any], Any] | None = None
    """What `reduce` has to know of all computed rows and of the inputs, as small as it can be; None of it: there is
    nothing to reduce."""
    reduce: Callable[[pa.Table, Any, Any], pa.Table] | None = None
    """Turns computed rows whose ids lie in one range into the result, for what a row alone does not tell (duplicates);
    the last argument is what `survey` found."""
    report: Callable[[ds.Dataset, Any, Path], Report] = _no_report
    """Looks at the written dataset; may write small files into the output directory it is given."""
    reads_media: bool = False
    """Whether it opens media files: it gets their root, and the decoders' versions are part of its identity."""
    weights: tuple[str, ...] = ()
    """Names of the pretrained networks that it loads where `runs_network`, as in the section `weights` of a config."""
    depends: tuple[str, ...] = ()
    """Third-party distributions whose numbers its rows are: their major.minor version is part of its identity."""
    tier: Literal["bitwise", "tolerance"] = "bitwise"
    """How alike rows have to be that another machine computes: the same bits, or numbers within rounding."""
    version: int = 1
    """Raised by hand when something else than its code changes what it computes."""
    layout: Callable[[Any], Layout] = _layout

    @property
    def computed_schema(self) -> pa.Schema:
        """Columns of computed rows before `reduce`."""
        return self.schema if self.computed is None else self.computed


def dataset(directory: Path) -> ds.Dataset:
    """The Parquet dataset in `directory`."""
    import pyarrow.dataset as ds  # brings pandas along, which a plan does without

    return ds.dataset(directory, format="parquet")


def apply(operator: Operator, compute: RowsFunction, table: pa.Table) -> pa.Table:
    """Run one batch: its `ok` rows through `compute`, the others as they are. RuntimeError if a row is lost."""
    well, other = _parted(table)
    return _joined(operator, well, other, compute(well) if len(well) else None)


def apply_ahead(operator: Operator, compute: RowsFunction, batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """`apply` to each batch, in their order; of a function in `Halves` the next one is loaded during the computation.

    Bits are those of `apply`, and an error comes where its batch does, after the batches before it.
    """
    if not isinstance(compute, Halves):
        yield from (apply(operator, compute, batch) for batch in batches)
        return
    waiting: tuple[pa.Table, pa.Table, Future[Any] | None] | None = None
    with ThreadPoolExecutor(1, f"load {operator.name}") as thread:
        for batch in chain(batches, [None]):
            ready, waiting = waiting, None
            if batch is not None:
                well, other = _parted(batch)
                waiting = well, other, thread.submit(compute.load, well) if len(well) else None
            if ready is not None:
                well, other, loading = ready
                yield _joined(operator, well, other, None if loading is None else compute.compute(loading.result()))


def _parted(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows that are `ok`, and the others."""
    is_ok = pc.equal(table["status"], Status.OK)
    return table.filter(is_ok), table.filter(pc.invert(is_ok))


def _joined(operator: Operator, well: pa.Table, other: pa.Table, computed: pa.Table | None) -> pa.Table:
    parts = [conform(other, operator.computed_schema)]
    if computed is not None:
        parts.append(conform(computed, operator.computed_schema))
        if len(computed) != len(well):
            raise RuntimeError(f"{operator.name}: {len(well)} rows went in, {len(computed)} came out")
    return pa.concat_tables(parts)


def map_rows(
    table: pa.Table, schema: pa.Schema, stage: str, compute: Callable[[dict[str, Any]], Mapping[str, Any]]
) -> pa.Table:
    """Apply `compute` to each row; what it returns is laid over the row. An exception sets that row aside only.

    MachineError, which says nothing of a row, passes once `patiently` gives up.
    """
    rows = []
    for row in table.to_pylist():
        try:
            rows.append(row | status_ok() | patiently(partial(compute, row), str(row.get("uri") or row.get("clip_id"))))
        except MachineError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad file must not take its neighbours along
            rows.append(row | aside(stage, error))
    return to_table(rows, schema)


def aside(stage: str, error: Exception) -> dict[str, str | None]:
    """Status columns for a row whose computation raised `error`."""
    if isinstance(error, RowError):
        return status_not_ok(stage, error.status, error.reason, error.detail)
    return status_not_ok(stage, Status.QUARANTINED, Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}")


def load_operator(reference: str) -> Operator:
    """The operator that `module:NAME` names; TypeError if it is none."""
    module, _, name = reference.partition(":")
    operator = getattr(importlib.import_module(module), name, None)
    if not isinstance(operator, Operator):
        raise TypeError(f"{reference!r} does not name an Operator (expected 'module:NAME')")
    return operator
