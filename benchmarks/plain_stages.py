"""Stages of a curation in this process, one after another: no Ray, no store, little memory, for a machine under load.

They are the stages that `lumina run` makes of a config, with their settings and their code; only what runs them is
other. What is done in a folder is done again only with other settings, or after such a stage.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from curation.operator import Env, Input, apply, dataset, load_operator
from curation.schema import conform
from jobs import curation_page
from jobs.context import InputRef, JobContext
from jobs.runtime import RuntimeConfig
from pipelines.engine.stage import Pipeline, Stage
from tests.curation.in_memory import planned

ROWS = 20
"""Rows that are computed before they are on the disk."""


def run(pipeline: Pipeline, root: Path) -> None:
    """Run all stages of a pipeline of curation, each in a folder of its name."""
    keys: dict[str, str] = {}
    for stage in pipeline.order:
        out, settings = root / stage.name, (stage.operator, stage.config.model_dump(mode="json"), dict(stage.inputs))
        text = json.dumps([settings, [keys[name] for name in stage.inputs.values()]], sort_keys=True)
        keys[stage.name] = key = hashlib.sha256(text.encode()).hexdigest()
        if (out / "key").exists() and (out / "key").read_text() != key:
            shutil.rmtree(out)
        if not (out / "done").exists():
            print(f"{stage.name} ...", flush=True)
            (out / "work").mkdir(parents=True, exist_ok=True)
            (out / "key").write_text(key)
            _make(stage, root, out)
            (out / "done").touch()


def _make(stage: Stage, root: Path, out: Path) -> None:
    media, aside = stage.execution.media_root, stage.execution.aside
    if not stage.operator:
        refs = {key: InputRef(name, root / name, "") for key, name in stage.inputs.items()}
        nothing = {"fingerprint": "", "operator": "", "runtime": RuntimeConfig(), "weights": {}, "media_root": media}
        told = {"progress": lambda *_: None, "log_metrics": lambda *_: None}
        page = JobContext(stage.name, config=stage.config, inputs=refs, out=out, work=out / "work", **nothing, **told)
        curation_page.run.function(page)
        return
    inputs = {key: Input(root / name) for key, name in stage.inputs.items()}
    inputs |= {key: Input(path) for key, path in {**stage.files, **stage.execution.locations}.items()}
    env = Env(media, work=str(out / "work"), aside=aside)
    operator = load_operator(stage.operator)
    rows = planned(operator, inputs, stage.config, env)
    if operator.map is not None:
        compute, parts = operator.map(stage.config, env), []
        for start in range(0, len(rows), ROWS):
            parts.append(out / "work" / f"{start:06}.parquet")
            if not parts[-1].exists():
                _write(apply(operator, compute, rows.slice(start, ROWS)), parts[-1])
        rows = pa.concat_tables(map(pq.read_table, parts))
    if operator.reduce is not None:
        found = None if operator.survey is None else operator.survey(ds.dataset(rows), inputs, stage.config)
        if operator.survey is None or found is not None:
            rows = operator.reduce(rows, stage.config, found)
    (out / "data").mkdir(exist_ok=True)
    _write(conform(rows, operator.schema), out / "data" / "part.parquet")
    operator.report(dataset(out / "data"), stage.config, out)


def _write(rows: pa.Table, path: Path) -> None:
    unfinished = path.with_suffix(".unfinished")
    pq.write_table(rows, unfinished)
    os.replace(unfinished, path)
