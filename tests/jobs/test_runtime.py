from __future__ import annotations

import pytest
from pydantic import ValidationError

from curation.motion_scores import MotionConfig
from curation.shots import ShotsConfig
from jobs.evaluate import EvaluateConfig
from jobs.runtime import RuntimeConfig
from lumina.config import Config
from lumina.training.stage import TrainStageConfig


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e10, -1.0, 0.0])
@pytest.mark.parametrize("name", ["decode_timeout_s", "decode_memory_gb"])
def test_limits_of_decoding_have_bounds_on_both_sides(name: str, value: float) -> None:
    """Beyond them `setitimer` refuses and every decoder dies."""
    with pytest.raises(ValidationError, match=f"(?s){name}.*(finite number|less than or equal to|greater than 0)"):
        RuntimeConfig.model_validate({name: value})


def test_a_stage_takes_its_share_of_a_gpu() -> None:
    assert RuntimeConfig().gpus_of("motion") == 1
    assert RuntimeConfig(curation_gpus=0.25).gpus_of("encode_latents@small") == 0.25
    shares = RuntimeConfig(curation_gpus={"encode_latents": 0.5, "encode_latents@small": 0.125})
    found = [shares.gpus_of(stage) for stage in ("encode_latents@small", "encode_latents@large", "motion")]
    assert found == [0.125, 0.5, 1]


def test_kernels_of_gpus_need_gpus() -> None:
    with pytest.raises(
        ValidationError, match="attention fa3 is a kernel of GPUs: set use_gpu: true, or attention: auto"
    ):
        RuntimeConfig(attention="fa3")
    assert RuntimeConfig(attention="fa3", use_gpu=True).attention == "fa3"


def test_the_longest_limits_are_taken() -> None:
    assert RuntimeConfig(decode_timeout_s=86400, decode_memory_gb=1024, max_failed_share=1).max_failed_share == 1


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (RuntimeConfig, "peak_tflops"),
        (RuntimeConfig, "ray_start_s"),
        (RuntimeConfig, "max_failed_share"),
        (MotionConfig, "interval_s"),
        (MotionConfig, "window_s"),
        (ShotsConfig, "threshold"),
        (ShotsConfig, "min_shot_s"),
        (EvaluateConfig, "fps"),
        (TrainStageConfig, "lr"),
    ],
)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_no_setting_is_infinite_or_no_number(config: type[Config], name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=f"(?s){name}.*finite number"):
        config.model_validate({name: value})


@pytest.mark.parametrize(
    "name", ["num_cpus", "curation_workers", "train_workers", "threads_per_worker", "prefetch", "reading_threads"]
)
def test_counts_that_take_memory_or_processes_have_bounds(name: str) -> None:
    with pytest.raises(ValidationError, match="less than or equal to"):
        RuntimeConfig.model_validate({name: 10**9})
