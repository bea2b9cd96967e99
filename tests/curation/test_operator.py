"""Units of work: one is loaded while the one before it is computed, and what comes out is what it was."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from curation.operator import Halves, Operator, apply, apply_ahead
from curation.schema import Reason, status_not_ok, status_ok
from lumina.faults import MachineError

ROWS = pa.schema({"clip_id": pa.string(), "doubled": pa.string()} | dict.fromkeys(status_ok(), pa.string()))
OPERATOR = Operator("double", dict, ROWS, (), lambda *_: pa.table({}))


def unit(*names: str) -> pa.Table:
    rows = [{"clip_id": name, "doubled": None, **status_ok()} for name in names]
    for row in rows:
        if row["clip_id"].startswith("bad"):
            row |= status_not_ok("earlier", "filtered", Reason.MIN_AREA, "small")  # type: ignore[arg-type]
    return pa.Table.from_pylist(rows, schema=ROWS)


def double(names: list[str]) -> pa.Table:
    return pa.Table.from_pylist([{"clip_id": n, "doubled": n + n, **status_ok()} for n in names], schema=ROWS)


def names_of(table: pa.Table) -> list[str]:
    found: list[str] = table["clip_id"].to_pylist()
    return found


def test_the_next_unit_is_loaded_while_one_is_computed() -> None:
    begun = {name: threading.Event() for name in "abc"}

    def load(table: pa.Table) -> list[str]:
        for name in names_of(table):
            begun[name].set()
        return names_of(table)

    def compute(names: list[str]) -> pa.Table:
        following = {"a": "b", "b": "c"}.get(names[0])
        # Would wait for ever if units were loaded one after the computation of the other.
        assert following is None or begun[following].wait(20)
        return double(names)

    made = list(apply_ahead(OPERATOR, Halves(load, compute), map(unit, "abc")))
    assert [names_of(table) for table in made] == [["a"], ["b"], ["c"]]


def test_rows_and_their_order_are_those_of_one_after_the_other() -> None:
    units = [unit("a", "bad1", "b"), unit("bad2"), unit("c")]
    halves = Halves(names_of, double)
    plain = [apply(OPERATOR, lambda table: double(names_of(table)), one) for one in units]
    assert list(apply_ahead(OPERATOR, halves, units)) == plain
    assert [apply(OPERATOR, halves, one) for one in units] == plain
    assert list(apply_ahead(OPERATOR, lambda table: double(names_of(table)), units)) == plain
    with pytest.raises(RuntimeError, match="double: 1 rows went in, 0 came out"):
        list(apply_ahead(replace(OPERATOR), Halves(names_of, lambda _: double([])), [unit("a")]))


def test_an_error_comes_after_the_units_before_it() -> None:
    def load(table: pa.Table) -> Any:
        if names_of(table) == ["c"]:
            raise MachineError("the mount is away")
        return names_of(table)

    made = apply_ahead(OPERATOR, Halves(load, double), map(unit, "abcd"))
    assert [names_of(next(made)) for _ in "ab"] == [["a"], ["b"]]
    with pytest.raises(MachineError, match="the mount is away"):
        next(made)
