"""System prompts judged by VBench: tiny networks through the stage, the official code's stand-in, and the choice."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

import jobs.vbench
from jobs import clips
from jobs.actor_pool import Finished
from jobs.choose import ChooseConfig, select_judged
from jobs.context import JobContext, JobResult
from jobs.evaluate import EvaluateConfig, EvaluateFinalConfig, EvaluationConfig
from jobs.runtime import RuntimeConfig
from lumina.flow_matching.schedules import SamplerConfig
from lumina.vbench.clip_rows import read_clip_rows
from lumina.vbench.clip_score import ClipScore
from lumina.vbench.official import OfficialError
from lumina.vbench.suite_config import VBenchSuite, VBenchWeights
from lumina.video import read_frames
from tests.conftest import SHARED
from tests.jobs.evaluated import make_stages, run_evaluation
from tests.jobs.here import PoolHere

PROMPTS = [
    {"prompt_en": "a red car", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a person is singing, loudly", "dimension": ["subject_consistency", "imaging_quality"]},
    {"prompt_en": "a dog", "dimension": ["subject_consistency", "imaging_quality"]},
    {"prompt_en": "of no dimension that is asked for", "dimension": ["overall_consistency"]},
]
FLICKER, SUBJECT = "vbench_native/temporal_flickering", "vbench_native/subject_consistency"
NATIVE = VBenchSuite(dimensions=("subject_consistency", "temporal_flickering"))
SMALL: dict[str, Any] = {
    "sampler": SamplerConfig(steps=1, time_shift=2.0, guidance=((0.0, 1.0),)),
    "num_frames": 8,
    "height": 32,
    "width": 32,
    "samples": 2,
    "batch_size": 4,
    "resamples": 200,
}


class Counted:
    """`PoolHere` that keeps what was made, and is killed once it has made `most` items."""

    def __init__(self, most: int | None = None) -> None:
        self.made: list[Any] = []
        self._most = most
        self._pool = PoolHere()

    def __call__(
        self,
        worker: type,
        arguments: Sequence[Any],
        todo: deque[Any],
        runtime: RuntimeConfig,
        workers: int | None = None,
    ) -> Iterator[Finished[Any]]:
        for finished in self._pool(worker, arguments, todo, runtime):
            if len(self.made) == self._most:
                raise KeyboardInterrupt
            self.made.append(finished.item)
            yield finished


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `make_stages`; with a prompt file and a tiny DINO."""
    from transformers import ViTConfig, ViTModel

    root = make_stages(tmp_path_factory.mktemp("stages"))
    (root / "VBench_full_info.json").write_text(json.dumps(PROMPTS))
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ViTModel(config, add_pooling_layer=False).save_pretrained(root / "dino")
    return root


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "hand_out", PoolHere())
    monkeypatch.setattr(jobs.vbench, "hand_out", PoolHere())


def _run(
    stages: Path, out: Path, suite: VBenchSuite = NATIVE, source: str = "red", **settings: Any
) -> tuple[JobContext, JobResult, list[int]]:
    config = EvaluateConfig(source=source, suite=suite, **SMALL)
    given = {"weights": {"vbench.dino": str(stages / "dino")}, "files": _files(stages)}
    return run_evaluation(stages, out, config, **(given | settings))


def _files(stages: Path) -> dict[str, Path]:
    return {"vbench_prompts": stages / "VBench_full_info.json"}


def _metrics(context: JobContext) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((context.out / "metrics.json").read_text())
    return found


