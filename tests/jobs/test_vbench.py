"""Scores of VBench: each clip once, whatever stops the run, and figures that no order of work changes."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import vbench
from jobs.actor_pool import Finished
from jobs.runtime import RuntimeConfig
from jobs.vbench import JudgeWorker, find_clips, score_clips
from lumina.vbench.page import Subject
from lumina.vbench.prompts import VBenchPrompt
from lumina.vbench.report_files import Statistics, make_report
from lumina.vbench.suite import expected_clips, strata_of
from lumina.vbench.suite_config import JudgeConfig, VBenchWeights, filters_clips
from lumina.vbench.summary import DimensionScores
from lumina.video import write_h264
from tests.conftest import SHARED
from tests.jobs.here import PoolHere

PROMPTS = tuple(VBenchPrompt(text, ("subject_consistency", "temporal_flickering"), {}) for text in ("a ball", "a box"))
DIMENSIONS = ("subject_consistency", "temporal_flickering")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips of two prompts."""
    made = tmp_path_factory.mktemp("clips")
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    for number, prompt in enumerate(PROMPTS):
        for index in range(5):
            frames = [np.roll(image, step * (index + number), 1) for step in range(4)]
            write_h264(made / f"{prompt.text}-{index}.mp4", np.stack(frames), 8)
    return made


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> VBenchWeights:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("dino")
    config = ViTConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ViTModel(config, add_pooling_layer=False).save_pretrained(place)
    return VBenchWeights(dino=str(place))


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if not request.node.get_closest_marker("ray"):
        monkeypatch.setattr(vbench, "hand_out", PoolHere())


def _score(
    folder: Path, out: Path, config: JudgeConfig, samples: int = 5, dimensions: Sequence[str] = DIMENSIONS, **more: Any
) -> dict[str, DimensionScores]:
    names = [path.name for path in folder.glob("*.mp4")]
    clips = find_clips(folder, names, PROMPTS, dimensions, samples, filters_clips(config))
    expected = expected_clips(PROMPTS, dimensions, samples, filters_clips(config))
    more = {"prompts_file": None, "runtime": RuntimeConfig(), **more}
    return score_clips(clips, dimensions, config, out=out, progress=lambda *_: None, expected=expected, **more)


def _figures(scores: dict[str, DimensionScores], samples: int = 5) -> dict[str, Any]:
    clips = [one.clip for found in scores.values() for one in found.scored]
    subject = Subject("x", 0, samples, "p.json", Path())
    content = make_report(subject, scores, strata_of(PROMPTS, clips), Statistics(resamples=50)).to_json()
    metrics: dict[str, Any] = content["metrics"]
    return metrics


def _log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


class Killed(BaseException):
    """Nothing that any code catches."""


def _killing(after: int) -> Callable[..., Iterator[Finished[Any]]]:
    def pool(*given: Any) -> Iterator[Finished[Any]]:
        for number, finished in enumerate(PoolHere()(*given)):
            if number == after:
                raise Killed
            yield finished

    return pool


