"""Parts of an evaluation that its suites share: whose clips, made how, and what MLflow is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina.precision import precision_on

if TYPE_CHECKING:
    import pyarrow as pa

    from jobs.clips import ClipJob
    from jobs.context import JobContext
    from jobs.evaluate import EvaluationConfig
    from lumina.system_prompts import SystemPrompt


def system_prompt_of(ctx: JobContext, source: str) -> SystemPrompt:
    """The system prompt of a source. ValueError if it has none."""
    from lumina.system_prompts import read_system_prompts

    known = read_system_prompts(ctx.inputs["tag"].path / "system_prompts.json")
    if source not in known:
        raise ValueError(f"{ctx.stage}: source {source!r} has no system prompt; there are {', '.join(known)}")
    return known[source]


def clip_job(ctx: JobContext, key: str, system_prompt: str, metrics: tuple[str, ...]) -> ClipJob:
    """How the checkpoint of input `key` makes clips."""
    from jobs.clips import ClipJob

    config: EvaluationConfig = ctx.config
    return ClipJob(
        checkpoint=str(ctx.inputs[key].path / "transformer_ema"),
        vae=ctx.weights["vae"],
        text_encoder=ctx.weights["text_encoder"],
        system_prompt=system_prompt,
        sampler=config.sampler,
        num_frames=config.num_frames,
        height=config.height,
        width=config.width,
        fps=config.fps,
        metrics=metrics,
        dtype=precision_on(ctx.runtime.device, config.dtype),
        tiling=config.tiling,
        use_gpu=ctx.runtime.use_gpu,
        attention=ctx.runtime.attention,
    )


def evaluation_params(config: EvaluationConfig, source: str, stage: str) -> dict[str, str | int | float]:
    """What an evaluation is of, for MLflow."""
    return {
        "system_prompt": source,
        "train_stage": stage,
        "seed": config.seed,
        "suite": config.suite.kind,
        "samples": config.samples,
        "size": f"{config.width}x{config.height}x{config.num_frames}",
        "fps": config.fps,
    }


def evaluation_metrics(found: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """Figures and the ends of their intervals, for MLflow."""
    metrics: dict[str, float] = {}
    for metric, ends in found.items():
        # A prefix of their own keeps the ends of the intervals out of the chart sections that people compare.
        named = {f"eval/{metric}": "value", f"interval/{metric}_low": "low", f"interval/{metric}_high": "high"}
        metrics |= {name: end for name, key in named.items() if (end := ends[key]) is not None}
    return metrics


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write what has one text: keys sorted, finite numbers."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_clip_rows(out: Path, table: pa.Table, key: str = "video") -> str:
    """Write the rows of all clips with their row index, in which `key` names them; returns their content digest."""
    import pyarrow.parquet as parquet

    from curation.digest import row_digest_and_hashes
    from jobs.row_index import index_rows, write_row_index

    (out / "data").mkdir()
    parquet.write_table(table, out / "data" / "clips.parquet")
    digest, hashes = row_digest_and_hashes(table)
    write_row_index(out, [index_rows("clips.parquet", table, hashes, key)])
    return str(digest)
