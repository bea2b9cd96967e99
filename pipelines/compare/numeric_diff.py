"""How far apart the rows of two outputs of one stage are, against the bounds of its tier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.compare.rows import STANDS_FOR, row_keys, where_different
from pipelines.engine.tolerance import Tolerance
from pipelines.errors import StoreError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.dataset as ds

_CHUNK = 64
"""Rows whose tensors are in memory at a time."""


@dataclass(frozen=True)
class Closeness:
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


@dataclass
class _Worst:
    share: float = 0.0
    where: str = ""

    def see(self, share: float, where: str) -> None:
        if share > self.share:
            self.share, self.where = share, where


def compare_content(stage: str, a: Path, b: Path, tier: Tolerance) -> Closeness:
    """Compare the tables in `data/` of two output directories.

    Raises:
        StoreError: a table cannot be read, or no key tells its rows apart.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from curation.operator import dataset

    try:
        sides = [dataset(path / "data") for path in (a, b)]
        types = [{field.name: field.type for field in side.schema} for side in sides]
        if types[0] != types[1]:
            names = sorted(
                name for name in types[0].keys() | types[1].keys() if types[0].get(name) != types[1].get(name)
            )
            return Closeness(0, 0.0, "", (f"columns {', '.join(names)} came, went or have another type",))
        tensors = {
            name.removesuffix("_bytes"): name for name, kind in types[0].items() if pa.types.is_large_binary(kind)
        }
        small = [name for name in types[0] if name not in tensors.values()]
        tables = [side.to_table(columns=small) for side in sides]
    except (OSError, ValueError) as error:
        raise StoreError(f"stage {stage}: rows in {a} or {b} cannot be read: {error}") from error
    keys = row_keys(stage, tables, (a, b))
    orders = [pc.sort_indices(of) for of in keys]
    keys = [of.take(order) for of, order in zip(keys, orders, strict=True)]
    if not keys[0].equals(keys[1]):
        only = [len(keys[i].filter(pc.invert(pc.is_in(keys[i], value_set=keys[1 - i])))) for i in (0, 1)]
        return Closeness(len(keys[0]) - only[0], 0.0, "", (f"{only[0]:,} rows only in A, {only[1]:,} only in B",))
    first, second = (table.take(order) for table, order in zip(tables, orders, strict=True))
    worst = _Worst()
    broken: list[str] = []
    for name in small:
        if name in STANDS_FOR.values():
            continue
        if _is_number(types[0][name]):
            _compare_numbers(name, first[name], second[name], keys[0], tier, worst, broken)
        else:
            count = int(where_different(first[name], second[name]).sum())
            if count:
                broken.append(f"{name} differs in {count:,} rows")
    for name, column in tensors.items():
        hashed = STANDS_FOR.get(column)
        rows = (
            where_different(first[hashed], second[hashed]).nonzero()[0].tolist()
            if hashed in small
            else range(len(first))
        )
        _compare_tensors(name, column, sides, [keys[0][row].as_py() for row in rows], tier, worst, broken)
    return Closeness(len(first), worst.share, worst.where, tuple(broken))


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_floating(kind))


def _compare_numbers(
    name: str,
    a: pa.ChunkedArray,
    b: pa.ChunkedArray,
    keys: pa.Array,
    tier: Tolerance,
    worst: _Worst,
    broken: list[str],
) -> None:
    import numpy as np

    for row, (old, new) in enumerate(zip(a.to_pylist(), b.to_pylist(), strict=True)):
        if (old is None) != (new is None) or (isinstance(old, list) and len(old) != len(new)):
            broken.append(f"{name} of {keys[row].as_py()} is there in one alone")
            return
        if old is not None and old != new:
            share = _share(np.atleast_1d(np.array(old, float)), np.atleast_1d(np.array(new, float)), tier)
            worst.see(share, f"{name} of {keys[row].as_py()}")


def _share(a: np.ndarray, b: np.ndarray, tier: Tolerance) -> float:
    """The largest |a - b| / (atol + rtol max(|a|, |b|)); NaN is like NaN, and like nothing else."""
    import numpy as np

    allowed = tier.atol + tier.rtol * np.maximum(np.abs(a), np.abs(b))
    with np.errstate(invalid="ignore"):
        shares = np.where(a == b, 0.0, np.abs(a - b) / allowed)
    shares = np.where(np.isnan(a) & np.isnan(b), 0.0, shares)
    return float(np.nan_to_num(shares, nan=np.inf).max(initial=0.0))


def _compare_tensors(
    name: str,
    column: str,
    sides: Sequence[ds.Dataset],
    keys: Sequence[str],
    tier: Tolerance,
    worst: _Worst,
    broken: list[str],
) -> None:
    import numpy as np

    key = next(one for one in ("clip_id", "text_id") if one in sides[0].schema.names)
    for at in range(0, len(keys), _CHUNK):
        chunk = list(keys[at : at + _CHUNK])
        old, new = (dict(_read_tensors(side, key, column, f"{name}_dtype", chunk)) for side in sides)
        for clip in chunk:
            before, after = old[clip], new[clip]
            if before is None and after is None:
                continue
            if before is None or after is None or before.shape != after.shape:
                broken.append(f"{name} of {clip} has another size, or is there in one alone")
                return
            if np.array_equal(before, after):
                continue
            distance = 1 - _cosine(before, after)
            worst.see(distance / (1 - tier.cosine_min), f"{name} of {clip}, cosine {1 - distance:.8f}")


def _read_tensors(
    side: ds.Dataset, key: str, column: str, dtype: str, keys: Sequence[str]
) -> Iterator[tuple[str, np.ndarray | None]]:
    import pyarrow.dataset as ds

    for batch in side.to_batches(columns=[key, column, dtype], filter=ds.field(key).isin(keys)):
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
