"""Rows of a finished output that is opened again: all but those that are to be computed once more.

`pipelines.storage.store.Store.reopen` puts them into the scratch directory of the stage; the next run makes parts of
them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from curation.operator import Layout
from jobs.files import link_or_copy
from jobs.parts import read_parts, write_part

_WITHOUT = "without.json"
_BATCH_BYTES = 256 << 20


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


def adopt(work: Path, units: dict[str, tuple[int, int]], key: str, directory: Path, layout: Layout) -> None:
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
    without = set(json.loads((kept / _WITHOUT).read_text(encoding="utf-8")))
    done = {unit for part in read_parts(directory) for unit in part.units}
    found: dict[int, list[pa.Table]] = {}
    whole: dict[int, pa.Table] = {}

    def write() -> None:
        if whole:
            write_part(pa.concat_tables(whole.values()).combine_chunks(), list(whole), directory, layout)
            whole.clear()

    for file in sorted(kept.glob("*.parquet")):
        rows = ds.dataset(file, format="parquet").to_table()
        for at, name in enumerate(rows[key].to_pylist()):
            unit, size = units.get(name, (-1, 0))
            if unit < 0 or unit in done or name in without:
                continue
            found.setdefault(unit, []).append(rows.slice(at, 1))
            if len(found[unit]) == size:
                whole[unit] = pa.concat_tables(found.pop(unit))
        if sum(table.nbytes for table in whole.values()) > _BATCH_BYTES:
            write()
    write()
    shutil.rmtree(kept)
