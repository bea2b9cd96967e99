"""Small files that ask for much: each is one line, at once."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.manifest_mistakes import ManifestError
from curation.manifests import read_manifest
from curation.media import chunks, localized
from curation.schema import Reason, RowError

MANY = "x" * (8 << 20)


def constant(rows: int, text: str = MANY) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))


def paths(rows: int) -> pa.Array:
    return pa.array([f"{row}.mp4" for row in range(rows)])


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        # 4096 rows of 8 MiB that are stored once: 32 GiB.
        ({"path": paths(4096), "caption": constant(4096)}, {"compression": "zstd"}, ", row 1: a file of"),
        # Each text repeats the one before it.
        (
            {"path": paths(64), "caption": pa.array([MANY] * 64)},
            {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"},
            r": a file of [\d,]+ bytes that unpacks to over",
        ),
        # Zeros, compressed.
        (
            {"path": paths(16), "caption": pa.array([MANY] * 16)},
            {"use_dictionary": False, "compression": "zstd"},
            r"\.parquet: a file of [\d,]+ bytes that unpacks to over 134,",
        ),
        # A run of rows that hold nothing is a number.
        ({"path": pa.nulls(2_000_000, pa.string()), "caption": constant(2_000_000, "")}, {}, r"\.parquet: a file of"),
        ({"path": paths(9), "note": pa.array([[None] * 2_000_000] * 9, pa.list_(pa.int8()))}, {}, "a file of"),
    ],
)  # fmt: skip
def test_a_parquet_manifest_that_unpacks_to_much_is_refused(
    tmp_path: Path, columns: dict[str, pa.Array], options: dict[str, Any], said: str
) -> None:
    path = tmp_path / "clips.parquet"
    pq.write_table(pa.table(columns), path, **options)
    assert path.stat().st_size < 64_000_000
    with pytest.raises(ManifestError, match=said) as refused:
        read_manifest(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"}])
def test_a_parquet_manifest_that_repeats_itself_is_read(tmp_path: Path, options: dict[str, Any]) -> None:
    rows = 20_000
    caption = constant(rows, "The same words in each row, as a person writes who is in a hurry.")
    table = pa.table(
        {"path": paths(rows), "caption": caption.cast(pa.string()), "source": constant(rows, "web").cast(pa.string())}
    )
    pq.write_table(table, tmp_path / "clips.parquet", compression="zstd", **options)
    manifest = read_manifest(tmp_path / "clips.parquet")
    assert len(manifest.rows) == rows
    assert {row.caption for row in manifest.rows} == {caption[0].as_py()}


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("depth", [65, 900, 5000, 200_000])
def test_json_that_is_nested_without_end_is_named_by_line(tmp_path: Path, depth: int) -> None:
    good = json.dumps({"path": "a.mp4", "caption": "A dog.", "more": [[[1]]]})
    bad = '{"path": "b.mp4", "caption": "A cat.", "more": ' + nested(depth) + "}"
    (tmp_path / "clips.jsonl").write_text(f"{good}\n{bad}\n")
    with pytest.raises(ManifestError, match=r"clips\.jsonl, line 2: (column .* is nested over 64 deep|no JSON: )"):
        read_manifest(tmp_path / "clips.jsonl")
    (tmp_path / "clips.jsonl").write_text(f"{good}\n")
    assert read_manifest(tmp_path / "clips.jsonl").rows[0].extra == '{"more": [[[1]]]}'


def test_a_cell_that_is_a_list_has_an_end(tmp_path: Path) -> None:
    for cell in ("[" * 500, "[" + "(" * 100_000, "[" + "1," * 2_000_000 + "]"):
        (tmp_path / "panda.csv").write_text(f'videoID,timestamp,caption\na,"{cell}","[]"\n')
        with pytest.raises(ManifestError, match=r"panda\.csv, line 2: timestamp is no list"):
            read_manifest(tmp_path / "panda.csv")


def test_a_member_that_unpacks_to_a_thousandfold_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.mp4", bytes(64 << 20))
        archive.writestr("small.mp4", bytes(1 << 20))
        archive.writestr("stored.mp4", bytes(1 << 20), zipfile.ZIP_STORED)
    said = r"the member has [\d,]+ bytes and unpacks to 67,108,864; at most"
    with pytest.raises(RowError, match=said) as refused, localized("zip://bomb.mp4::a.zip", str(tmp_path)):
        pass
    assert refused.value.reason == Reason.UNREADABLE_FILE
    for name in ("small.mp4", "stored.mp4"):
        assert sum(map(len, chunks(f"zip://{name}::a.zip", str(tmp_path)))) == 1 << 20


def test_a_member_gives_no_more_than_its_directory_states(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.mp4", bytes(64 << 20))
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\1\2") + 24
    content[at : at + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(RowError, match="Bad CRC-32"):
        assert sum(map(len, chunks("zip://bomb.mp4::a.zip", str(tmp_path)))) <= 1000
