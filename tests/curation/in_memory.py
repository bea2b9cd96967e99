"""A curation operator run on tables in memory, as one shard and one work batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from curation.operator import Env, Input, Operator, apply
from curation.schema import conform


def planned(operator: Operator, inputs: Mapping[str, Input], config: Any, env: Env) -> pa.Table:
    """What is computed."""
    operator.check(inputs, config)
    if operator.read is not None:
        return pa.concat_tables(operator.read(inputs, config, env))
    assert operator.plan is not None
    rows = operator.plan(inputs, config, env)
    return rows if operator.gather is None else operator.gather(rows, config, env)


def computed(operator: Operator, inputs: Mapping[str, Input], config: Any, env: Env, maps: bool = True) -> pa.Table:
    """The result; with `maps` false, of the plan alone."""
    rows = planned(operator, inputs, config, env)
    if operator.map is not None and maps:
        rows = apply(operator, operator.map(config, env), rows)
    rows = rows if operator.expand is None else operator.expand(rows, config)
    if operator.reduce is None or operator.survey is not None:
        return conform(rows, operator.schema)
    return operator.reduce(rows, config, None)
