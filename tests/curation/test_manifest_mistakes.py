from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.manifest_mistakes import SHOWN, ManifestError
from curation.manifests import read_manifest

CSV_GOOD = [b"a.mp4,one,,", b'"b.mp4","two, ""three""",0,1', "c.mp4,Über,1,2.5".encode(), b"", b",,,", b",,,,,"]
CSV_BAD = [
    b",one,,",
    b"a.mp4,one, two,,",
    b"a.mp4",
    b'a.mp4,"one" two,,',
    b'a.mp4,one,"",two"',
    b"a.mp4,x,2,1",
    b"a.mp4,x,soon,",
    b"a.mp4,caf\xe9,,",
    b"a.png,x,0,1",
    b"s3://me:secret@b/a.mp4,x,,",
]
JSON_GOOD = [b'{"video": "a.mp4", "caption": "one"}', b"", b'{"PATH": "b.png", "Text": "\\u00fc", "n": NaN}']
JSON_BAD = [
    b'{"video": "a.mp4"',
    b"[]",
    b'{"video": "", "caption": "x"}',
    b'{"video": "a.mp4", "caption": 1}',
    b'{"video": "a.mp4", "video": "b.mp4", "caption": "x"}',
    b'{"video": "a.mp4", "Caption": "x", "CAPTION": "y"}',
    b'{"video": "a.mp4", "caption": "\xff"}',
    b'{"video": "a.mp4", "caption": "\\udc00"}',
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mistakes")


def _named(path: Path) -> set[int]:
    """The lines that the error names, none if the manifest is read."""
    try:
        read_manifest(path)
    except ManifestError as error:
        text = str(error)
    else:
        return set()
    assert "secret" not in text
    places = re.findall(r"(?:line|row) (\d+): ", text)
    places += [number for more in re.findall(r"\(lines? ([\d, ]+) too\)", text) for number in more.split(",")]
    assert len(places) == len(set(places))
    return {int(number) for number in places}


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 99)), max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_the_bad_lines_of_a_csv_are_named_and_no_others(folder: Path, picks: list[tuple[bool, int]], end: str) -> None:
    lines = [(bad, (CSV_BAD if bad else CSV_GOOD)[pick % len(CSV_BAD if bad else CSV_GOOD)]) for bad, pick in picks]
    path = folder / "clips.csv"
    text = [b"video,caption,span_start_s,span_end_s", b"first.mp4,x,,", *(line for _, line in lines)]
    path.write_bytes(end.encode().join(text))
    assert _named(path) == {number for number, (bad, _) in enumerate(lines, 3) if bad}


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 99)), max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_the_bad_lines_of_json_lines_are_named_and_no_others(
    folder: Path, picks: list[tuple[bool, int]], end: str
) -> None:
    lines = [(bad, (JSON_BAD if bad else JSON_GOOD)[pick % len(JSON_BAD if bad else JSON_GOOD)]) for bad, pick in picks]
    path = folder / "clips.jsonl"
    path.write_bytes(end.encode().join([*(line for _, line in lines), JSON_GOOD[0]]))
    assert _named(path) == {number for number, (bad, _) in enumerate(lines, 1) if bad}


def test_the_bad_rows_of_parquet_are_named(tmp_path: Path) -> None:
    texts = pa.array([b"one", b"caf\xe9", b"three", b"four"], pa.binary())
    captions = pa.Array.from_buffers(pa.string(), len(texts), texts.buffers())
    table = pa.table({"Video": ["a.mp4", "b.mp4", "", None], "caption": captions})
    pq.write_table(table, tmp_path / "clips.parquet")
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path / "clips.parquet")
    assert str(caught.value).split("\n  ") == [
        f"manifest {tmp_path / 'clips.parquet'}: 3 mistakes to mend",
        "row 2: the column caption holds text that is not UTF-8: write it anew",
        "row 3: the column video is empty",
        "row 4: the column video is empty",
    ]


def test_the_first_mistakes_are_said_and_the_others_counted(tmp_path: Path) -> None:
    path = tmp_path / "clips.jsonl"
    path.write_text(json.dumps({"video": "a.mp4", "caption": "x"}) + "\n" + '{"video": "", "caption": ""}\n' * 1500)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    lines = str(caught.value).split("\n  ")
    assert (lines[0], lines[-1]) == (f"manifest {path}: 1,500 mistakes to mend", f"and {1500 - SHOWN:,} more")
    assert len(lines) == SHOWN + 2


@pytest.mark.parametrize(
    ("encoding", "caption", "place"),
    [
        ("cp1252", "café", "line 3: byte 35 (0xe9) is not UTF-8: save it as UTF-8"),
        ("gbk", "跑步", "line 3: byte 32 (0xc5) is not UTF-8: save it as UTF-8"),
        ("shift_jis", "犬", "line 3: byte 32 (0x8c) is not UTF-8: save it as UTF-8"),
    ],
)
def test_another_encoding_is_one_mistake(tmp_path: Path, encoding: str, caption: str, place: str) -> None:
    path = tmp_path / "clips.csv"
    row = f"b.mp4,{caption}\n".encode(encoding)
    path.write_bytes(b"video,caption\na.mp4,plain\n" + row)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert str(caught.value) == f"manifest {path}, {place}"
    path.write_bytes(b"video,caption\na.mp4,plain\n" + row + b"c.mp4,x\n" + row * 2)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert str(caught.value) == f"manifest {path}, {place} (lines 5, 6 too)"
    path.write_bytes(b"video,caption\na.mp4,plain\n" + row * 500)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert str(caught.value).endswith(f"22 and {500 - SHOWN} more too)")


@pytest.mark.parametrize("name", ["clips.csv", "clips.jsonl"])
def test_a_manifest_is_read_by_its_mark(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = "video\tcaption\r\na.mp4\tein Hund läuft 🐕\r\n"
    if name.endswith("jsonl"):
        text = '{"video": "a.mp4", "caption": "ein Hund läuft 🐕"}\r\n'
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        path.write_text(text, encoding=encoding, newline="")
        [row] = read_manifest(path).rows
        assert (row.uri, row.caption) == ("a.mp4", "ein Hund läuft 🐕")
    path.write_bytes(text.encode("utf-16") + b"\0")
    with pytest.raises(ManifestError, match=r"line \d: byte \d+ \(0x00\) is not UTF-16-LE: save it as UTF-8"):
        read_manifest(path)
    path.write_bytes(text.encode("utf-16-be"))
    with pytest.raises(ManifestError, match="line 1: a NUL, as in UTF-16 without a byte order mark: save it as UTF-8"):
        read_manifest(path)
