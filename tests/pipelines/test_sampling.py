"""Clips while training, at plan time: no part of any stage's identity, and what cannot be made is told."""

from __future__ import annotations

import pytest

from jobs.context import JobContext
from lumina.training.sample_config import SamplePlan
from pipelines.config import load_config
from pipelines.engine.fingerprint import Identifier
from pipelines.engine.stage import Stage
from pipelines.errors import PipelineError
from pipelines.text_to_video import build

NONE = "train.2.sample=null"


def _stages(*overrides: str) -> dict[str, Stage]:
    return dict(build(load_config("demo", overrides)).by_name)


def _plan(stage: Stage) -> SamplePlan:
    assert isinstance(stage.execution.aside, SamplePlan)
    return stage.execution.aside


def test_samples_are_no_part_of_a_fingerprint() -> None:
    identifier = Identifier()
    digests = {f"encode_latents@{name}": "" for name in ("images", "videos")} | {"encode_text": "", "train@1": ""}
    with_clips, without = (_stages(*changes)["train@2"] for changes in ((), (NONE,)))
    assert _plan(with_clips).every == 800
    assert without.execution.aside is None
    recipes = [identifier.identify(stage, digests) for stage in (with_clips, without)]
    assert recipes[0].fingerprint == recipes[1].fingerprint
    assert "sample" not in recipes[0].recipe["config"]
    # Nor is the code that makes them.
    assert not [name for name in recipes[0].recipe["code"] if name.endswith(("samples", "sample_config"))]
    assert "aside" in JobContext.__dataclass_fields__


def test_a_stage_samples_as_its_model_will_be_judged() -> None:
    sample = "{every: 50, prompts: [A red circle moves to the right.], seeds: [0, 3]}"
    stages = _stages(f"train.1.sample={sample}", f"train.3.sample={sample}", f"finetune.sample={sample}")
    for name in ("train@3", "finetune"):
        plan = _plan(stages[name])
        assert list(plan.system_prompts) == ["handheld", "synthetic", "web"]
        assert plan.system_prompts["web"].startswith("You generate low-quality web videos.")
        assert (plan.num_frames, plan.width, plan.fps) == (16, 64, 8)
        assert [patch for _, patch in plan.sampler.patches] == [(2, 2, 2), (1, 2, 2)]
        assert [len(batch) for batch in plan.batches()] == [1] * 6
        # Without a known truth no accuracy.
        assert not any(metric.startswith("shapes/") for metric in plan.metrics())
    # No video has been trained on yet: one picture.
    assert _plan(stages["train@1"]).num_frames == 1
    assert _plan(stages["train@1"]).metrics() == ()
    assert "shapes/shape_acc" in _plan(stages["train@2"]).metrics()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.2.sample.sources=[web, phone]",
            r"train\.2\.sample\.sources names phone; the sources are handheld, synth",
        ),
        ("train.2.sample.sources=[]", "name at least one, and each once; got none"),
        ("train.2.sample.seeds=[1, 1]", "name at least one, and each once; got 1, 1"),
        ("train.2.sample.every=5000", r"sample\.every 5000 must be at most steps 3200"),
        ("train.2.sample.every=0", "greater than or equal to 1"),
        ("train.2.sample.prompts=[]", "there are no prompts: write some"),
        ("train.2.sample.prompts=['a', ' ']", "a prompt is empty"),
        ("train.2.sample.prompts=['a', 'a']", "prompts must be distinct"),
        ("train.2.sample.sampler=null", r"uses \(2, 2, 2\), which is not trained yet then; trained are \(1, 2, 2\)"),
        ("train.2.sample.sound=true", "sound"),
        ("train.3.sample={every: 10, sampler: {patches: [[0, [2, 4, 4]]]}, num_frames: 3}", "num_frames"),
    ],
)
def test_what_cannot_be_made_is_told_before_anything_runs(override: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        _stages(override)
