"""Scores from elsewhere: three layouts that say the same, and a clear line for each file that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumina.evaluation.score_files import read_scores

SOURCES = ("synthetic", "web")
CLIPS = {("a cat", 0): (0.9, 1), ("a cat", 1): (0.8, 0), ("a dog-1", 0): (0.7, 1), ("a dog-1", 1): (0.6, 1)}


def _csv(folder: Path) -> Path:
    lines = ["source,prompt,sample,flicker,moves"]
    for shift, source in enumerate(SOURCES):
        lines += [f"{source},{p},{s},{flicker - shift},{moves}" for (p, s), (flicker, moves) in CLIPS.items()]
    path = folder / "scores.csv"
    path.write_text("\n".join(lines))
    return path


def _vbench(place: str, shift: int) -> dict[str, Any]:
    def clips(index: int) -> list[dict[str, Any]]:
        values = {key: (value[0] - shift, bool(value[1]))[index] for key, value in CLIPS.items()}
        return [{"video_path": f"{place}/{p}-{s}.mp4", "video_results": v} for (p, s), v in values.items()]

    return {"flicker": [0.75 - shift, clips(0)], "moves": [0.75, clips(1)]}


def test_a_table_and_vbench_s_results_say_the_same(tmp_path: Path) -> None:
    found = read_scores(_csv(tmp_path), ("flicker", "moves"), SOURCES, SOURCES)
    assert found.per_clip
    assert found.results["web"].prompt_ids == ("a cat", "a dog-1")
    assert found.results["web"].samples == 2
    np.testing.assert_allclose(found.results["web"].columns["flicker"], [[-0.1, -0.2], [-0.3, -0.4]])
    np.testing.assert_allclose(found.results["synthetic"].columns["moves"], [[1, 0], [1, 1]])

    apart = {}
    for shift, source in enumerate(SOURCES):
        apart[source] = tmp_path / f"{source}.json"
        apart[source].write_text(json.dumps(_vbench("anywhere", shift)))
    store = "runs/stages/evaluate@3.{}/0123/videos"
    both = [_vbench(place, shift) for shift, place in enumerate(("synthetic/x", store.format("web")))]
    one = {name: [0.0, both[0][name][1] + both[1][name][1]] for name in both[0]}
    together = tmp_path / "all.json"
    together.write_text(json.dumps(one))
    for files in (apart, together):
        same = read_scores(files, ("flicker", "moves"), SOURCES, SOURCES)
        for source in SOURCES:
            for figure in ("flicker", "moves"):
                np.testing.assert_array_equal(
                    same.results[source].columns[figure], found.results[source].columns[figure]
                )


def test_figures_may_be_of_prompts_of_their_own(tmp_path: Path) -> None:
    content = {
        name: [0, [{"video_path": f"{source}/{prompt}-0.mp4", "video_results": 1} for source in SOURCES]]
        for name, prompt in (("flicker", "a beach"), ("moves", "a car"))
    }
    path = tmp_path / "all.json"
    path.write_text(json.dumps(content))
    found = read_scores(path, ("flicker", "moves"), SOURCES, SOURCES).results["web"].columns
    np.testing.assert_array_equal(found["flicker"], [[1], [np.nan]])
    np.testing.assert_array_equal(found["moves"], [[np.nan], [1]])


def test_a_row_for_each_source_is_no_clip(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("source,total,other\nweb,80.5,1\nsynthetic,82,2\npictures,99,3\n")
    found = read_scores(path, ("total",), SOURCES, (*SOURCES, "pictures"))
    assert not found.per_clip
    assert {name: one.columns["total"].tolist() for name, one in found.results.items()} == {
        "synthetic": [[82.0]], "web": [[80.5]]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,total\nweb,1\n", r"scores.csv lacks the column source; it has name, total"),
        ("", r"scores.csv lacks the column source; it has none"),
        ("source,total\nwep,1\n", r"line 2: unknown source 'wep'; the sources are synthetic, web"),
        ("source,quality\nweb,1\nsynthetic,2\n", r"no figure total, which the score weighs; it has quality"),
        ("source,total\nweb,1\n", r"no scores of synthetic: every source that can be chosen needs them"),
        ("source,total\nweb,nan\n", r"line 2: total is 'nan', expected a finite number"),
        ("source,total\nweb,\n", r"line 2: total is '', expected a finite number"),
        ("source,total\nweb,1,2\n", r"line 2: it has not as many fields as the header"),
        ("source,total\nweb,1\nweb,2\nsynthetic,1\n", r"line 3: total of source web is there twice for it"),
        ("source,prompt,total\nweb,p,1\nsynthetic,q,1\n", r"web has total for sample 0 of 'p', and synthetic has not"),
        ("source,prompt,sample,total\nweb,p,x,1\n", r"line 2: sample 'x' is no whole number"),
        ('source,total\n"web,1\n', r"no CSV: unexpected end of data"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        read_scores(path, ("total",), SOURCES, SOURCES)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"line 1: no JSON"),
        ("[]", r'expected \{"dimension": \[score, \['),
        ('{"total": 3}', r'all.json: total: expected \{"dimension"'),
        ('{"total": [1]}', r"total is of no clip: give a file for each source"),
        ('{"total": [1, [{"video_path": "web/a-0.mp4"}]]}', r'total: expected \{"dimension"'),
        ('{"total": [1, [{"video_path": "x/a-0.mp4", "video_results": 1}]]}', r"in no folder that names one source of"),
        (
            '{"total": [1, [{"video_path": "web/synthetic/a-0.mp4", "video_results": 1}]]}',
            r"in no folder that names one source of synthetic, web: give a file for each",
        ),
        (
            '{"total": [1, [{"video_path": "web/a-0.mp4", "video_results": NaN}]]}',
            r"web/a-0.mp4 is nan, expected a fin",
        ),
        (
            '{"total": [1, [{"video_path": "web/a-0.mp4", "video_results": [1]}]]}',
            r"is \[1\], expected a finite number",
        ),
    ],
)
def test_results_that_cannot_be_used_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "all.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as refused:
        read_scores(path, ("total",), SOURCES, SOURCES)
    assert "\n" not in str(refused.value)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "scores.txt").write_text("")
    for path, message in (
        (tmp_path / "away.csv", "away.csv is no file: give a CSV, or the results JSON of VBench"),
        (tmp_path / "scores.txt", "scores.txt: scores are read from .csv and .json files"),
        ({"wep": tmp_path / "x.json"}, "scores are given for wep; the sources are synthetic, web"),
    ):
        with pytest.raises(ValueError, match=message):
            read_scores(path, ("total",), SOURCES, SOURCES)
