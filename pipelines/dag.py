"""The DAG of a config, whichever model it trains."""

from __future__ import annotations

from pipelines.base_config import BaseConfig
from pipelines.config import PipelineConfig
from pipelines.engine.stage import Pipeline
from pipelines.sound_config import SoundPipelineConfig


def build(config: BaseConfig) -> Pipeline:
    """Declare every stage of a run; PipelineError for what cannot run."""
    if isinstance(config, SoundPipelineConfig):
        from pipelines.video_to_audio import build as video_to_audio

        return video_to_audio(config)
    if isinstance(config, PipelineConfig):
        from pipelines.text_to_video import build as text_to_video

        return text_to_video(config)
    raise TypeError(f"no DAG is known for a {type(config).__name__}")
