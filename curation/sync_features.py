"""Encode sync: Synchformer's features of each clip at 25 frames per second, which tell when things move.

Rows in: all selected clips. Rows out: the same, with features [8 per segment, D]; segments have 16 frames and begin 8
apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from pydantic import Field

from curation.media_features import Eye, encode_frames, plan_features, report_features
from curation.operator import Env, Input, Operator, RowsFunction
from curation.schema import MEDIA_FEATURES
from curation.sound_clips import LAYOUT, ClipConfig
from lumina.video_to_audio.lengths import SYNC_FPS


class EncodeSyncConfig(ClipConfig):
    """How Synchformer looks at clips."""

    batch: int = Field(default=4, ge=1)
    """Segments of a clip that it looks at together."""

    @property
    def recipe_id(self) -> str:
        """Name of the recipe, with a digest of what decides the features."""
        return self.recipe("synchformer-25fps/1", "batch")


def _plan(inputs: Mapping[str, Input], config: EncodeSyncConfig, env: Env) -> pa.Table:
    return plan_features(inputs, ENCODE_SYNC_OPERATOR.name, config, config.on(env.device).recipe_id)


def _make(config: EncodeSyncConfig, env: Env) -> RowsFunction:
    import torch

    from lumina.video_to_audio.networks.synchformer import load_synchformer

    # One thread: sums in a fixed order, so the features do not depend on the machine's cores.
    torch.set_num_threads(1)
    compute = getattr(torch, config.types_on(env.device)[1])
    network = load_synchformer(env.weights["synchformer"], device=env.device, dtype=compute)
    eye = Eye(
        SYNC_FPS,
        lambda found: found.sync_frames,
        "middle",
        network.model.config.image_size,
        lambda frames: network.features(frames, config.batch),
    )
    return encode_frames(ENCODE_SYNC_OPERATOR.name, config, env, eye)


ENCODE_SYNC_OPERATOR = Operator(
    name="encode_sync",
    config=EncodeSyncConfig,
    schema=MEDIA_FEATURES,
    reads_media=True,
    weights=("synchformer",),
    depends=("torch",),
    tier="tolerance",
    inputs=("select",),
    plan=_plan,
    map=_make,
    passthrough_columns=("uri",),
    runs_network=lambda _config: True,
    report=report_features,
    layout=lambda _config: LAYOUT,
)
"""Reads the input `select`; weights `synchformer`."""
