"""The DAG of a config, whichever model it trains."""

from __future__ import annotations

from pipelines.config import PipelineConfig
from pipelines.engine.stage import Pipeline


def build(config: PipelineConfig) -> Pipeline:
    """Declare every stage of a run; PipelineError for what cannot run."""
    from pipelines.text_to_video import build as text_to_video

    return text_to_video(config)
