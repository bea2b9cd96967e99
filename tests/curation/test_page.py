"""The page tells what became of the clips, runs nothing, fetches nothing, and is the same text every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from curation.film_frames import Track
from curation.operator import Input
from curation.page import Page, PageConfig, join_tables, make_page, read_tables
from curation.page_duplicates import read_duplicates
from curation.schema import MOTION, PROBE, SELECT, Reason, RowError, status_not_ok, status_ok, to_table
from lumina.video import read_frames, write_h264

VOID = {"meta", "img", "br", "wbr"}
EVIL = "<script>alert('x')</script> & <img src=http://evil.example/x.png>"
PROBED = pa.schema([*SELECT, *(PROBE.field(name) for name in ("codec", "pix_fmt", "num_bytes"))])


class Reader(HTMLParser):
    """Checks that elements are closed in order, and collects the text, what is referred to, and the tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.pieces: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data", "action", "xlink:href"):
                self.links.append(value or "")
            if name == "id":
                assert value not in self.ids
                self.ids.add(value or "")
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert tag not in VOID
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            assert "url(" not in data
            assert "@import" not in data
            return
        self.pieces.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


TRACK = str(Track(0, "pts", 1 / 8))


def clip(name: str, source: str = "web", **changes: Any) -> dict[str, Any]:
    row = {
        "clip_id": name, "keep": True, "failed_rules": [], "split": "train", "uri": f"{name}.mp4", "media": "video",
        "source": source, "caption": f"The clip {name}.", "motion_score": 1.0, "width": 32, "height": 24, "fps": 8.0,
        "duration_s": 1.25, "track": TRACK, "codec": "h264", "pix_fmt": "yuv420p",
        "num_bytes": 2_000_000, **status_ok(),
    }  # fmt: skip
    return row | changes


def aside(status: str, reason: Reason, stage: str, detail: str) -> dict[str, Any]:
    return {"keep": False, **status_not_ok(stage, status, reason, detail)}  # type: ignore[arg-type]


BROKEN = aside("quarantined", Reason.DECODE_ERROR, "probe", "pyav: <b>bad</b>") | dict.fromkeys(
    ("width", "height", "fps", "duration_s", "track", "codec", "pix_fmt", "motion_score")
)
DUPLICATE = BROKEN | aside("filtered", Reason.DUPLICATE_CONTENT, "ingest", "same content as a.mp4")
STILL = {"media": "image", "motion_score": None, "fps": None, "duration_s": 0.0, "track": None}
SLOW = aside("filtered", Reason.MIN_MOTION, "select", "motion 0.1 below 0.5") | {"motion_score": 0.1}


