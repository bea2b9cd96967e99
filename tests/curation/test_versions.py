"""Versions of stages: rows of a tiny input whose digest is committed, so that no meaning changes unnoticed.

A stage's `version` is a part of its identity; code is not decisive where an output was dear (docs/reproduction.md). So
whoever changes what rows say raises it, and commits the digest that this test then prints.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.decode import PROBE_OPERATOR
from curation.manifests import INGEST_OPERATOR
from curation.motion_scores import MOTION_OPERATOR
from curation.operator import Env, Input, Operator
from curation.selection import SELECT_OPERATOR
from curation.sources import TAG_OPERATOR
from tests.curation.in_memory import computed

_TINY = Path(__file__).parent / "tiny"
_BUILD = ("decoder", "estimator")
"""Columns that name the libraries of this machine."""
_KNOWN: dict[str, tuple[int, str]] = {
    "ingest": (1, "32681158e74f4d56"),
    "probe": (1, "09e3c7bf3ea3e106"),
    "motion": (1, "1ab5c6478229720f"),
    "tag": (1, "275f6eab4811c4a1"),
    "select": (1, "6a857bba1a31e50f"),
}
"""Version, and digest of the rows."""


def _digest(table: pa.Table) -> str:
    rows = [{name: _rounded(value) for name, value in row.items() if name not in _BUILD} for row in table.to_pylist()]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _rounded(value: Any) -> Any:
    # Last bits of optical flow are those of the processor.
    return float(f"{value:.3g}") if isinstance(value, float) else value


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Operator, pa.Table]]:
    """Output of each stage, which the later ones read."""
    root = tmp_path_factory.mktemp("versions")
    found: dict[str, tuple[Operator, pa.Table]] = {}

    def run(operator: Operator, config: dict[str, Any], **inputs: Path) -> None:
        given = {name: Input(path) for name, path in inputs.items()}
        table = computed(operator, given, operator.config(**config), Env(str(_TINY)))
        folder = root / operator.name / "data"
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "rows.parquet")
        found[operator.name] = (operator, table)

    at = {name: root / name for name in ("ingest", "probe", "motion", "tag")}
    run(INGEST_OPERATOR, {}, manifest=_TINY / "clips.csv")
    run(PROBE_OPERATOR, {}, clips=at["ingest"])
    run(MOTION_OPERATOR, {"estimator": "dis"}, clips=at["probe"])
    run(TAG_OPERATOR, {"system_prompts": {"web": "A clip of the web."}}, clips=at["ingest"])
    run(SELECT_OPERATOR, {"min_motion": 0.1}, clips=at["probe"], motion=at["motion"], tag=at["tag"])
    return found


@pytest.mark.parametrize("name", _KNOWN)
def test_rows_change_only_with_the_version(tables: dict[str, tuple[Operator, pa.Table]], name: str) -> None:
    operator, table = tables[name]
    assert (operator.version, _digest(table)) == _KNOWN[name], (
        f"rows of {name} differ: raise `version` of its Operator if they mean something else, and commit this digest"
    )
