"""Encode visual: CLIP's features of each clip at 8 frames per second, for the video-to-audio model.

Rows in: all selected clips. Rows out: the same, with features [frames, D] of length 1 each.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from pydantic import Field

from curation.media_features import Eye, encode_frames, plan_features, report_features
from curation.operator import Env, Input, Operator, RowsFunction
from curation.schema import MEDIA_FEATURES
from curation.sound_clips import LAYOUT, ClipConfig
from lumina.video_to_audio.lengths import VISUAL_FPS


class EncodeVisualConfig(ClipConfig):
    """How CLIP looks at clips."""

    batch: int = Field(default=16, ge=1)
    """Frames of a clip that it looks at together."""

    @property
    def recipe_id(self) -> str:
        """Name of the recipe, with a digest of what decides the features."""
        return self.recipe("clip-8fps/1", "batch")


def _plan(inputs: Mapping[str, Input], config: EncodeVisualConfig, env: Env) -> pa.Table:
    return plan_features(inputs, ENCODE_VISUAL_OPERATOR.name, config, config.on(env.device).recipe_id)


def _make(config: EncodeVisualConfig, env: Env) -> RowsFunction:
    import torch

    from lumina.video_to_audio.networks.clip import load_clip_features

    # One thread: sums in a fixed order, so the features do not depend on the machine's cores.
    torch.set_num_threads(1)
    compute = getattr(torch, config.types_on(env.device)[1])
    clip = load_clip_features(env.weights["clip"], env.device, compute)
    eye = Eye(
        VISUAL_FPS,
        lambda found: found.visual_frames,
        "squashed",
        clip.side,
        lambda frames: clip.visual(frames, config.batch),
    )
    return encode_frames(ENCODE_VISUAL_OPERATOR.name, config, env, eye)


ENCODE_VISUAL_OPERATOR = Operator(
    name="encode_visual",
    config=EncodeVisualConfig,
    schema=MEDIA_FEATURES,
    reads_media=True,
    weights=("clip",),
    depends=("torch", "transformers"),
    tier="tolerance",
    inputs=("select",),
    plan=_plan,
    map=_make,
    passthrough_columns=("uri",),
    runs_network=lambda _config: True,
    report=report_features,
    layout=lambda _config: LAYOUT,
)
"""Reads the input `select`; weights `clip`."""
