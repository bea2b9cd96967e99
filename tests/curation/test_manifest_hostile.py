"""Any text in a manifest, in any format: read back as it is or refused by its line, and nothing of it is obeyed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from curation.control_characters import CONTROL
from curation.manifest_mistakes import ManifestError
from curation.manifests import read_manifest

MARKUP = "</script><img src=x onerror=alert(1)> [red]x[/] {{ 7*7 }} ${HOME} $(id) %n %s"
CONTROLS = "\x00\x1b]0;title\x07\x1b[2J\x9b2J\u202egpj.4pm\u2066\u2028\x7f\r"
LINKS = [
    "../../etc/passwd",
    "/etc/passwd",
    "/proc/self/environ",
    "file:///etc/passwd",
    "http://host/a.mp4",
    "a@b",
    "~/a",
]
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    [MARKUP, CONTROLS, *LINKS, "=1+1"]
)
COLUMNS = ("video", "caption", "source", "note")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


def _csv(path: Path, row: tuple[str, ...]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([COLUMNS, row])


def _jsonl(path: Path, row: tuple[str, ...]) -> None:
    path.write_text(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n", encoding="utf-8")


def _parquet(path: Path, row: tuple[str, ...]) -> None:
    pq.write_table(pa.Table.from_pylist([dict(zip(COLUMNS, row, strict=True))]), path)


def _found(path: Path) -> tuple[str, ...] | str:
    """The cells; or the mistake, which is one line that names the file, without its place."""
    try:
        [row] = read_manifest(path).rows
    except ManifestError as error:
        message = str(error)
        assert not CONTROL.search(message.replace("\n", "")), message
        assert str(path) in message
        return message.rpartition(": ")[2]
    return row.uri, row.caption, row.source, json.loads(row.extra)["note"]


@example("a.mp4", CONTROLS, MARKUP, MARKUP)
@example(CONTROLS, "x", "web", CONTROLS)
@example(MARKUP, MARKUP, CONTROLS, "x")
@given(ANY, ANY, ANY, ANY)
def test_any_text_is_what_it_is_in_every_format(folder: Path, uri: str, caption: str, source: str, note: str) -> None:
    row = (uri, caption, source, note)
    _jsonl(folder / "a.jsonl", row)
    _parquet(folder / "a.parquet", row)
    found = _found(folder / "a.jsonl")
    assert found == _found(folder / "a.parquet")
    if any(cell.strip() for cell in row):  # a blank line of a table is none of its rows
        _csv(folder / "a.csv", row)
        assert found == _found(folder / "a.csv")
    if isinstance(found, str):
        assert found == "the column video is empty"
        assert not uri.strip()
        return
    # A caption that nobody could have meant is none, with a reason; the note is nobody's business.
    assert (found[0], found[2], found[3]) == (uri.strip(), source.strip() or "clips", note)
    assert found[1].split() in ([], caption.split())
