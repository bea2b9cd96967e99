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
        assert (ours.motion, ours.negative_motion) == (schedule(values["motion"]), schedule(values["negMotion"]))
    with pytest.raises(ValueError, match="f16F64R512-MultiScale"):
        sampler_config("fast")


def test_settings_need_no_torch() -> None:
    code = "import sys, lumina.flow_matching.schedules, jobs.export; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
