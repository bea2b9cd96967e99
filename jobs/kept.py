"""Rows of a finished output that is opened again: all but those that are to be computed once more.

They are put into the scratch directory of the stage; the next run makes parts of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from curation.operator import Layout
from jobs.files import link_or_copy
from jobs.parts import write_units

_WITHOUT = "without.json"


def keep(data: Path, work: Path, without: Iterable[str]) -> None:
    """Link the Parquet files in `data` into the scratch directory `work`; rows with the ids `without` are not kept."""
    directory = work / "kept"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for file in sorted(data.glob("*.parquet")):
        link_or_copy(file, directory / file.name)
    partial = directory / f".{_WITHOUT}"
    partial.write_text(json.dumps(sorted(without)), encoding="utf-8")
    partial.replace(directory / _WITHOUT)


def adopt(work: Path, units: Mapping[str, tuple[int, int]], key: str, directory: Path, layout: Layout) -> None:
    """Write the kept rows as parts into `directory`, as far as they fill whole units; then they are gone from `work`.

    Args:
        work: the stage's scratch directory; nothing happens if nothing is kept there.
        units: id of each planned row -> (its unit, number of rows of the unit).
        key: column of the ids.
        directory: where the parts go.
        layout: of the parts.
    """
    kept = work / "kept"
    if not (kept / _WITHOUT).exists():
        shutil.rmtree(kept, ignore_errors=True)
        return
    without = pa.array(json.loads((kept / _WITHOUT).read_text(encoding="utf-8")), pa.string())
    files = (ds.dataset(file, format="parquet").to_table() for file in sorted(kept.glob("*.parquet")))
    wanted = (rows.filter(pc.invert(pc.is_in(rows[key], without))) for rows in files)
    write_units(wanted, units, key, directory, layout)
    shutil.rmtree(kept)
