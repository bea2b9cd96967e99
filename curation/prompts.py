"""Encode text: features of every prompt that training reads.

Rows in: the kept clips' captions under their system prompts, without repetition, and each system prompt alone (the
dropped caption). Rows out: the same, with features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curation.operator import RANDOM_READ_BYTES, Env, Input, Layout, Operator, Report
from curation.schema import TEXT, status_ok, to_table
from curation.sources import SYSTEM_PROMPTS_FILE
from curation.tensors import pack
from lumina.config import Config
from lumina.precision import Precision, precision_on
from lumina.prompt_length import cut_message
from lumina.system_prompts import SystemPrompt, compose, read_system_prompts, text_id
from lumina.training.data.index import TEXTS, write_index

if TYPE_CHECKING:
    import pyarrow.dataset as ds

GPU_BATCH = 64
"""Prompts that a GPU reads together: 16,384 tokens at most, beside which the weights are read in no time."""


class EncodeTextConfig(Config):
    """How prompts are encoded."""

    dtype: Precision = "auto"
    """Type in which features are stored; `auto` is bfloat16 on GPUs, where training casts them to it in any case, and
    float32 on CPUs."""
    compute_dtype: Precision = "auto"
    """Type in which the text encoder runs; `auto` is bfloat16 on GPUs and float32 on CPUs."""

    batch_size: int | None = Field(default=None, ge=1)
    """Prompts that the text encoder reads together: of like length, the shorter ones padded at their ends. Last bits
    then depend on who a prompt is read with; alone (1) they do not. None is 64 on GPUs, and 1 on CPUs."""

    def on(self, device: str) -> Self:
        """The same for a device ("cpu", "cuda"), with nothing left to it."""
        return self.model_copy(
            update={
                "dtype": precision_on(device, self.dtype),
                "compute_dtype": precision_on(device, self.compute_dtype),
                "batch_size": self.batch_size or (GPU_BATCH if device.startswith("cuda") else 1),
            }
        )


def system_prompts_of(inputs: Mapping[str, Input]) -> dict[str, SystemPrompt]:
    """Source to system prompt, from the output of `tag`."""
    return read_system_prompts(inputs["tag"].path / SYSTEM_PROMPTS_FILE)


def _plan(inputs: Mapping[str, Input], _config: EncodeTextConfig, _env: Env) -> pa.Table:
    by_source = system_prompts_of(inputs)
    kept = inputs["select"].rows(["source", "caption", "keep"]).filter(pc.field("keep"))
    pairs = {(prompt.system_prompt_id, compose(prompt.text, "")) for prompt in by_source.values()}
    for source, caption in zip(kept["source"].to_pylist(), kept["caption"].to_pylist(), strict=True):
        prompt = by_source[source]
        pairs.add((prompt.system_prompt_id, compose(prompt.text, caption)))
    rows = ({"text_id": text_id(text), "system_prompt_id": name, "prompt": text} for name, text in sorted(pairs))
    return to_table((row | status_ok() for row in rows), TEXT)


def _gather(prompts: pa.Table, config: EncodeTextConfig, env: Env) -> pa.Table:
    """Each prompt once."""
    rows = prompts.sort_by("text_id")
    ids = rows["text_id"].to_pylist()
    rows = rows.filter(pa.array([name != before for before, name in pairwise([None, *ids])], pa.bool_()))
    if config.on(env.device).batch_size == 1:
        return rows
    # Neighbours are read together.
    lengths = rows.append_column("length", pc.utf8_length(rows["prompt"]))
    return lengths.sort_by([("length", "ascending"), ("text_id", "ascending")]).drop_columns(["length"])


def _make(config: EncodeTextConfig, env: Env) -> Callable[[pa.Table], pa.Table]:
    import torch

    from lumina.models.text_encoder import TextEncoder

    # One thread: sums in a fixed order, so the features do not depend on the machine's cores.
    torch.set_num_threads(1)
    device = env.device
    stored, computed, batch_size = (
        getattr(config.on(device), name) for name in ("dtype", "compute_dtype", "batch_size")
    )
    encoder = TextEncoder.from_pretrained(env.weights["text_encoder"], device, getattr(torch, computed))

    def encode(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        features = encoder.encode([row["prompt"] for row in rows], batch_size)
        packed = [pack(feature, stored) for feature in features]
        return to_table(
            (
                row
                | {
                    "text_feature_bytes": feature.data,
                    "text_feature_shape": feature.shape,
                    "text_feature_dtype": feature.dtype,
                    "tokens": feature.shape[0],
                    "tokens_cut": encoder.tokens_cut(row["prompt"]),
                }
                for row, feature in zip(rows, packed, strict=True)
            ),
            TEXT,
        )

    return encode


def _report(rows: ds.Dataset, _config: EncodeTextConfig, out: Path) -> Report:
    write_index(out, TEXTS)
    cuts = [cut for cut in rows.to_table(["tokens_cut"])["tokens_cut"].to_pylist() if cut is not None]
    message = cut_message(cuts, "shorten them, or set select.max_caption_chars")
    return Report({"prompts_cut": float(sum(cut > 0 for cut in cuts))}, warnings=(message,) if message else ())


ENCODE_TEXT_OPERATOR = Operator(
    name="encode_text",
    config=EncodeTextConfig,
    schema=TEXT,
    weights=("text_encoder",),
    depends=("torch", "transformers"),
    tier="tolerance",
    inputs=("select", "tag"),
    plan=_plan,
    gather=_gather,
    map=_make,
    rows_per_batch=lambda config: config.batch_size or 1,
    key="text_id",
    runs_network=lambda _config: True,
    report=_report,
    layout=lambda _config: Layout(
        row_group_size=16,
        row_group_bytes=RANDOM_READ_BYTES,
        compression="none",
        use_dictionary=False,
    ),
)
"""Reads the inputs `select` and `tag`; weights `text_encoder`."""
