"""How far apart rows are, against the bounds of a tier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.tensors import pack
from pipelines.compare.numeric_diff import compare_numbers
from pipelines.engine.tolerance import Tolerance
from pipelines.errors import StoreError

TIER = Tolerance(rtol=1e-3, atol=1e-5, cosine_min=0.9999)


def put(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> Path:
    """One output directory, its rows in two files."""
    (path / "data").mkdir(parents=True)
    table = pa.Table.from_pylist(rows, schema=schema)
    for part in range(2):
        pq.write_table(
            table.slice(part * (len(rows) // 2), None if part else len(rows) // 2), path / "data" / f"{part}.parquet"
        )
    return path


def clips(*scores: float | None) -> list[dict[str, Any]]:
    return [
        {"clip_id": f"c{i}", "status": "ok", "score": score, "pairs": [score, 1.0]} for i, score in enumerate(scores)
    ]


def test_rounding_is_within_and_more_is_not(tmp_path: Path) -> None:
    a = put(tmp_path / "a", clips(1.0, 2.0, 4.0))
    near = compare_numbers("motion", a, put(tmp_path / "b", clips(1.0, 2.001, 4.0)[::-1]), TIER)
    assert (near.within, near.rows) == (True, 3)
    assert near.where == "pairs of c1"
    far = compare_numbers("motion", a, put(tmp_path / "c", clips(1.0, 2.0, 4.1)), TIER)
    assert not far.within
    assert far.share == pytest.approx(0.1 / (1e-5 + 1e-3 * 4.1))
    assert "of c2" in far.where


@settings(max_examples=25)
@given(st.floats(-1e6, 1e6), st.floats(-2, 2))
def test_the_bound_is_where_it_says(tmp_path_factory: pytest.TempPathFactory, value: float, share: float) -> None:
    other = value + share * (TIER.atol + TIER.rtol * abs(value))
    used = abs(other - value) / (TIER.atol + TIER.rtol * max(abs(value), abs(other)))
    folder = tmp_path_factory.mktemp("bound")
    found = compare_numbers("s", put(folder / "a", clips(value, 0.0)), put(folder / "b", clips(other, 0.0)), TIER)
    assert found.share == pytest.approx(used)
    assert found.within == (used <= 1)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([row | {"status": "filtered"} for row in clips(1.0, 2.0)], "status differs in 2 rows"),
        (clips(1.0, None), "there in one alone"),
        (clips(1.0, float("nan")), ""),
        (clips(1.0), "1 rows only in A, 0 only in B"),
        ([row | {"pairs": [1.0]} for row in clips(1.0, 2.0)], "pairs of c0 is there in one alone"),
    ],
)
def test_what_no_rounding_explains(tmp_path: Path, rows: list[dict[str, Any]], why: str) -> None:
    schema = pa.Table.from_pylist(clips(1.0, 2.0)).schema
    found = compare_numbers("s", put(tmp_path / "a", clips(1.0, 2.0), schema), put(tmp_path / "b", rows, schema), TIER)
    assert not found.within
    assert why in str(found)


def test_another_schema(tmp_path: Path) -> None:
    other = [{**row, "more": 1} for row in clips(1.0, 2.0)]
    found = compare_numbers("s", put(tmp_path / "a", clips(1.0, 2.0)), put(tmp_path / "b", other), TIER)
    assert "columns more came, went or have another type" in str(found)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_tensors_are_measured_by_their_angle(tmp_path: Path, dtype: Any) -> None:
    import torch

    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(3, 16, 4, 4, generator=generator)
    noise = torch.randn(3, 16, 4, 4, generator=generator)

    def rows(*tensors: torch.Tensor) -> list[dict[str, Any]]:
        packed = [pack(tensor, dtype) for tensor in tensors]
        return [
            {"clip_id": f"c{i}", "vae_latent_bytes": one.data, "vae_latent_shape": one.shape,
             "vae_latent_dtype": one.dtype, "latent_sha256": f"{hash(one.data)}"}
            for i, one in enumerate(packed)
        ]  # fmt: skip

    schema = pa.schema(
        [("clip_id", pa.string()), ("vae_latent_bytes", pa.large_binary()), ("vae_latent_shape", pa.list_(pa.int32())),
         ("vae_latent_dtype", pa.string()), ("latent_sha256", pa.string())]
    )  # fmt: skip
    a = put(tmp_path / "a", rows(latent, latent + 1), schema)
    near = compare_numbers("s", a, put(tmp_path / "b", rows(latent, latent + 1 + 0.003 * noise), schema), TIER)
    assert near.within
    assert "vae_latent of c1, cosine 0.9999" in near.where
    far = compare_numbers("s", a, put(tmp_path / "c", rows(latent, latent + 1 + 0.1 * noise), schema), TIER)
    assert not far.within
    zeros = compare_numbers("s", a, put(tmp_path / "d", rows(latent, torch.zeros_like(latent)), schema), TIER)
    assert not zeros.within
    size = compare_numbers("s", a, put(tmp_path / "e", rows(latent, latent[:2] + 1), schema), TIER)
    assert "vae_latent_shape differs in 1 rows" in str(size)


def test_a_broken_table_is_named(tmp_path: Path) -> None:
    a, b = put(tmp_path / "a", clips(1.0, 2.0)), put(tmp_path / "b", clips(1.0, 2.0))
    (b / "data" / "0.parquet").write_bytes(np.arange(30, dtype=np.uint8).tobytes())
    with pytest.raises(StoreError, match="stage motion: rows in"):
        compare_numbers("motion", a, b, TIER)