def test_clips_are_made_named_and_judged_and_figures_recorded(stages: Path, tmp_path: Path) -> None:
    context, result, done = _run(stages, tmp_path)
    assert done[-1] == 6
    names = {f"{entry['prompt_en']}-{index}.mp4" for entry in PROMPTS[:3] for index in range(2)}
    assert {path.name for path in (context.out / "videos").iterdir()} == names
    assert read_frames(context.out / "videos" / "a dog-1.mp4").shape == (8, 32, 32, 3)
    rows = pq.read_table(context.out / "data").to_pylist()
    assert result.counts == {"in": 6, "ok": 6}
    assert {(row["prompt"], row["sample"], row["stratum"]) for row in rows} >= {
        ("a red car", 0, "temporal_flickering"), ("a dog", 1, "subject_consistency")
    }  # fmt: skip
    assert {row["prompt"] for row in rows if row[FLICKER] is not None} == {"a red car"}
    assert {row[f"{SUBJECT}_count"] for row in rows} == {None, 7}
    found = _metrics(context)
    assert set(found["metrics"]) == {FLICKER, SUBJECT}
    pairs = [(row[SUBJECT], row[f"{SUBJECT}_count"]) for row in rows if row[SUBJECT] is not None]
    value = sum(total for total, _ in pairs) / sum(count for _, count in pairs)
    assert found["metrics"][SUBJECT]["value"] == pytest.approx(value)
    assert found["metrics"][SUBJECT]["low"] < value < found["metrics"][SUBJECT]["high"]
    assert found["gaps"]["total"] == "without 14 dimensions"
    assert (found["prompts"], found["clips"], found["samples"]) == (3, 6, 2)
    assert "computed here: 4 clips of 2 prompts; 2 clips a prompt, officially 5" in found["meaning"][SUBJECT]
    [evaluation] = result.evaluations
    assert evaluation.metrics[f"eval/{SUBJECT}"] == pytest.approx(value)
    assert evaluation.metrics[f"interval/{SUBJECT}_low"] < value
    assert evaluation.params["vbench.subject_consistency.by"] == "native"
    assert evaluation.params["vbench.subject_consistency.clips"] == 4
    assert str(evaluation.params["vbench.weights.dino"]).startswith("sha256:")
    assert "vbench.html" in evaluation.artifacts
    assert all((context.out / artifact).is_file() for artifact in evaluation.artifacts)