def page(
    rows: Sequence[Mapping[str, Any]],
    root: Path | None = None,
    prompts: Mapping[str, str] | None = None,
    duplicates: pa.Table | None = None,
    scores: pa.Table | None = None,
    captions: ds.Dataset | None = None,
    **config: Any,
) -> Page:
    """A page of `rows`, whose frames are read from `root` where that is given."""

    def decode(row: Mapping[str, Any], times_s: Sequence[float]) -> NDArray[np.uint8]:
        assert row["status"] != "quarantined"
        if root is None:
            return np.zeros((len(times_s), 24, 32, 3), np.uint8)
        if not (root / row["uri"]).is_file():
            raise RowError(Reason.DECODE_ERROR, f"{row['uri']}: gone")
        return read_frames(root / row["uri"], [round(time * 8) for time in times_s])

    told: list[tuple[int, int, str]] = []
    table = ds.dataset(to_table(rows, PROBED))
    tables = join_tables(table, table, "pixels per 0.5 s in frames of 64x64, by dis", prompts or {})
    found = make_page(
        replace(tables, duplicates=duplicates, scores=scores, captions=captions), PageConfig(**config), decode,
        {"select": "rows256-add/1:9:ab"},
        lambda done, total, unit: told.append((done, total, unit)),
    )  # fmt: skip
    assert [done for done, _, _ in told] == list(range(1, len(told) + 1))
    assert all(total == len(told) for _, total, _ in told)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real clips `a` to `e`."""
    root = tmp_path_factory.mktemp("clips")
    for number, name in enumerate("abcde"):
        frames = np.stack([np.full((24, 32, 3), 20 * t + 5 * number, np.uint8) for t in range(10)])
        write_h264(root / f"{name}.mp4", frames, fps=8)
    return root


MIXED = [
    clip("a", split="heldout"),
    clip("b", "phone", motion_score=4.0, caption=EVIL),
    clip("c", **SLOW),
    clip("d", "phone", **STILL),
    clip("x", "phone", **BROKEN),
    clip("y", **DUPLICATE),
    clip("z", **DUPLICATE),
]


def test_counts_add_up_in_rows_and_columns(folder: Path) -> None:
    read = Reader(page(MIXED, folder).html)
    head, *rows, total, share = read.rows
    assert [cell.strip() for cell in head] == ["Clips", "all", "phone", "web"]
    assert {" ".join(row[0].split()): [int(cell) for cell in row[1:]] for row in rows} == {
        "kept videos": [2, 1, 1],
        "kept images": [1, 1, 0],
        "filtered: duplicate_content by ingest": [2, 0, 2],
        "filtered: min_motion by select": [1, 0, 1],
        "quarantined: decode_error by probe": [1, 1, 0],
    }
    assert total[1:] == [str(sum(int(row[n]) for row in rows)) for n in (1, 2, 3)] == ["7", "3", "4"]
    assert share[1:] == ["43%", "67%", "25%"]
    for text in ("7 clips in", "3 kept", "3 filtered", "1 quarantined", "2 sources", "6 videos and 1 image, 14 MB"):
        assert text in read.text
    assert "The kept videos last 2.5 s" in read.text
    assert "1 kept clip." in read.text


def test_it_fetches_nothing_runs_nothing_and_shows_captions_as_text(folder: Path) -> None:
    html = page(MIXED, folder, {"web": f"You write {EVIL}"}).html
    read = Reader(html)
    assert "script" not in read.tags
    assert EVIL in read.text
    assert f"System prompt: You write {EVIL}" in read.text
    assert "pyav: <b>bad</b>" in read.text
    anchors = {link.removeprefix("#") for link in read.links if link.startswith("#")}
    assert anchors <= read.ids
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in read.links)
    assert "default-src 'none'" in html
    assert str(folder) not in html
    assert html.startswith("<!doctype html>")


def test_every_kind_of_clip_has_its_card(folder: Path) -> None:
    found = page([*MIXED, clip("gone", "phone", motion_score=2.0)], folder)
    read = Reader(found.html)
    assert (found.clips, found.pictured, found.undecodable) == (8, 4, 1)
    for text in (
        "The clip a. 32×24 · 8 fps · 1.25 s · motion 1 px · h264 a.mp4",
        "Set aside: motion 0.1 below 0.5 The clip c.",
        "decode_error: gone.mp4: gone",
        "Not decoded: something is wrong with it. Set aside: pyav: <b>bad</b> The clip x. x.mp4",
        "Not decoded: it was set aside before it was probed. Set aside: same content as a.mp4",
        "5%, 25%: 0.1 px",
        "mean |flow component|, pixels per 0.5 s in frames of 64x64, by dis",
        "select rows256-add/1:9:ab",
    ):
        assert text in read.text


def test_the_same_rows_give_the_same_bytes_in_any_order(folder: Path) -> None:
    assert page(MIXED, folder) == page(MIXED[::-1], folder)


def test_clips_are_drawn_by_seed_and_as_many_as_asked_for() -> None:
    rows = [clip(f"{n:03}", "abc"[n % 3], motion_score=n / 7) for n in range(60)]
    rows += [clip(f"slow{n:02}", "a", **SLOW) for n in range(20)]
    few = page(rows, clips_per_source=4, clips_per_reason=3)
    read = Reader(few.html)
    assert read.text.count("4 of 20 kept clips") == 3
    assert "by select, 3 of 20 clips" in read.text
    assert few.pictured <= 3 * 4 + 3 * 5 + 3
    assert page(rows, clips_per_source=4, clips_per_reason=3) == few
    assert page(rows, clips_per_source=4, clips_per_reason=3, seed=1).html != few.html
    assert page(rows, clips_per_source=0, clips_per_reason=0).pictured <= 15


def test_more_sources_than_shown_are_counted() -> None:
    rows = [clip(f"{n}-{m}", f"s{n}", **(SLOW if m else {})) for n in range(5) for m in range(n + 1)]
    read = Reader(page(rows, max_sources=2).html)
    assert [cell.strip() for cell in read.rows[0]] == ["Clips", "all", "s3", "s4", "3 others"]
    assert [row[1:] for row in read.rows[1:]] == [
        ["5", "1", "1", "3"],
        ["10", "3", "4", "3"],
        ["15", "4", "5", "6"],
        ["33%", "25%", "20%", "50%"],
    ]
    assert "the 2 largest sources; 3 smaller ones are only counted" in read.text
    # Beyond the palette all share its grey.
    assert 'class="swatch c8"' in page([clip(f"{n:02}", f"s{n:02}") for n in range(10)], max_sources=10).html


@pytest.mark.parametrize(
    ("rows", "texts"),
    [
        ([], ["0 clips in", "No clip has a motion score.", "There are no clips.", "Every clip was kept."]),
        ([clip("a", **BROKEN)], ["0 kept", "No clip has a motion score.", "No clip of this source was kept."]),
        ([clip("a", **STILL)], ["1 image", "No clip has a motion score.", "1 of 1 kept clips", "Every clip was kept."]),
        ([clip("a", caption="")], ["1 kept", "5%, 25%, 50%, 75%, 95%: 1 px"]),
    ],
)
def test_little_to_show_is_no_error(rows: list[dict[str, Any]], texts: list[str]) -> None:
    read = Reader(page(rows).html)
    for text in texts:
        assert text in read.text


def test_long_texts_are_cut_and_say_so() -> None:
    read = Reader(page([clip("a", caption="word " * 200)]).html)
    assert "… (1000 characters)" in read.text


def test_tables_are_joined_by_clip_and_must_be_of_one_run(tmp_path: Path) -> None:
    def write(name: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
        (tmp_path / name / "data").mkdir(parents=True)
        pq.write_table(to_table(rows, schema), tmp_path / name / "data" / "rows.parquet")

    score = {"sample_times_s": [0.0, 0.25], "input_hw": [64, 96], "estimator": "unimatch/abc"}
    write("select", [clip("b"), clip("a")], SELECT)
    write("clips", [clip("a", codec="vp9"), clip("b")], PROBE)
    write("motion", [{"clip_id": "b", **score}, {"clip_id": "a"}], MOTION)
    write("fewer", [clip("a")], PROBE)
    inputs = {name: Input(tmp_path / name) for name in ("select", "clips", "motion")}
    tables = read_tables(inputs, {"web": "text"})
    assert tables.clips.select(["clip_id", "codec"]).to_pylist() == [
        {"clip_id": "a", "codec": "vp9"},
        {"clip_id": "b", "codec": "h264"},
    ]
    assert tables.motion_unit == "pixels per 0.25 s in frames of 96x64, by unimatch"
    assert read_tables({name: inputs[name] for name in ("select", "clips")}, {}).motion_unit is None
    with pytest.raises(ValueError, match="select has 2 rows and probe 1"):
        read_tables({**inputs, "clips": Input(tmp_path / "fewer")}, {})


def test_near_duplicates_are_counted_by_sources_and_shown_in_groups(tmp_path: Path) -> None:
    rows = [clip("a"), clip("b", "phone"), clip("c", **SLOW), clip("d"), clip("e"), clip("f", "phone")]
    alike = {"a": "a", "b": "a", "c": "c", "d": "c", "e": "e", "f": "f"}
    family = alike | {"f": "c"}
    columns = {"clip_id": list("abcdef"), "source": [row["source"] for row in rows],
               "cluster": list(alike.values()), "family": list(family.values())}  # fmt: skip

    def read(semantic: list[str | None]) -> pa.Table:
        (tmp_path / "data").mkdir(exist_ok=True)
        semantics = {"semantic": pa.array(semantic, pa.string())}
        pq.write_table(pa.table(columns | semantics), tmp_path / "data" / "part.parquet")
        found = read_duplicates({"duplicates": Input(tmp_path)})
        assert found is not None
        return found

    found = read([None] * 6)
    assert found["clip_id"].to_pylist() == list("abcdf")
    reader = Reader(page(rows, duplicates=found).html)
    assert "Semantic" not in reader.text
    assert ["phone + web", "1", "2"] in reader.rows
    assert ["web", "1", "2"] in reader.rows
    assert "1 cluster of 2 spans sources" in reader.text
    shown = reader.text[reader.text.rindex("Near-duplicates") :]
    assert shown.index("phone + web 3 of 3 clips") < shown.index("phone + web 2 of 2 clips")
    assert "phone, mirrored" in shown
    assert "motion 0.1 below 0.5" in shown
    assert "e.mp4" not in shown
    assert "#duplicates" in reader.links
    none = page(rows, duplicates=found.slice(0, 0))
    assert "No two clips show the same." in Reader(none.html).text
    reader = Reader(page(rows, duplicates=read(list("aaccac"))).html)
    assert "1 group of 1 spans sources" in reader.text
    assert ["phone + web", "1", "3"] in reader.rows
    assert "web, alike in meaning" in reader.text
    assert "e.mp4" in reader.text[reader.text.rindex("Semantic") :]
    unlike = Reader(page(rows, duplicates=read(list("aaccec"))).html)
    assert "No two other clips mean the same." in unlike.text
    assert "duplicate" not in page(rows).html
