"""Toy jobs whose outputs are rows and weights, as those of the real stages."""

from __future__ import annotations

from dataclasses import replace

from curation.digest import row_digest
from curation.operator import Layout
from curation.schema import INGEST, to_table
from jobs.context import JobContext, JobResult
from jobs.parts import PartWriter, link_parts
from jobs.row_index import write_row_index
from jobs.shards import read_table
from pipelines.engine.stage import Pipeline, Stage
from tests.pipelines.toy import stage


def rows(ctx: JobContext) -> JobResult:
    """Twelve rows in two files, each with the config's text."""
    table = to_table(
        [{"clip_id": f"c{number}", "uri": f"{ctx.config.text * 20}-{number}", "status": "ok"} for number in range(12)],
        INGEST,
    )
    (ctx.out / "data").mkdir()
    layout = Layout(row_group_size=3, compression="none", use_dictionary=False)
    writer = PartWriter(ctx.work, layout)
    parts = [writer.write(table.slice(start, 6), batches=[start]) for start in (0, 6)]
    link_parts(parts, ctx.work, ctx.out / "data")
    write_row_index(ctx.out, [read_table(part.index_path(ctx.work)) for part in parts])
    return JobResult("rows", str(row_digest(table)), {"in": 12, "ok": 12})


def checkpoint(ctx: JobContext) -> JobResult:
    """A small transformer."""
    from lumina.checkpoints import digest, save_weights
    from tests.lumina.tiny import TINY, dit_without_zeros

    weights = dit_without_zeros(0.1).state_dict()
    save_weights(TINY, weights, ctx.out / "transformer")
    return JobResult("checkpoint", digest({"raw": weights}), weights={"raw": "transformer"})


def _stage(name: str, *inputs: str) -> Stage:
    return replace(stage(name, inputs=inputs), entry=f"tests.pipelines.toy_outputs:{name}")


def line(weights: bool = False) -> Pipeline:
    """a (files) -> rows -> constant (files), and with `weights` -> checkpoint."""
    stages = (stage("a"), _stage("rows", "a"), stage("end", "constant", ("rows",)))
    return Pipeline("line", (*stages, _stage("checkpoint", "end")) if weights else stages)
