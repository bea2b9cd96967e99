"""A study stage: paired arms, the same digest again, batches that are there taken as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from jobs import clips, study
from jobs.clips import ClipWorker
from jobs.context import InputRef, JobContext, JobResult
from jobs.runtime import RuntimeConfig
from jobs.study import StudyStageConfig
from lumina.evaluation.prompts import ShapesSuite
from lumina.evaluation.study import read_study
from lumina.flow_matching.schedules import SamplerConfig
from lumina.vbench.suite_config import VBenchSuite
from tests.jobs.evaluated import make_stages
from tests.jobs.here import PoolHere

BASE = SamplerConfig(steps=2, time_shift=2.0, guidance=((0.0, 1.0),))
ARMS = {
    "fine": BASE,
    "8/2-8": BASE.model_copy(update={"patches": ((0.0, (2, 2, 2)),)}),
}
SMALL: dict[str, Any] = {
    "suite": ShapesSuite(count=3),
    "sampler": BASE,
    "num_frames": 8,
    "height": 32,
    "width": 32,
    "samples": 1,
    "batch_size": 2,
    "resamples": 200,
    "metrics": ("shapes/colour_acc", "offline/temporal_flicker"),
    "study": "schedules",
    "arms": ARMS,
    "reference": "fine",
    "score": {"offline/temporal_flicker": 1.0},
}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_stages(tmp_path_factory.mktemp("stages"))
    (root / "choose").mkdir()
    (root / "choose" / "selection.json").write_text(json.dumps({"chosen": "circle", "sources": ["circle"]}))
    return root


def _run(stages: Path, out: Path) -> tuple[JobContext, JobResult]:
    (out / "out").mkdir(parents=True)
    folders = {"checkpoint": stages / "finetune", "tag": stages / "tag", "selection": stages / "choose"}
    context = JobContext(
        stage="study@schedules",
        fingerprint="f" * 64,
        operator="",
        config=StudyStageConfig(**SMALL),
        runtime=RuntimeConfig(),
        inputs={key: InputRef("finetune" if key == "checkpoint" else key, path, "") for key, path in folders.items()},
        weights={"vae": str(stages / "vae"), "text_encoder": str(stages / "text")},
        media_root="",
        out=out / "out",
        work=out / "work",
        progress=lambda done, total, unit: None,
        log_metrics=lambda metrics, step: None,
    )
    return context, study.run(context)


def test_arms_are_paired_and_a_stopped_study_goes_on_to_the_same_digest(
    stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "hand_out", PoolHere())
    context, result = _run(stages, tmp_path / "one")
    rows = pq.read_table(context.out / "data").to_pylist()
    assert result.counts == {"in": 6, "ok": 6}
    assert [row["arm"] for row in rows] == ["fine"] * 3 + ["8/2-8"] * 3
    assert [row["prompt_id"] for row in rows[:3]] == [row["prompt_id"] for row in rows[3:]]
    assert len({row["frames_sha256"] for row in rows}) == 6
    assert all((context.out / row["video"]).is_file() for row in rows)
    content = read_study(context.out)
    assert (content["system_prompt"], content["reference"]) == ("circle", "fine")
    fine, coarse = (content["arms"][name] for name in content["order"])
    assert (fine["cost"]["relative"], fine["cost"]["evaluations"]) == (1, {"1x2x2": 4})
    assert coarse["cost"]["relative"] < 1
    assert coarse["seconds_per_clip"] > 0
    assert set(coarse["difference"]) == {"score", *SMALL["metrics"]}
    first, second = result.evaluations
    assert first.name == "schedules: fine | finetune"
    assert second.params["sampler.patches"] == "[[0.0, [2, 2, 2]]]"
    assert second.metrics["cost/relative"] == coarse["cost"]["relative"]
    assert "interval/score_low" in second.metrics
    # A kill after the first batch leaves it: only the others are made.
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "work" / "00-fine" / "batch-00001" / "rows.json").unlink()
    (tmp_path / "one" / "work").rename(tmp_path / "two" / "work")
    made, make = [], ClipWorker.make
    monkeypatch.setattr(ClipWorker, "make", lambda self, batch: (made.append(batch), make(self, batch)))
    again, second_result = _run(stages, tmp_path / "two")
    assert len(made) == 1
    assert second_result.digest == result.digest
    assert (again.out / "study.json").read_bytes() == (context.out / "study.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reference": "other"}, "reference is 'other'; the arms are fine, 8/2-8"),
        ({"suite": VBenchSuite(), "metrics": None}, "give it a suite of its own|a study has prompts"),
        ({"score": {"shapes/shape_acc": 1.0}}, "which is not measured"),
        ({"height": 48, "arms": {**ARMS, "c": BASE.model_copy(update={"patches": ((0.0, (2, 4, 4)),)})}}, "arm 'c'"),
    ],
)
def test_what_cannot_be_studied_is_said_before_anything_runs(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        StudyStageConfig(**SMALL | change)
