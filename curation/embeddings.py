"""Embeddings of clips by CLIP or SigLIP: one vector a clip, the mean of those of some of its frames.

Rows in: probed clips. Rows out: the same ids with an embedding. A clip that does not decode is quarantined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.decode import READ_COLUMNS, clip_times, frames_at
from curation.decoder import Decoder
from curation.operator import Env, Halves, Input, Operator, RowsFunction, map_rows
from curation.schema import STATUS_COLUMNS, Reason, RowError
from curation.semantic_config import EmbeddingsConfig
from curation.semantic_duplicates import whole_numbers

WEIGHTS = "duplicates.semantic.weights"

EMBEDDINGS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("embedding", pa.list_(pa.int16())),
        *((name, pa.string()) for name in STATUS_COLUMNS),
    ]
)
"""See `curation.semantic_duplicates.whole_numbers`."""


def _plan(inputs: Mapping[str, Input], _config: EmbeddingsConfig, _env: Env) -> pa.Table:
    return inputs["clips"].rows(["clip_id", *READ_COLUMNS, *STATUS_COLUMNS]).sort_by("clip_id")


def _make(config: EmbeddingsConfig, env: Env) -> RowsFunction:
    import torch

    from curation.score_networks import embedding

    # One thread: sums in a fixed order, so the embeddings do not depend on the machine's cores.
    torch.set_num_threads(1)
    decoder, embed = Decoder(env.limits), embedding(env.weights[WEIGHTS], env.device)

    def load(table: pa.Table) -> tuple[pa.Table, dict[str, NDArray[np.uint8]]]:
        seen: dict[str, NDArray[np.uint8]] = {}

        def look(row: dict[str, Any]) -> dict[str, Any]:
            seen[row["clip_id"]] = frames_at(decoder, row, env, _times(row, config)).pixels
            return {}

        return map_rows(table, table.schema, EMBEDDINGS_OPERATOR.name, look), seen

    def compute(loaded: tuple[pa.Table, dict[str, NDArray[np.uint8]]]) -> pa.Table:
        table, seen = loaded

        def measure(row: dict[str, Any]) -> dict[str, Any]:
            if row["clip_id"] not in seen:
                return {name: row[name] for name in STATUS_COLUMNS}
            try:
                return {"embedding": whole_numbers(embed(seen[row["clip_id"]]))}
            except ValueError as error:
                raise RowError(Reason.NOT_FINITE, str(error)) from error

        return map_rows(table, EMBEDDINGS, EMBEDDINGS_OPERATOR.name, measure)

    return Halves(load, compute)


def _times(row: Mapping[str, Any], config: EmbeddingsConfig) -> list[float]:
    if row["media"] == "image":
        return [0.0]
    part = min(row["duration_s"], config.window_s) / config.samples
    times = clip_times(row, [(place + 0.5) * part for place in range(config.samples)])
    if not times:
        raise RowError(Reason.TOO_FEW_FRAMES, f"{row['duration_s']:.6g} s: no frame to embed")
    return times


def _runs_network(_config: EmbeddingsConfig) -> bool:
    return True


EMBEDDINGS_OPERATOR = Operator(
    name="embeddings",
    config=EmbeddingsConfig,
    schema=EMBEDDINGS,
    reads_media=True,
    # Decoders of lossy codecs, and networks, round as the CPU's instructions do.
    tier="tolerance",
    inputs=("clips",),
    plan=_plan,
    map=_make,
    passthrough_columns=("uri",),
    runs_network=_runs_network,
    weights=(WEIGHTS,),
    depends=("torch", "transformers"),
)
"""Reads the input `clips`: the output of `probe`."""
