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

from pipelines.engine.store.store import Store
from pipelines.tracking.mlflow_writer import EVALS, PIPELINES
from pipelines.tracking.registry import looks_like_a_template, prompt_name
from pipelines.tracking.uri import default_uri
from tests.pipelines.tracking.observed import WEB, runs, toy_training, track

MODEL = "lumina-video-toy"


@pytest.fixture
def client(tmp_path: Path, database: Path) -> MlflowClient:
    shutil.copy(database, tmp_path)
    uri = default_uri(Store(tmp_path))
    return MlflowClient(uri, uri)


def test_a_checkpoint_is_registered_once_where_it_lies(tmp_path: Path, client: MlflowClient) -> None:
    for run_id in ("1", "2"):
        _, links = track(tmp_path, toy_training(), run_id=run_id)
    # train@1 is not registered: the stage says so.
    [version] = client.search_model_versions(f"name = '{MODEL}'")
    [manifest] = [json.loads(path.read_text()) for path in (tmp_path / "stages" / "train@2").glob("*/MANIFEST.json")]
    output = tmp_path / "stages" / "train@2" / manifest["fingerprint"][7:27] / manifest["attempt"]
    assert version.source == output.as_uri()
    assert version.tags["lumina.digest"] == manifest["digest"]
    assert version.tags["lumina.manifest"] == str(output.parent / "MANIFEST.json")
    assert client.get_run(version.run_id).data.tags["lumina.stage"] == "train@2"
    assert f"toy {output}" in version.description
    assert client.get_model_version_by_alias(MODEL, "final").version == version.version
    assert links.model_url.endswith(f"/#/models/{MODEL}/versions/1")


def test_the_alias_follows_the_newest_run_also_back(tmp_path: Path, client: MlflowClient) -> None:
    for run_id, weights in (("1", "old"), ("2", "new"), ("3", "old")):
        track(tmp_path, toy_training(weights=weights), run_id=run_id)
    assert len(client.search_model_versions(f"name = '{MODEL}'")) == 2
    assert int(client.get_model_version_by_alias(MODEL, "final").version) == 1
    # The records of an older run come late.
    track(tmp_path, toy_training(weights="new"), run_id="2-late")
    assert int(client.get_model_version_by_alias(MODEL, "final").version) == 1


def test_a_system_prompt_gets_a_version_per_text_and_is_linked_to_its_runs(
    tmp_path: Path, client: MlflowClient
) -> None:
    for run_id, text in (("1", WEB), ("2", "Another. <Prompt Start> "), ("3", WEB)):
        track(tmp_path, toy_training(prompt=text), run_id=run_id)
    versions = {one.template: one for one in client.search_prompt_versions("system-prompt.web")}
    assert set(versions) == {WEB, "Another. <Prompt Start> "}
    assert {prompt.name for prompt in client.search_prompts()} == {"system-prompt.clean", "system-prompt.web"}
    assert len(client.search_prompt_versions("system-prompt.clean")) == 1

    def linked(run: object) -> dict[str, str]:
        value = run.data.tags.get("mlflow.linkedPrompts", "[]")  # type: ignore[attr-defined]
        return {entry["name"]: entry["version"] for entry in json.loads(value)}

    for found in runs(client, PIPELINES):
        if found.data.tags["lumina.kind"] in ("pipeline", "tag"):
            version = "2" if found.data.tags["lumina.run"] == "2" else "1"
            assert linked(found) == {"system-prompt.clean": "1", "system-prompt.web": version}
    [evaluation, *_] = runs(client, EVALS)
    assert set(linked(evaluation)) == {"system-prompt.web"}
    # The page of a prompt lists what is in its experiments.
    experiment = client.get_experiment_by_name(EVALS)
    assert experiment is not None
    assert len(client.search_prompts(f"experiment_id = '{experiment.experiment_id}'")) == 2


@pytest.mark.parametrize("text", ["You are {{x}}. <Prompt Start> ", "{% if a %}b{% endif %} <Prompt Start> "])
def test_braces_stay_what_they_are_and_somebody_says_so(tmp_path: Path, client: MlflowClient, text: str) -> None:
    notes: list[str] = []
    track(tmp_path, toy_training(prompt=text), notes=notes)
    [version] = client.search_prompt_versions("system-prompt.web")
    assert version.template == text
    assert version.tags["lumina.literal"] == "true"
    assert "literal text" in (version.commit_message or "")
    assert [note for note in notes if "system prompt of web has braces" in note]
    [plain] = client.search_prompt_versions("system-prompt.clean")
    assert "lumina.literal" not in plain.tags


def test_evaluations_say_what_was_trained_on_and_for_how_long(tmp_path: Path, client: MlflowClient) -> None:
    track(tmp_path, toy_training())
    [evaluation] = runs(client, EVALS)
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


def test_a_damaged_output_stops_no_run(tmp_path: Path, client: MlflowClient) -> None:
    track(tmp_path, toy_training())
    [file] = (tmp_path / "stages" / "tag").glob("*/a-*/system_prompts.json")
    file.write_text(file.read_text().replace("web videos", "WEB videos"))
    notes: list[str] = []
    summary, links = track(tmp_path, toy_training(), notes=notes)
    assert summary.ok
    assert links.buffer is None
    [note] = notes
    assert "MLflow is not told all of tag" in note
    assert "does not match its sha256" in note
    assert {one.info.status for one in runs(client, PIPELINES)} == {"FINISHED"}
