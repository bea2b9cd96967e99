from __future__ import annotations

import datetime
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.manifest_formats import IngestConfig, detect
from curation.manifest_mistakes import ManifestError
from curation.manifests import read_manifest

TIMESTAMP = "[['0:00:21.520', '0:00:38.030'], ['1:02:03', '1:02:04.5']]"
PANDA = {
    "videoID": "-abc",
    "url": "https://example.org/watch?v=-abc",
    "timestamp": TIMESTAMP,
    "caption": "['a cat', \"a dog's bone\"]",
    "matching_score": "[0.5, 0.75]",
}


def _jsonl(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "clips.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def _panda_csv(tmp_path: Path, **changes: str) -> Path:
    row = PANDA | changes
    path = tmp_path / "panda70m.csv"
    cells = ['"' + value.replace('"', '""') + '"' for value in row.values()]
    path.write_text(f"{','.join(row)}\n{','.join(cells)}\n")
    return path


def test_json_lines_keep_their_types(tmp_path: Path) -> None:
    path = _jsonl(
        tmp_path,
        {"video": "a.mp4", "text": " one ", "source": "web", "views": 7, "tags": ["x", None], "span_start_s": 0,
         "span_end_s": 1.5},
        "",
        {"image": "b.png", "caption": "two", "ok": True, "score": float("nan")},
        {"file_name": "c.mp4", "text": None, "video": ""},
    )  # fmt: skip
    first, second, third = read_manifest(path, IngestConfig(default_source="mine")).rows
    assert (first.uri, first.caption, first.source, first.span_start_s, first.span_end_s) == (
        "a.mp4", "one", "web", 0.0, 1.5
    )  # fmt: skip
    assert json.loads(first.extra) == {"tags": ["x", None], "views": 7}
    assert (second.media, second.source, second.caption) == ("image", "mine", "two")
    assert json.loads(second.extra) == {"ok": True, "score": "nan"}
    assert (third.uri, third.caption, third.extra) == ("c.mp4", "", '{"video": ""}')


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"video": "a.mp4"', "line 2: no JSON"),
        ("[1]", "line 2: expected a JSON object, found list"),
        ('{"video": 3, "text": "x"}', "line 2: the column video holds int, expected text"),
        ('{"video": null, "text": "x"}', "line 2: the column video is empty"),
        ('{"words": "x"}', "line 2: the column video is empty"),
        ('{"video": "a.mp4", "text": ["x"]}', "line 2: the column text holds list"),
        ('{"video": "a.mp4", "text": "\\ud800"}', "line 2: half of a surrogate pair"),
        ('{"video": "a.mp4", "text": "x", "span_start_s": true, "span_end_s": 2}', "span_start_s is True"),
        ("[" * 100_000, "line 2: no JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_manifest(_jsonl(tmp_path, {"video": "a.mp4", "text": "x"}, line))


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.json", b"[]", "give JSON lines"),
        ("a.jsonl", b"\xff\xff\n", r"line 1: byte 0 \(0xff\) is not UTF-8: save it as UTF-8"),
        ("b.jsonl", b"", "lacks the columns"),
        ("a.parquet", b"PAR1", "is not a Parquet file"),
        ("a.csv", b"\xff,b\n", r"line 1: byte 0 \(0xff\) is not UTF-8: save it as UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ManifestError, match=message):
            read_manifest(tmp_path / name)


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    columns = {
        "prompt": pa.array(["one", None]).dictionary_encode(),
        "uri": pa.array(["s3://b/a.mp4?region=x", "b.webm"]),
        "made": pa.array([datetime.date(2026, 1, 2), None]),
        "size": pa.array([[1, 2], None], pa.list_(pa.int16())),
    }
    pq.write_table(pa.table(columns), tmp_path / "clips.parquet")
    first, second = read_manifest(tmp_path / "clips.parquet").rows
    assert (first.uri, first.media, first.caption) == ("s3://b/a.mp4?region=x", "video", "one")
    assert json.loads(first.extra) == {"made": "2026-01-02", "size": [1, 2]}
    assert json.loads(second.extra) == {"made": None, "size": None}
    pq.write_table(pa.table(columns | {"thumbnail": pa.array([b"1", b"2"])}), tmp_path / "clips.parquet")
    with pytest.raises(ManifestError, match="row 1: column 'thumbnail' holds bytes, which has no JSON form"):
        read_manifest(tmp_path / "clips.parquet")


def test_formats_are_told_apart_by_their_columns() -> None:
    assert detect(["video", "caption", "aesthetic score", "motion score", "fps"]) == "openvid"
    assert detect(list(PANDA)) == "panda"
    assert detect(["video", "caption", "source"]) == detect([]) == "clips"


def test_panda_has_a_row_per_span(tmp_path: Path) -> None:
    first, second = read_manifest(_panda_csv(tmp_path), IngestConfig(default_source="panda")).rows
    assert (first.uri, first.caption, first.span_start_s, first.span_end_s) == ("-abc.mp4", "a cat", 21.52, 38.03)
    assert (second.caption, second.span_start_s, second.span_end_s) == ("a dog's bone", 3723.0, 3724.5)
    assert (second.source, second.media) == ("panda", "video")
    assert json.loads(second.extra) == {"matching_score": 0.75, "url": PANDA["url"]}
    same = {"videoID": "-abc", "timestamp": [["0:00:21.520", "0:00:38.030"]], "caption": ["a cat"]}
    assert read_manifest(_jsonl(tmp_path, same)).rows[0].span_end_s == 38.03


def test_a_long_video_of_panda_is_read(tmp_path: Path) -> None:
    spans = [[f"{n // 3600}:{n // 60 % 60:02}:{n % 60:02}", f"{n // 3600}:{n // 60 % 60:02}:{n % 60:02}.5"]
             for n in range(5000)]  # fmt: skip
    captions = [f"caption {n} of a long video" for n in range(len(spans))]
    path = _panda_csv(tmp_path, timestamp=repr(spans), caption=repr(captions), matching_score="")
    rows = read_manifest(path).rows
    assert len(rows) == len(spans)
    assert (rows[-1].caption, rows[-1].span_start_s, rows[-1].span_end_s) == (captions[-1], 4999, 4999.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestamp": "[['0:00:21.520', "}, "line 2: timestamp is no list: SyntaxError"),
        ({"timestamp": "__import__('os').system('true')"}, "line 2: timestamp is no list: ValueError"),
        ({"timestamp": "[]"}, r"line 2: timestamp is \[\], expected a list"),
        ({"timestamp": "[['0:00:21.520']]"}, r"line 2: timestamp \['0:00:21.520'\], expected \[start, end\]"),
        ({"timestamp": "[[1, 2]]"}, "line 2: timestamp 1, expected text like"),
        ({"timestamp": "[['0:00:99', '0:01:00']]"}, "timestamp '0:00:99', expected"),
        ({"timestamp": "[['0:00:02', '0:00:01'], ['0:00:03', '0:00:04']]"}, "line 2, span 1: the span is 2.0 to 1.0"),
        ({"caption": "['a cat']"}, "line 2: 2 timestamps, but 1 of caption"),
        ({"caption": "a cat"}, "line 2: caption is no list"),
        ({"caption": "[1, 2]"}, "line 2, span 1: the column caption holds int"),
        ({"matching_score": "[0.5]"}, "line 2: 2 timestamps, but 1 of matching_score"),
        ({"videoID": " "}, "line 2: the column videoID is empty"),
    ],
)
def test_a_malformed_panda_row_is_named(tmp_path: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_manifest(_panda_csv(tmp_path, **change))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("panda")


@given(timestamp=st.text(max_size=40), caption=st.text(max_size=40))
def test_any_text_is_read_or_refused(folder: Path, timestamp: str, caption: str) -> None:
    with suppress(ManifestError):
        read_manifest(_jsonl(folder, {"videoID": "a", "timestamp": timestamp, "caption": caption}))


def _vggsound(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "vggsound.csv"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


VGGSOUND = ("---g-f_I2yQ,1,people marching,test", '--0PQM4-hqg,30,"waterfall burbling, big",train')


def test_vggsound_has_no_header(tmp_path: Path) -> None:
    path = _vggsound(tmp_path, *VGGSOUND)
    for format in ("auto", "vggsound"):
        first, second = read_manifest(path, IngestConfig(format=format)).rows  # type: ignore[arg-type]
        assert (first.uri, first.caption, first.media) == ("---g-f_I2yQ_000001.mp4", "people marching", "video")
        assert (first.span_start_s, first.span_end_s, first.source) == (None, None, "clips")
        assert (second.uri, second.caption) == ("--0PQM4-hqg_000030.mp4", "waterfall burbling, big")
        assert json.loads(second.extra) == {"youtube_id": "--0PQM4-hqg", "start_seconds": "30", "split": "train"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("#NAME?,30,dog barking,train", "line 3: youtube_id is '#NAME\\?', expected its 11 characters"),
        ("--0PQM4-hqg,3.5,dog barking,train", "line 3: start_seconds is '3.5', expected whole seconds"),
        ("--0PQM4-hqg,3,dog barking, big,train", "line 3: the number of cells differs from the header's: 5, not 4"),
    ],
)
def test_a_malformed_row_of_vggsound_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_manifest(_vggsound(tmp_path, *VGGSOUND, line))


def test_a_table_of_four_columns_with_a_header_is_read_as_before(tmp_path: Path) -> None:
    path = _vggsound(tmp_path, "video,caption,source,split", "a.mp4,words,web,train")
    [row] = read_manifest(path).rows
    assert (row.uri, row.caption, row.source) == ("a.mp4", "words", "web")
    with pytest.raises(ManifestError, match="lacks the columns youtube_id and start_seconds and label"):
        read_manifest(path, IngestConfig(format="vggsound"))
