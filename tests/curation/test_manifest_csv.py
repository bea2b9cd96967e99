from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.manifest_mistakes import ManifestError
from curation.manifests import read_manifest
from tests.conftest import SHARED

CELLS = st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters='\n\t",;|'), max_size=12).map(
    str.strip
)


def _written(folder: Path, text: str | bytes) -> Path:
    path = folder / "clips.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("csv")


@given(
    rows=st.lists(st.tuples(CELLS.filter(bool), CELLS, CELLS), min_size=1, max_size=5),
    separator=st.sampled_from(",;\t"),
    ends=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    announced=st.booleans(),
)
def test_any_table_that_a_program_writes_is_read_back(
    folder: Path,
    rows: list[tuple[str, str, str]],
    separator: str,
    ends: str,
    quoting: int,
    encoding: str,
    announced: bool,
) -> None:
    rows = [(uri.replace(":", "").replace("@", ""), text.replace("\ufeff", ""), extra) for uri, text, extra in rows]
    rows = [(uri or "a", text.strip(), extra) for uri, text, extra in rows]
    path = folder / "clips.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        file.write(f"sep={separator}{ends}" if announced else "")
        writer = csv.writer(file, delimiter=separator, lineterminator=ends, quoting=quoting)
        writer.writerows([("video", "caption", "extra, or not"), *rows])
    found = [(row.uri, row.caption, json.loads(row.extra)["extra, or not"]) for row in read_manifest(path).rows]
    assert found == rows


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('video,caption\na.mp4,"a man\nb.mp4,two\nc.mp4,three\n', [2]),
        ('video,caption\na.mp4,one\nb.mp4,"two\nc.mp4,"three"\nd.mp4,"four"\n', [3]),
        ('video,caption\na.mp4,"in ""marks"",\nand lines"\nb.mp4,"two" or "three"\nc.mp4,"x"\n', [4]),
        ('caption;video\n"a\nb";"c\n"d";e.mp4\n', [3]),
        ('video\tcaption\r\na.mp4\t"one"two\r\nb.mp4\tx\r\nc.mp4\t"never\r\n', [2, 4]),
    ],
)
def test_a_quotation_mark_is_named_by_the_line_that_opens_it(tmp_path: Path, text: str, lines: list[int]) -> None:
    with pytest.raises(ManifestError, match="quotation mark") as caught:
        read_manifest(_written(tmp_path, text))
    assert [line for line in range(1, 9) if f"line {line}: " in str(caught.value)] == lines
    assert "UTF" not in str(caught.value)


def test_a_mark_that_is_never_closed_hides_nothing_behind_it(tmp_path: Path) -> None:
    lines = ["video,caption", '0.mp4,"open', *(f"{n}.mp4,words" for n in range(1, 2000)), ",no file", "z.mp4,x,y"]
    with pytest.raises(ManifestError) as caught:
        read_manifest(_written(tmp_path, "\n".join(lines)))
    first, quote, empty, cells = str(caught.value).split("\n  ")
    assert first.endswith("clips.csv: 3 mistakes to mend")
    assert quote.startswith('line 2: the quotation mark (") that begins a cell here is never closed')
    assert empty == "line 2002: the column video is empty"
    assert cells.startswith("line 2003: the number of cells differs from the header's: 3, not 2")


@pytest.mark.parametrize(
    "text",
    [
        "video,caption,,\na.mp4,one,,\nb.mp4,two,,\n",
        "video,,caption,\r\na.mp4,,one,\r\nb.mp4, ,two,,,\r\n",
        ",,\nvideo,caption,source\n\na.mp4,one,clips\n,,\nb.mp4,two,clips\n,,\n , ,\n",
        "Video;CAPTION\na.mp4;one\nb.mp4;two\n",
        " Path \tText\na.mp4\tone\nb.mp4\ttwo\n",
        "sep=;\r\nFile-Name;prompt\r\na.mp4;one\r\nb.mp4;two\r\n",
        'SEP=|\nvideo|caption\na.mp4|"one"\nb.mp4|two\n',
        'video, caption\na.mp4, "one"\nb.mp4, two\n',
        '\n\nvideo,caption\ra.mp4,one\rb.mp4,"two\r"\r',
    ],
)
def test_what_spreadsheets_write_is_read(tmp_path: Path, text: str) -> None:
    rows = read_manifest(_written(tmp_path, text)).rows
    assert [(row.uri, row.caption, row.source, row.extra) for row in rows] == [
        ("a.mp4", "one", "clips", "{}"), ("b.mp4", "two", "clips", "{}")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,,caption\na.mp4,x,one\n", "line 2: column 2 has an empty column name, but holds 'x': name it in the"),
        ("VIDEO,Video,caption\na,b,c\n", r"has the column\(s\) VIDEO, Video twice, capitals aside"),
        ("video,captoin\na.mp4,x\n", r"it has video, captoin; did you mean 'caption' by 'captoin'\?"),
        ("videoid,TimeStamp,kaption\na,b,c\n", r"videoID, timestamp, kaption; did you mean 'caption'"),
        ("video;caption;span_start_s;span_end_s\na.mp4;x;1,5;2\n", "span_start_s is '1,5', expected seconds, such as"),
        ("video,caption\r\na.mp4,one, two\r\n", "line 2: .*: 3, not 2; a cell that holds the separator needs"),
        ("video,caption\n,,\n", "has a header but no rows"),
        (",,\n\n", "lacks the columns .*it has none"),
        (b"PK\3\4 workbook", r"clips.csv is an Excel workbook, or another zip archive: save it as CSV UTF-8"),
        (b"\x1f\x8b\x08 gzip", "clips.csv is compressed: unpack it"),
    ],
)
def test_what_cannot_be_meant_has_a_hint(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_manifest(_written(tmp_path, text))


def test_a_known_column_is_not_renamed_by_another_of_its_kind(tmp_path: Path) -> None:
    [row] = read_manifest(_written(tmp_path, "video,caption,Text,Views\na.mp4,,subtitle,7\n")).rows
    assert (row.caption, row.extra) == ("", '{"Text": "subtitle", "Views": "7"}')


def test_lines_are_counted_through_quoted_line_breaks(tmp_path: Path) -> None:
    text = 'video,caption\r\na.mp4,"one\r\ntwo"\r\n\r\n,"three\r\nfour"\r\nb.mp4,five,six\r\n'
    with pytest.raises(ManifestError) as caught:
        read_manifest(_written(tmp_path, text))
    assert [line.partition(":")[0] for line in str(caught.value).split("\n  ")[1:]] == ["line 5", "line 7"]
    [row] = read_manifest(_written(tmp_path, text[: text.index("\r\n\r\n")])).rows
    assert row.caption == "one\ntwo"


def test_the_manifests_that_showed_the_fault() -> None:
    folder = SHARED / "inputs" / "manifests"
    if not folder.is_dir():
        pytest.skip(f"no inputs at {folder}")
    with pytest.raises(ManifestError, match=r"quote.csv, line 2: .*quotation mark \(\"\)") as caught:
        read_manifest(folder / "quote.csv")
    assert "UTF-8" not in str(caught.value)
    for name in ("excel_cols.csv", "excel_rows.csv"):
        rows = read_manifest(folder / name).rows
        assert [(row.uri, row.caption, row.extra) for row in rows] == [
            ("a.mp4", "one thing", "{}"), ("b.mp4", "two things", "{}")
        ]  # fmt: skip
