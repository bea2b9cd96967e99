"""The adapter to the official package, against a stand-in package with recorded behaviour."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumina.vbench.dimensions import DIMENSIONS
from lumina.vbench.official import Clip, OfficialError, official_versions, score_officially
from lumina.vbench.official_results import read_results
from lumina.video import write_h264
from tests.conftest import SHARED

FIXTURES = SHARED / "golden_vbench"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter that has the stand-in."""
    if not FIXTURES.is_dir():
        pytest.skip(f"no golden fixtures at {FIXTURES}")
    monkeypatch.setenv("PYTHONPATH", str(FIXTURES / "fake_interpreter"))
    return Path(sys.executable)


def _prompts(folder: Path) -> Path:
    path = folder / "VBench_full_info.json"
    entries = [
        {"prompt_en": "a red car", "dimension": ["color"], "auxiliary_info": {"color": {"color": "red"}}},
        {"prompt_en": "a stop sign", "dimension": ["temporal_flickering", "imaging_quality"]},
        {"prompt_en": "without clips", "dimension": ["temporal_flickering"]},
    ]
    path.write_text(json.dumps(entries))
    return path


def _clips(folder: Path, prompt: str, indices: tuple[int, ...] = (0, 1)) -> list[Clip]:
    folder.mkdir(exist_ok=True)
    for index in indices:
        write_h264(folder / f"{index}.mp4", np.full((3, 16, 16, 3), 40 * index, np.uint8), 8)
    return [Clip(folder / f"{index}.mp4", f"{prompt}-{index}.mp4", 3) for index in indices]


def test_one_dimension_is_scored_with_versions(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = _clips(tmp_path / "clips", "a stop sign")
    # What an earlier attempt left is not in the way.
    (tmp_path / "work" / "clips").mkdir(parents=True)
    (tmp_path / "work" / "clips" / "0.txt").touch()
    # Relative names, as they are typed.
    monkeypatch.chdir(tmp_path)
    python, prompts = Path(os.path.relpath(fake)), _prompts(tmp_path).relative_to(tmp_path)
    found = score_officially(python, "imaging_quality", clips, prompts, Path("work"))
    assert list(found.clips) == ["a stop sign-0.mp4", "a stop sign-1.mp4"]
    assert found.score == pytest.approx(sum(one.total for one in found.clips.values()) / 2)
    assert 0 < found.score < 1


@pytest.mark.parametrize(
    ("switch", "message"),
    [
        ("VBENCH_FAKE_FAIL", "ended with exit code 1: RuntimeError: fake failure in imaging_quality"),
        ("VBENCH_FAKE_KILL", "ended with exit code 137"),
    ],
)
def test_a_crash_is_one_line_with_the_log(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str, message: str
) -> None:
    monkeypatch.setenv(switch, "imaging_quality")
    clips = _clips(tmp_path / "clips", "a stop sign")
    with pytest.raises(OfficialError) as caught:
        score_officially(fake, "imaging_quality", clips, _prompts(tmp_path), tmp_path / "work")
    assert message in str(caught.value)
    assert str(tmp_path / "work" / "official.log") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_interpreter_without_the_package_says_where_the_recipe_is(tmp_path: Path) -> None:
    clips = _clips(tmp_path / "clips", "a stop sign")
    with pytest.raises(OfficialError, match=r"has no vbench; docs/vbench\.md"):
        score_officially(Path(sys.executable), "imaging_quality", clips, _prompts(tmp_path), tmp_path / "work")


def test_versions_are_those_of_the_other_environment(tmp_path: Path) -> None:
    found = official_versions(Path(sys.executable))
    assert {"python", "torch", "vbench", "torchvision"} <= set(found)
    assert found["vbench"] == "not installed"
    with pytest.raises(OfficialError, match=r"is no interpreter: .* docs/vbench\.md"):
        official_versions(tmp_path / "none")


def test_clips_that_the_official_code_never_looks_at_are_refused(tmp_path: Path) -> None:
    clips = _clips(tmp_path / "clips", "a stop sign", (5,))
    with pytest.raises(ValueError, match="clips 0 to 4"):
        score_officially(Path(sys.executable), "imaging_quality", clips, _prompts(tmp_path), tmp_path / "work")


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_records_of_every_dimension_give_the_official_total(dimension: str, tmp_path: Path) -> None:
    if not FIXTURES.is_dir():
        pytest.skip(f"no golden fixtures at {FIXTURES}")
    layout = json.loads((FIXTURES / "W_layout.json").read_text())
    results = layout["per_dimension"][dimension]["eval_results"]
    path = tmp_path / "clips_eval_results.json"
    path.write_text(json.dumps(results))
    # Subjects' records do not say of how many frames: the only small numbers that give the official total.
    names = dict(zip(_names(layout, dimension), [5, 6, 5, 7, 5], strict=True))
    found = read_results(path, dimension, names)
    assert found.score == results[dimension][0]
    assert set(found.clips) == set(names)


def _names(layout: Any, dimension: str) -> list[str]:
    return [Path(one).name for entry in layout["per_dimension"][dimension]["full_info"] for one in entry["video_list"]]


def _write(folder: Path, content: Any) -> Path:
    path = folder / "clips_eval_results.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"scene": [1.0, []]}, "expected {'color'"),
        ({"color": [1.0]}, "expected {'color'"),
        ({"color": [0.5, [{"video_path": "/x/other.mp4", "video_results": 0.5}]]}, "was not among the clips"),
        ({"color": [0.5, [{"video_path": "a.mp4", "video_results": 0.5}] * 2]}, "two records of a.mp4"),
        ({"color": [0.5, [{"video_path": "a.mp4", "video_results": float("nan")}]]}, "a.mp4: nan is no finite number"),
        ({"color": [0.9, [{"video_path": "a.mp4", "video_results": 0.5}]]}, "but its clips give 0.500000"),
        ({"color": [float("nan"), []]}, "the score of color: nan"),
    ],
)
def test_results_that_cannot_be_right_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match="eval_results") as caught:
        read_results(_write(tmp_path, content), "color", {"a.mp4": 3})
    assert message in str(caught.value)


def test_a_clip_that_colour_leaves_out_has_no_say_and_a_missing_one_elsewhere_is_an_error(tmp_path: Path) -> None:
    record = {"video_path": "/x/a.mp4", "video_results": 0.5, "cur_success_frame_rate": 0.5}
    found = read_results(_write(tmp_path, {"color": [0.5, [record]]}), "color", {"a.mp4": 3, "b.mp4": 3})
    assert {name: one.value for name, one in found.clips.items()} == {"a.mp4": 0.5, "b.mp4": None}
    path = _write(tmp_path, {"temporal_style": [0.5, [record]]})
    with pytest.raises(ValueError, match=r"no record of b\.mp4"):
        read_results(path, "temporal_style", {"a.mp4": 3, "b.mp4": 3})


def test_the_child_imports_nothing_of_this_project(tmp_path: Path) -> None:
    from lumina.vbench import official_child

    alone = tmp_path / "official_child.py"
    shutil.copyfile(official_child.__file__, alone)
    assert "lumina" not in alone.read_text()
