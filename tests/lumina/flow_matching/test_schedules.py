"""Schedules and sampler settings: threshold semantics, refusals, released presets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from lumina.flow_matching.schedules import PRESETS, SamplerConfig, sampler_config, value_at


def test_values_change_at_their_start() -> None:
    schedule = ((0.0, "a"), (0.03, "b"), (0.125, "c"))
    assert [value_at(schedule, t) for t in (0.0, 0.0299, 0.03, 0.1, 0.125, 1.0)] == ["a", "a", "b", "b", "c", "c"]
    assert value_at(schedule, float(np.float32(0.03))) == "a"


@pytest.mark.parametrize("starts", [[0.1], [0.0, 0.5, 0.5], [0.0, 0.6, 0.3], [0.0, 1.0], []])
def test_bad_schedules_are_refused(starts: list[float]) -> None:
    with pytest.raises(ValidationError):
        SamplerConfig(guidance=[(start, 1.0) for start in starts])


def test_presets_are_the_released_ones(golden: Path) -> None:
    patches = {"1x2": (1, 2, 2), "2x2": (2, 2, 2), "2x4": (2, 4, 4)}

    def schedule(value: Any) -> tuple[tuple[float, Any], ...]:
        first, *rest = value if isinstance(value, list) else [value]
        return ((0.0, patches.get(first, first)), *((start, patches.get(later, later)) for start, later in rest))

    released = json.loads((golden / "C_sample_configs.json").read_text())["presets"]
    assert set(released) == set(PRESETS)
    for name, values in released.items():
        ours = sampler_config(name)
        assert (ours.steps, ours.time_shift) == (values["step"] - 1, values["ts"])
        assert (ours.norm_cap or -1) == values["renorm"]
        assert ours.patches == schedule(values["P"])
        assert ours.guidance == schedule(values["cfg"])
        assert ours.motion == schedule(values["motion"])
        # The released numbers are those of the released positive score; another one is followed.
        followed = tuple((start, ours.negative_score(start, 6.0)) for start, _ in ours.negative_motion)
        assert followed == schedule(values["negMotion"])
    with pytest.raises(ValueError, match="f16F64R512-MultiScale"):
        sampler_config("fast")


def test_negative_scores_may_follow_the_positive_ones() -> None:
    for config in (SamplerConfig(), *PRESETS.values()):
        # "2-[.05-X]" of the paper's Table 3, for any X.
        assert [config.negative_score(t, 4.0) for t in (0.0, 0.049, 0.05, 0.9)] == [2.0, 2.0, 4.0, 4.0]
    fixed = SamplerConfig(negative_motion=((0.0, 1.0), (0.5, 3.0)))
    assert [fixed.negative_score(t, 4.0) for t in (0.0, 0.5)] == [1.0, 3.0]
    assert SamplerConfig.model_validate_json(SamplerConfig().model_dump_json()) == SamplerConfig()
    with pytest.raises(ValidationError, match="negative_motion"):
        SamplerConfig.model_validate({"negative_motion": ((0.0, "negative"),)})
    with pytest.raises(ValidationError, match="motion"):
        SamplerConfig.model_validate({"motion": ((0.0, "positive"),)})


def test_an_image_has_the_scale_of_images() -> None:
    for config in (SamplerConfig(), *PRESETS.values()):
        assert config.patches_of(1) == ((0.0, (1, 2, 2)),)
        assert config.patches_of(2) == config.patches_of(16) == config.patches


def test_settings_need_no_torch() -> None:
    code = "import sys, lumina.flow_matching.schedules, jobs.export; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
