"""Numeric difference between the rows of two outputs of one stage, against the bounds of its tolerance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.compare.rows import STANDS_FOR, RowMatch, Rows, Tables, match_rows, where_different
from pipelines.engine.tolerance import Tolerance

if TYPE_CHECKING:
    import numpy as np

_CHUNK = 64
"""Rows whose tensors are in memory at a time."""


@dataclass(frozen=True)
class NumericDiff:
    """Two outputs of one stage, row by row."""

    rows: int
    """That both have."""
    share: float
    """The largest difference as a share of what is allowed: at most 1 is within."""
    where: str
    """Column and row of it; empty if no number differs."""
    broken: tuple[str, ...]
    """What is no number, and differs."""

    @property
    def within(self) -> bool:
        """Whether the outputs are alike enough."""
        return not self.broken and self.share <= 1

    def __str__(self) -> str:
        if self.broken:
            return "; ".join(self.broken)
        far = f"{100 * self.share:.2g} % of what is allowed" if self.where else "none"
        return f"{self.rows:,} rows, largest difference {far}" + (f" ({self.where})" if self.where else "")


class _Broken(Exception):
    """What no tolerance covers."""


def compare_numbers(stage: str, a: Tables, b: Tables, tier: Tolerance) -> NumericDiff:
    """Compare the tables of two outputs.

    Raises:
        StoreError: a table cannot be read, or no key tells its rows apart.
    """
    match = match_rows(stage, a, b)
    if match.schema:
        return NumericDiff(0, 0.0, "", (f"columns {', '.join(match.schema)} came, went or have another type",))
    if any(map(len, match.only)):
        first, second = map(len, match.only)
        return NumericDiff(len(match.keys), 0.0, "", (f"{first:,} rows only in A, {second:,} only in B",))
    share, where, broken = 0.0, "", []
    for name in match.columns:
        try:
            for found, place in _shares(match, name, tier):
                if found > share:
                    share, where = found, place
        except _Broken as error:
            broken.append(str(error))
    return NumericDiff(len(match.keys), share, where, tuple(broken))


def _shares(match: RowMatch, name: str, tier: Tolerance) -> Iterator[tuple[float, str]]:
    """Every difference of a column as a share of what is allowed, and where it is."""
    import numpy as np
    import pyarrow as pa

    columns = match.column(name)
    places = pa.array(np.flatnonzero(where_different(*columns)))
    keys = match.keys.take(places).to_pylist()
    kinds = match.tables[0].data.schema
    tensor = next((large for large, hashed in STANDS_FOR.items() if hashed == name and large in kinds.names), name)
    if name in STANDS_FOR.values() and tensor == name:
        return  # what it stands for is elsewhere
    if pa.types.is_large_binary(kinds.field(tensor).type):
        yield from _tensor_shares(match, tensor, keys, tier)
        return
    kind = kinds.field(name).type
    if not pa.types.is_floating(kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind):
        if keys:
            raise _Broken(f"{name} differs in {len(keys):,} rows")
        return
    for key, old, new in zip(keys, *(of.take(places).to_pylist() for of in columns), strict=True):
        if (old is None) != (new is None) or (isinstance(old, list) and len(old) != len(new)):
            raise _Broken(f"{name} of {key} is there in one alone")
        yield _share(np.atleast_1d(np.array(old, float)), np.atleast_1d(np.array(new, float)), tier), f"{name} of {key}"


def _share(a: np.ndarray, b: np.ndarray, tier: Tolerance) -> float:
    """The largest |a - b| / (atol + rtol max(|a|, |b|)); NaN is like NaN, and like nothing else."""
    import numpy as np

    allowed = tier.atol + tier.rtol * np.maximum(np.abs(a), np.abs(b))
    with np.errstate(invalid="ignore"):
        shares = np.where(a == b, 0.0, np.abs(a - b) / allowed)
    shares = np.where(np.isnan(a) & np.isnan(b), 0.0, shares)
    return float(np.nan_to_num(shares, nan=np.inf).max(initial=0.0))


def _tensor_shares(match: RowMatch, column: str, keys: Sequence[str], tier: Tolerance) -> Iterator[tuple[float, str]]:
    import numpy as np

    name = column.removesuffix("_bytes")
    for at in range(0, len(keys), _CHUNK):
        chunk = keys[at : at + _CHUNK]
        old, new = (dict(_read_tensors(table, match.key[0], column, f"{name}_dtype", chunk)) for table in match.tables)
        for key in chunk:
            before, after = old[key], new[key]
            if before is None or after is None or before.shape != after.shape:
                raise _Broken(f"{name} of {key} has another size, or is there in one alone")
            if not np.array_equal(before, after):
                distance = 1 - _cosine(before, after)
                yield distance / (1 - tier.cosine_min), f"{name} of {key}, cosine {1 - distance:.8f}"


def _read_tensors(
    table: Rows, key: str, column: str, dtype: str, keys: Sequence[str]
) -> Iterator[tuple[str, np.ndarray | None]]:
    import pyarrow.dataset as ds

    for batch in table.data.to_batches(columns=[key, column, dtype], filter=ds.field(key).isin(keys)):
        for clip, data, kind in zip(*(batch[name] for name in (key, column, dtype)), strict=True):
            yield clip.as_py(), None if data.as_py() is None else _numbers(data.as_buffer(), kind.as_py())


def _numbers(data: Any, dtype: str) -> np.ndarray:
    """Packed numbers (see `curation.tensors`) as float64."""
    import numpy as np

    if dtype == "bfloat16":
        # The upper half of a float32.
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).astype(float)
    return np.frombuffer(data, "<f4").astype(float)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    import numpy as np

    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    # Of zeros and something else there is no angle; that is as far apart as can be.
    return float(a @ b) / lengths if lengths and np.isfinite(lengths) else -1.0
