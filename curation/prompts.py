"""Encode text: features of every prompt that training reads.

Rows in: the kept clips' captions under their system prompts, without repetition, and each system prompt alone (the
dropped caption). Rows out: the same, with features.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pyarrow as pa
import pyarrow.compute as pc

from curation.operator import RANDOM_READ_BYTES, Env, Input, Layout, Operator, Report, dataset
from curation.schema import TEXT, status_ok, to_table
from curation.sources import SYSTEM_PROMPTS_FILE
from curation.tensors import DType, pack
from lumina.config import Config
from lumina.precision import Precision, precision_on
from lumina.prompt_length import cut_message
from lumina.system_prompts import SystemPrompt, compose, read_system_prompts, text_id
from lumina.training.data.index import TEXTS, write_index

if TYPE_CHECKING:
    import pyarrow.dataset as ds

log = logging.getLogger(__name__)


class EncodeTextConfig(Config):
    """How prompts are encoded."""

    dtype: DType = "float32"
    """Type in which features are stored."""
    compute_dtype: Precision = "auto"
    """Type in which the text encoder runs; `auto` is bfloat16 on GPUs and float32 on CPUs."""

    def on(self, device: str) -> Self:
        """The same for a device ("cpu", "cuda"), with nothing left to it."""
        return self.model_copy(update={"compute_dtype": precision_on(device, self.compute_dtype)})


def system_prompts_of(inputs: Mapping[str, Input]) -> dict[str, SystemPrompt]:
    """Source to system prompt, from the output of `tag`."""
    return read_system_prompts(inputs["tag"].path / SYSTEM_PROMPTS_FILE)


def _plan(inputs: Mapping[str, Input], _config: EncodeTextConfig, _env: Env) -> pa.Table:
    by_source = system_prompts_of(inputs)
    columns = {"source": pc.field("source"), "caption": pc.field("caption")}
    kept = dataset(inputs["select"].path / "data").to_table(columns, filter=pc.field("keep"))
    pairs = {(prompt.system_prompt_id, compose(prompt.text, "")) for prompt in by_source.values()}
    for source, caption in zip(kept["source"].to_pylist(), kept["caption"].to_pylist(), strict=True):
        prompt = by_source[source]
        pairs.add((prompt.system_prompt_id, compose(prompt.text, caption)))
    rows = [{"text_id": text_id(text), "system_prompt_id": name, "prompt": text} for name, text in pairs]
    return to_table((row | status_ok() for row in sorted(rows, key=lambda row: row["text_id"])), TEXT)


def _make(config: EncodeTextConfig, env: Env) -> Callable[[pa.Table], pa.Table]:
    import torch

    from lumina.models.text_encoder import TextEncoder

    # One thread: sums in a fixed order, so the features do not depend on the machine's cores.
    torch.set_num_threads(1)
    dtype = getattr(torch, config.on(env.device).compute_dtype)
    encoder = TextEncoder.from_pretrained(env.weights["text_encoder"], env.device, dtype)

    def encode(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        features = encoder.encode([row["prompt"] for row in rows])
        packed = [pack(feature, config.dtype) for feature in features]
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
    if message:
        log.warning("encode_text: %s", message)
    return Report({"prompts_cut": float(sum(cut > 0 for cut in cuts))})


ENCODE_TEXT_OPERATOR = Operator(
    name="encode_text",
    config=EncodeTextConfig,
    schema=TEXT,
    inputs=("select", "tag"),
    plan=_plan,
    make=_make,
    key="text_id",
    runs_network=lambda _config: True,
    report=_report,
    layout=lambda _config: Layout(
        rows_per_file=256,
        row_group_size=16,
        row_group_bytes=RANDOM_READ_BYTES,
        compression="none",
        use_dictionary=False,
    ),
)
"""Reads the inputs `select` and `tag`; weights `text_encoder`."""