def test_killed_after_some_scores_a_rerun_scores_nothing_twice(
    stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole, _ = _run(stages, tmp_path / "whole")
    made: list[Any] = []
    generated = Counted()
    monkeypatch.setattr(clips, "hand_out", generated)
    for attempt in range(3):
        judging = Counted(most=2)
        monkeypatch.setattr(jobs.vbench, "hand_out", judging)
        if attempt < 2:
            with pytest.raises(KeyboardInterrupt):
                _run(stages, tmp_path / str(attempt))
            (tmp_path / str(attempt + 1)).mkdir()
            (tmp_path / str(attempt) / "work").rename(tmp_path / str(attempt + 1) / "work")
        else:
            _, last, _ = _run(stages, tmp_path / str(attempt))
        made += judging.made
    assert len(made) == len({task.name for task in made}) == 6
    assert len(generated.made) == 2
    assert last.digest == whole.digest


def test_system_prompts_start_from_the_same_noises_and_one_is_chosen(
    stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noises = {}
    for source in ("red", "circle"):
        generated = Counted()
        monkeypatch.setattr(clips, "hand_out", generated)
        _run(stages, tmp_path / source, source=source)
        noises[source] = {request.file: request.noise for batch in generated.made for request in batch.requests}
    assert noises["red"] == noises["circle"]
    assert len(set(noises["red"].values())) == 6
    inputs = {f"evaluate@{source}": tmp_path / source / "out" for source in ("red", "circle")}
    rule = ChooseConfig(score={SUBJECT: 1.0, FLICKER: 0.5}, resamples=200)
    context, result, _ = run_evaluation(stages, tmp_path / "choose", rule, **inputs)
    selection = json.loads((context.out / "selection.json").read_text())
    assert selection["chosen"] in ("red", "circle")
    assert (selection["prompts"], selection["samples"]) == (3, 2)
    assert set(selection["standardised"]) == {SUBJECT, FLICKER}
    assert result.counts["ok"] == 2
    measured = json.loads((tmp_path / "red" / "out" / "metrics.json").read_text())["metrics"]
    [red] = [row for row in selection["table"] if row["source"] == "red"]
    assert red["metrics"][SUBJECT]["value"] == pytest.approx(measured[SUBJECT]["value"])
    with pytest.raises(ValueError, match=r"evaluate@circle has no vbench_native/total.*without 14 dimensions"):
        run_evaluation(stages, tmp_path / "total", ChooseConfig(score={"vbench_native/total": 1}), **inputs)


def test_final_pairs_before_and_after(stages: Path, tmp_path: Path) -> None:
    (tmp_path / "selection").mkdir()
    (tmp_path / "selection" / "selection.json").write_text(json.dumps({"chosen": "circle", "sources": ["circle"]}))
    inputs = {"before": stages / "train", "after": stages / "finetune", "selection": tmp_path / "selection"}
    given: dict[str, Any] = {"weights": {"vbench.dino": str(stages / "dino")}, "files": _files(stages)}
    config = EvaluateFinalConfig(suite=NATIVE, **SMALL)
    context, result, _ = run_evaluation(stages, tmp_path / "final", config, **given, **inputs)
    found = _metrics(context)
    for name, change in found["difference"].items():
        assert change["value"] == pytest.approx(found["after"][name]["value"] - found["before"][name]["value"])
    assert set(found["difference"]) == {FLICKER, SUBJECT}
    assert [one.name for one in result.evaluations] == ["circle | before | train@2", "circle | after | finetune"]
    assert {row["model"] for row in pq.read_table(context.out / "data").to_pylist()} == {"before", "after"}
    for model in ("before", "after"):
        assert (context.out / model / "vbench.html").is_file()
        assert len(list((context.out / "videos" / model).iterdir())) == 6


def test_the_official_code_judges_what_has_no_judge_here(
    stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = SHARED / "golden_vbench" / "fake_interpreter"
    if not fake.is_dir():
        pytest.skip(f"no golden fixtures at {fake}")
    monkeypatch.setenv("PYTHONPATH", str(fake))
    suite = VBenchSuite(dimensions=("imaging_quality", "temporal_flickering"))
    files = {**_files(stages), "vbench_python": Path(sys.executable)}
    monkeypatch.setenv("VBENCH_FAKE_FAIL", "imaging_quality")
    with pytest.raises(OfficialError, match="fake failure in imaging_quality"):
        _run(stages, tmp_path / "failed", suite, weights={}, files=files)
    monkeypatch.delenv("VBENCH_FAKE_FAIL")
    (tmp_path / "again").mkdir()
    (tmp_path / "failed" / "work").rename(tmp_path / "again" / "work")
    judged = Counted()
    monkeypatch.setattr(jobs.vbench, "hand_out", judged)
    context, result, _ = _run(stages, tmp_path / "again", suite, weights={}, files=files)
    assert judged.made == []
    found = _metrics(context)
    assert set(found["metrics"]) == {FLICKER, "vbench/imaging_quality"}
    [evaluation] = result.evaluations
    assert evaluation.params["vbench.imaging_quality.by"] == "official"
    assert {"vbench.official.torch", "vbench.official.torchvision"} <= set(evaluation.params)
    rows = pq.read_table(context.out / "data").to_pylist()
    assert sum(row["vbench/imaging_quality"] is not None for row in rows) == 4


def test_a_clip_that_cannot_be_judged_leaves_a_gap_that_the_choice_names(
    stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lumina.vbench.judges import Judges, Verdict

    judge = Judges.judge

    def fails(self: Judges, dimension: str, *given: Any) -> Verdict:
        if (dimension, given[-1]) == ("subject_consistency", "a dog-1.mp4"):
            return Verdict(None, "the score is not a number")
        return judge(self, dimension, *given)

    monkeypatch.setattr(Judges, "judge", fails)
    context, result, _ = _run(stages, tmp_path / "red")
    found = _metrics(context)
    reason = "1 of 4 clips cannot be scored; a dog-1.mp4: the score is not a number"
    assert set(found["metrics"]) == {FLICKER}
    assert found["gaps"]["subject_consistency"] == reason
    assert result.evaluations[0].params["vbench.subject_consistency.gap"] == reason
    with pytest.raises(ValueError, match=f"evaluate@red has no {SUBJECT}, which the score needs: {reason}"):
        run_evaluation(
            stages, tmp_path / "choose", ChooseConfig(score={SUBJECT: 1}), **{"evaluate@red": tmp_path / "red" / "out"}
        )


def _rows(name: str, scores: dict[tuple[str, int], ClipScore]) -> list[dict[str, Any]]:
    return [
        {"prompt": prompt, "sample": sample, "stratum": "", name: score.total, f"{name}_count": score.count}
        for (prompt, sample), score in scores.items()
    ]


def test_the_choice_keeps_each_dimensions_reducer_in_every_resample() -> None:
    rng = np.random.default_rng(0)
    name = "vbench/color"
    scores = {
        source: {(f"p{p}", s): ClipScore(float(rng.random() < rate), int(p % 3 > 0)) for p in range(30) for s in (0, 1)}
        for source, rate in (("good", 0.9), ("bad", 0.1))
    }
    for one in scores.values():
        one |= {place: ClipScore(0.0, 0) for place, score in one.items() if not score.count}
    judged = {source: read_clip_rows(_rows(name, one), [name]) for source, one in scores.items()}
    selection = select_judged(judged, ChooseConfig(score={name: 1.0}, resamples=500))
    good = list(scores["good"].values())
    value = sum(score.total for score in good) / sum(score.count for score in good)
    assert (selection.chosen, selection.best_set) == ("good", ("good",))
    assert selection.table[0].metrics[name]["value"] == pytest.approx(value)
    assert selection.table[1].below_best is not None
    same = select_judged({"a": judged["good"], "b": judged["good"]}, ChooseConfig(score={name: 1.0}, resamples=200))
    assert same.best_set == ("a", "b")
    assert same.table[1].below_best is not None
    assert same.table[1].below_best["value"] == 0
    fewer = read_clip_rows(_rows(name, dict(list(scores["bad"].items())[:-1])), [name])
    with pytest.raises(ValueError, match="different prompts"):
        select_judged({"a": judged["good"], "b": fewer}, ChooseConfig(score={name: 1.0}))


def test_mistakes_are_found_before_any_work() -> None:
    for wrong, message in (
        ({"suite": {"kind": "vbench", "dimensions": ["dynamic_degre"]}}, "did you mean 'dynamic_degree'"),
        ({"suite": {"kind": "vbench", "official": ["colour"]}}, "did you mean 'color'"),
        ({"suite": NATIVE, "metrics": ("offline/constant_rate",)}, "suite.dimensions are judged"),
        ({"suite": NATIVE, "samples": 6}, "5 clips of a prompt at most"),
        ({"suite": VBenchSuite(dimensions=("dynamic_degree",)), "width": 112}, "needs sides of 128 pixels"),
        (
            {"suite": VBenchSuite(weights=VBenchWeights(raft="raft.pth"), dimensions=("temporal_flickering",))},
            "temporal_flickering needs sides of 128",
        ),
        (
            {"suite": VBenchSuite(dimensions=("dynamic_degree",)), "width": 128, "height": 128, "fps": 60.0},
            "dynamic_degree needs three frames at 8 a second; 16 frames at 60 fps have 2",
        ),
    ):
        with pytest.raises(ValidationError, match=message):
            EvaluationConfig.model_validate(wrong)
    for score, message in (
        ({"vbench/colour": 1.0}, "unknown metric 'vbench/colour'"),
        ({"vbench/color": 1.0, "offline/constant_rate": -1.0}, "others of the score are of another suite"),
        ({"vbench/total": 1.0, "vbench/color": 1.0}, "vbench/total is a total of dimensions"),
    ):
        with pytest.raises(ValidationError, match=message):
            ChooseConfig(score=score)
