"""Checkpoints and system prompts in the registries: once each, where to find them, and who used them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Run

from pipelines.engine.store.store import Store
from pipelines.tracking.links import Links
from pipelines.tracking.mlflow_runs import EVALS, PIPELINES
from pipelines.tracking.registry import looks_like_a_template, prompt_name
from pipelines.tracking.uri import default_uri
from tests.pipelines.tracking.observed import WEB, runs, toy_training, track

MODEL = "lumina-video-toy"
OTHER = "You are {{x}}. <Prompt Start> "


RUNS = [("1", WEB, "old"), ("2", OTHER, "new"), ("3", WEB, "old"), ("2-late", OTHER, "new")]
"""Id, system prompt and weights; the records of an older run come late."""


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, database: Path) -> tuple[Path, MlflowClient, list[Links]]:
    root = tmp_path_factory.mktemp("registered")
    shutil.copy(database, root)
    found = [track(root, toy_training(text, weights), run_id=run_id)[1] for run_id, text, weights in RUNS]
    return root, MlflowClient(default_uri(Store(root))), found


Registered = tuple[Path, MlflowClient, list[Links]]


def test_a_checkpoint_is_registered_once_where_it_lies_and_the_alias_follows_the_newest_run(
    registered: Registered,
) -> None:
    root, client, links = registered
    # train@1 is not registered: the stage says so.
    versions = {one.tags["lumina.run"]: one for one in client.search_model_versions(f"name = '{MODEL}'")}
    assert {run: int(one.version) for run, one in versions.items()} == {"3": 1, "2-late": 2}
    version = versions["3"]
    assert int(client.get_model_version_by_alias(MODEL, "final").version) == 1
    record = json.loads(Path(version.tags["lumina.manifest"]).read_text())
    output = root / "stages" / "train@2" / record["fingerprint"][7:27] / record["attempt"]
    assert version.source == output.as_uri()
    assert version.tags["lumina.digest"] == record["digest"]
    assert version.tags["lumina.manifest"] == str(output.parent / "MANIFEST.json")
    assert client.get_run(version.run_id).data.tags["lumina.stage"] == "train@2"
    assert f"toy {output}" in version.description
    assert links[2].model_url.endswith(f"/#/models/{MODEL}/versions/1")


def test_a_system_prompt_gets_a_version_per_text_and_is_linked_to_its_runs(registered: Registered) -> None:
    _, client, _ = registered
    versions = {one.template: one for one in client.search_prompt_versions("system-prompt.web")}
    assert set(versions) == {WEB, OTHER}
    assert {prompt.name for prompt in client.search_prompts()} == {"system-prompt.clean", "system-prompt.web"}
    assert len(client.search_prompt_versions("system-prompt.clean")) == 1
    # Braces stay what they are.
    assert "literal text" in (versions[OTHER].commit_message or "")
    assert (versions[OTHER].tags["lumina.literal"], "lumina.literal" in versions[WEB].tags) == ("true", False)

    def linked(run: Run) -> dict[str, str]:
        found = json.loads(run.data.tags.get("mlflow.linkedPrompts", "[]"))
        return {entry["name"]: entry["version"] for entry in found}

    for found in runs(client, PIPELINES):
        if found.data.tags["lumina.kind"] in ("pipeline", "tag"):
            version = "2" if found.data.tags["lumina.run"].startswith("2") else "1"
            assert linked(found) == {"system-prompt.clean": "1", "system-prompt.web": version}
    assert {tuple(linked(evaluation)) for evaluation in runs(client, EVALS)} == {("system-prompt.web",)}
    # The page of a prompt lists what is in its experiments.
    experiment = client.get_experiment_by_name(EVALS)
    assert experiment is not None
    assert len(client.search_prompts(f"experiment_id = '{experiment.experiment_id}'")) == 2


def test_evaluations_say_what_was_trained_on_and_for_how_long(registered: Registered) -> None:
    _, client, _ = registered
    [evaluation, _] = runs(client, EVALS)
    wanted = {"system_prompt": "web", "train_stage": "train@2", "subset_rows": "7", "seed": "1"}
    assert evaluation.data.params == wanted
    assert evaluation.data.tags["system_prompt"] == "web"
    # The step counts both training stages, so that checkpoints of one run stand in their order.
    [point] = client.get_metric_history(evaluation.info.run_id, "eval/color_accuracy")
    assert (point.step, point.value) == (10, 0.5)
    uses = [(use.dataset.name, {tag.key: tag.value for tag in use.tags}) for use in evaluation.inputs.dataset_inputs]
    assert sorted((name, tags["mlflow.data.context"]) for name, tags in uses) == [
        ("evaluate", "output"), ("tag", "input"), ("train@2", "input")
    ]  # fmt: skip


@given(st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=6, unique=True))
def test_every_source_has_a_prompt_name_of_its_own_that_mlflow_takes(sources: list[str]) -> None:
    names = [prompt_name(source) for source in sources]
    assert len(set(names)) == len(sources)
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-]+", name) for name in names)


def test_only_what_mlflow_reads_as_a_template_counts_as_one() -> None:
    found = [looks_like_a_template(text) for text in ("{{ x.y }}", "{%x%}", "{x}", "{{1}}", "{{}} 100 %")]
    assert found == [True, True, False, False, False]


def test_a_damaged_output_stops_no_run(store: Store) -> None:
    [file] = (store.root / "stages" / "tag").glob("*/a-*/system_prompts.json")
    file.write_text(file.read_text().replace("web videos", "WEB videos"))
    notes: list[str] = []
    summary, links = track(store.root, toy_training(), notes=notes)
    assert summary.ok
    assert links.buffer is None
    [note] = notes
    assert "MLflow is not told all of tag" in note
    assert "does not match its sha256" in note
    assert {one.info.status for one in runs(MlflowClient(default_uri(store)), PIPELINES)} == {"FINISHED"}
