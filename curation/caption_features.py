"""Encode captions: CLIP's features of every caption, for the video-to-audio model, and of the text that is none.

Rows in: the kept clips' captions, each once, and the empty text, which stands for a dropped caption. Rows out: the
same, with features.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pyarrow as pa
import pyarrow.compute as pc

from curation.operator import Env, Input, Operator, Report, RowsFunction
from curation.schema import CAPTION_FEATURES, status_ok, to_table
from curation.sound_clips import LAYOUT, Row
from curation.tensors import pack
from lumina.config import Config
from lumina.precision import Precision, precision_on
from lumina.system_prompts import text_id
from lumina.training.data.index import CAPTIONS, write_index

if TYPE_CHECKING:
    import pyarrow.dataset as ds


class EncodeCaptionsConfig(Config):
    """How captions are encoded: one by one, there are far fewer than clips."""

    dtype: Precision = "auto"
    """Type in which features are stored; `auto` is bfloat16 on GPUs and float32 on CPUs."""
    compute_dtype: Precision = "auto"
    """Type in which CLIP runs; `auto` is bfloat16 on GPUs and float32 on CPUs."""

    def on(self, device: str) -> Self:
        """The same for a device ("cpu", "cuda"), with nothing left to it."""
        names = ("dtype", "compute_dtype")
        return self.model_copy(update={name: precision_on(device, getattr(self, name)) for name in names})


def _plan(inputs: Mapping[str, Input], _config: EncodeCaptionsConfig, _env: Env) -> pa.Table:
    selected = inputs["select"].rows(["caption", "keep", "media"])
    kept = selected.filter(pc.field("keep") & (pc.field("media") == "video"))
    texts = {"", *pc.unique(kept["caption"]).to_pylist()}
    return to_table(
        ({"text_id": text_id(text), "text": text, **status_ok()} for text in sorted(texts)), CAPTION_FEATURES
    )


def _gather(captions: pa.Table, _config: EncodeCaptionsConfig, _env: Env) -> pa.Table:
    """Each caption once."""
    rows = captions.sort_by("text_id")
    ids = rows["text_id"].to_pylist()
    return rows.filter(pa.array([name != before for before, name in pairwise([None, *ids])], pa.bool_()))


def _make(config: EncodeCaptionsConfig, env: Env) -> RowsFunction:
    import torch

    from lumina.video_to_audio.networks.clip import load_clip_features

    # One thread: sums in a fixed order, so the features do not depend on the machine's cores.
    torch.set_num_threads(1)
    stored, computed = (precision_on(env.device, one) for one in (config.dtype, config.compute_dtype))
    clip = load_clip_features(env.weights["clip"], env.device, getattr(torch, computed))

    def features(row: Row) -> Row:
        text = row["text"]
        # MMAudio's network reads all of the padding, too: of the text that is none it is kept.
        packed = pack(clip.text([text])[0] if text else clip.null_text(), stored)
        return row | {
            "feature_bytes": packed.data,
            "feature_shape": packed.shape,
            "feature_dtype": packed.dtype,
            "tokens": packed.shape[0],
            "tokens_cut": clip.tokens_cut(text),
        }

    return lambda table: to_table(map(features, table.to_pylist()), CAPTION_FEATURES)


def _report(rows: ds.Dataset, _config: EncodeCaptionsConfig, out: Path) -> Report:
    write_index(out, CAPTIONS)
    table = rows.to_table(["tokens", "tokens_cut"])
    cuts = table.filter(pc.field("tokens_cut") > 0)
    if not len(cuts):
        return Report({"captions_cut": 0.0})
    message = (
        f"{len(cuts):,} of {len(table) - 1:,} captions {'is' if len(cuts) == 1 else 'are'} longer than the "
        f"{pc.max(cuts['tokens']).as_py()} tokens that CLIP takes; what is over is cut off "
        f"({pc.max(cuts['tokens_cut']).as_py():,} tokens of the longest): shorten them, or set select.max_caption_chars"
    )
    return Report({"captions_cut": float(len(cuts))}, warnings=(message,))


ENCODE_CAPTIONS_OPERATOR = Operator(
    name="encode_captions",
    config=EncodeCaptionsConfig,
    schema=CAPTION_FEATURES,
    weights=("clip",),
    depends=("torch", "transformers"),
    tier="tolerance",
    inputs=("select",),
    plan=_plan,
    gather=_gather,
    map=_make,
    key="text_id",
    runs_network=lambda _config: True,
    report=_report,
    layout=lambda _config: LAYOUT,
)
"""Reads the input `select`; weights `clip`."""
