"""The paper's run, rehearsed: every stage that `paper.yaml` declares, to the last, on tiny networks and rendered clips.

Workers are this process: what a rehearsal has to find is a structure that does not carry, and Ray would add minutes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import clips, curate, row_worker, train, vbench
from pipelines.config import load_config
from pipelines.engine.runner import run
from pipelines.engine.store.store import Store
from pipelines.execution import JobExecutor
from pipelines.reports.page.make import make_page
from pipelines.text_to_video import build
from tests.jobs.here import PoolHere
from tests.pipelines.paper_rehearsal import IMAGE_SOURCE, VIDEO_SOURCES, rehearsal, write_clips


def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def mapped(stage_run: Any, todo: Sequence[Any], _rows: int) -> None:
        mapper = row_worker.Mapper(stage_run.stage)
        for number, batches in curate._cut_tasks(todo, 1):
            mapper(pa.table({"shard": [number], "batches": [json.dumps(batches)]}))

    monkeypatch.setattr(curate._Run, "_map", mapped)
    monkeypatch.setattr(clips, "hand_out", PoolHere())
    monkeypatch.setattr(vbench, "hand_out", PoolHere())
    monkeypatch.setattr(train, "_fit", lambda ctx, spec: train._worker(spec))


def test_the_paper_s_run_goes_to_its_last_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _in_this_process(monkeypatch)
    config = rehearsal(write_clips(tmp_path / "clips", videos=4, images=6))
    paper = load_config("paper", needs_clips=False)
    for key, training in paper.training().items():
        small = config.training()[key]
        assert (small.latents, small.image_sources, small.precision) == (
            training.latents, training.image_sources, training.precision
        )  # fmt: skip
        assert [task.model_copy(update={"batch_size": 0}) for task in small.tasks] == [
            task.model_copy(update={"batch_size": 0}) for task in training.tasks
        ]
    pipeline, store = build(config), Store(tmp_path / "runs")
    summary = run(pipeline, store, JobExecutor(config.runtime), max_parallel=1)
    assert summary.ok, {name: one.error for name, one in summary.outcomes.items() if one.error}
    assert set(summary.outcomes) == {stage.name for stage in pipeline.stages}
    paths = {name: one.path for name, one in summary.outcomes.items() if one.path is not None}

    def read(stage: str, name: str) -> Mapping[str, Any]:
        content: Mapping[str, Any] = json.loads((paths[stage] / name).read_text())
        return content

    for after, variant in (("3.", "@3"), ("", "")):
        assert {name for name in paths if name.startswith("evaluate@") and name.count(".") == len(after) // 2} == {
            f"evaluate@{after}{source}" for source in VIDEO_SOURCES
        }
        selection = read(f"choose{variant}", "selection.json")
        assert selection["chosen"] in VIDEO_SOURCES
        assert set(selection["table"][0]["metrics"]) == set(config.choose.score)
        assert (selection["prompts"], selection["samples"]) == (2, 1)
        # Images are of the one source that has some, whatever was chosen.
        trained = summary.outcomes[f"finetune{variant}"].manifest
        assert trained is not None
        sources = {name.rpartition("/")[2] for name in trained.metrics if name.startswith("train/clips/")}
        assert sources == {IMAGE_SOURCE, *selection["sources"]}
        final = read(f"evaluate_final{variant}", "metrics.json")
        assert final["checkpoints"] == {"before": f"train@{after[:-1] or 4}", "after": f"finetune{variant}"}
        assert read(f"export{variant}", "lineage.json")["choice"]["chosen"] == selection["chosen"]
    rows = pq.read_table(paths["select"] / "data", columns=["source", "media", "split"]).to_pylist()
    assert {(row["source"], row["media"]) for row in rows} == {
        (IMAGE_SOURCE, "image"), *((source, "video") for source in VIDEO_SOURCES)
    }  # fmt: skip
    again = run(build(config), store, JobExecutor(config.runtime), max_parallel=1)
    assert {one.state for one in again.outcomes.values()} == {"cached"}
    page = make_page(store, store.get_run(again.run_id))
    assert page.count("vbench_native/temporal_flickering") >= 4
    assert "computed here: 2 clips of 2 prompts" in page
    assert "VBench judges all of its prompts" in page