def test_killed_after_any_clip_with_a_torn_line_it_goes_on_and_nothing_is_scored_twice(
    folder: Path, weights: VBenchWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = JudgeConfig(weights=weights)
    calm = _score(folder, tmp_path / "calm", config)
    for after in (0, 3, 2):
        with monkeypatch.context() as patch:
            patch.setattr(vbench, "hand_out", _killing(after))
            with pytest.raises(Killed):
                _score(folder, tmp_path / "killed", config)
        if after:
            with (tmp_path / "killed" / "scores.jsonl").open("a") as log:
                log.write('{"clip": "a ball-')
    assert _figures(_score(folder, tmp_path / "killed", config)) == _figures(calm)
    lines = _log(tmp_path / "killed")
    assert len(lines) == len({(line["clip"], line["dimension"]) for line in lines}) == 20
    monkeypatch.setattr(JudgeWorker, "make", lambda *_: pytest.fail("it was scored already"))
    assert _figures(_score(folder, tmp_path / "killed", config)) == _figures(calm)
    assert len(_log(tmp_path / "killed")) == 20


def test_three_samples_and_five_and_another_order_of_work_give_the_same_figures(
    folder: Path, weights: VBenchWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = JudgeConfig(weights=weights)
    three = _figures(_score(folder, tmp_path / "three", config, 3), 3)
    five = _figures(_score(folder, tmp_path / "three", config))
    assert len(_log(tmp_path / "three")) == 20
    assert three != five

    def backwards(worker: type, given: Any, todo: deque[Any], *more: Any) -> Iterator[Finished[Any]]:
        return PoolHere()(worker, given, deque(reversed(todo)), *more)

    monkeypatch.setattr(vbench, "hand_out", backwards)
    assert _figures(_score(folder, tmp_path / "five", config)) == five
    monkeypatch.setattr(JudgeWorker, "make", lambda *_: pytest.fail("it was scored already"))
    assert _figures(_score(folder, tmp_path / "five", config, 3), 3) == three


@pytest.mark.ray
def test_workers_of_a_cluster_give_the_figures_of_one_here(
    folder: Path, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    flicker = {"dimensions": ("temporal_flickering",)}
    several = _score(folder, tmp_path / "several", JudgeConfig(), workers=2, **flicker)
    monkeypatch.setattr(vbench, "hand_out", PoolHere())
    alone = _score(folder, tmp_path / "alone", JudgeConfig(), **flicker)
    assert _figures(several) == _figures(alone)
    assert len(_log(tmp_path / "several")) == 10


def test_weights_of_another_network_end_the_run_and_no_clip_says_so(folder: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "raft-things.pth"
    torch.save({"weight": torch.zeros(2)}, wrong)
    with pytest.raises(ValueError, match=r"raft-things\.pth does not fit RAFT"):
        _score(folder, tmp_path / "out", JudgeConfig(weights=VBenchWeights(raft=str(wrong))))
    assert not (tmp_path / "out" / "scores.jsonl").exists()


def test_clips_beyond_the_samples_count_for_the_static_filter_alone(folder: Path) -> None:
    names = [path.name for path in folder.glob("*.mp4")]
    for filters, indices in ((True, 5), (False, 1)):
        clips = find_clips(folder, names, PROMPTS, DIMENSIONS, 1, filters)
        flickering = [clip.name for clip in clips if "temporal_flickering" in clip.dimensions]
        assert len(flickering) == 2 * indices
        assert sum("subject_consistency" in clip.dimensions for clip in clips) == 2


def test_a_clip_that_was_made_again_is_scored_again_and_one_that_is_missing_is_a_gap(
    folder: Path, weights: VBenchWeights, tmp_path: Path
) -> None:
    own = tmp_path / "clips"
    own.mkdir()
    for path in folder.glob("*.mp4"):
        (own / path.name).write_bytes(path.read_bytes())
    config = JudgeConfig(weights=weights)
    before = _figures(_score(own, tmp_path, config))
    write_h264(own / "a ball-3.mp4", np.zeros((4, 32, 32, 3), np.uint8), 8)
    assert _figures(_score(own, tmp_path, config)) != before
    assert len(_log(tmp_path)) == 22
    (own / "a ball-3.mp4").unlink()
    scores = _score(own, tmp_path, config)
    assert {name: (len(found.scored), found.expected) for name, found in scores.items()} == dict.fromkeys(
        DIMENSIONS, (9, 10)
    )
    assert _figures(scores) == {}
    assert len(_log(tmp_path)) == 22


def test_official_code_that_fails_half_way_costs_its_dimension_alone_and_a_rerun_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixtures = SHARED / "golden_vbench"
    if not fixtures.is_dir():
        pytest.skip(f"no golden fixtures at {fixtures}")
    monkeypatch.setenv("PYTHONPATH", str(fixtures / "fake_interpreter"))
    file = tmp_path / "p.json"
    file.write_text(json.dumps([{"prompt_en": one.text, "dimension": list(one.dimensions)} for one in PROMPTS]))
    config = JudgeConfig(python=Path(sys.executable), official=("all",))
    with monkeypatch.context() as patch:
        patch.setenv("VBENCH_FAKE_FAIL", "subject_consistency")
        first = _score(folder, tmp_path, config, prompts_file=file)
    assert "fake failure in subject_consistency" in str(first["subject_consistency"].broken)
    assert list(_figures(first)) == ["vbench/temporal_flickering"]
    assert len(_log(tmp_path)) == 10
    again = _score(folder, tmp_path, config, prompts_file=file)
    assert set(_figures(again)) == {"vbench/subject_consistency", "vbench/temporal_flickering"}
    assert again["temporal_flickering"].scored == first["temporal_flickering"].scored
    assert again["temporal_flickering"].weights["device"] == "cpu"
    assert len(_log(tmp_path)) == 20
    monkeypatch.setenv("VBENCH_FAKE_FAIL", "temporal_flickering")
    assert _figures(_score(folder, tmp_path, config, prompts_file=file)) == _figures(again)
