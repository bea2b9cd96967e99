"""What somebody deleted in MLflow, or a place for artifacts that nobody can write: told, kept, and written later."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.engine.store.store import Store
from pipelines.tracking.journal import waiting
from pipelines.tracking.mlflow_runs import EVALS, PIPELINES
from pipelines.tracking.tracker import MlflowTracking
from pipelines.tracking.uri import default_uri
from tests.pipelines.toy import stage
from tests.pipelines.tracking.observed import curve, runs, toy_training, track


def client_of(store: Store) -> MlflowClient:
    return MlflowClient(default_uri(store))


def tracked(store: Store, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["track", *words, "--store", str(store.root)])
    return done.exit_code, " ".join(done.output.split())


def stages_of(client: MlflowClient, run: str) -> set[str | None]:
    found = [one for one in runs(client, PIPELINES) if one.data.tags["lumina.run"] == run]
    return {one.data.tags.get("lumina.stage") for one in found if one.info.status == "FINISHED"}


@pytest.mark.parametrize("name", [PIPELINES, EVALS])
def test_a_deleted_experiment_keeps_the_records_until_it_is_restored(store: Store, name: str) -> None:
    client = client_of(store)
    found = client.get_experiment_by_name(name)
    assert found is not None
    client.delete_experiment(found.experiment_id)
    notes: list[str] = []
    summary, links = track(store.root, toy_training(weights="v"), notes=notes, run_id="2-second")
    assert summary.ok
    uri = default_uri(store)
    restore = f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore --experiment-id {found.experiment_id}"
    assert notes == [
        f"MLflow ({uri}) takes no records: experiment {name} was deleted; `{restore}` brings it back; the run goes on, "
        f"its records are kept in {links.buffer} and written once that is mended, by the next run or `lumina track`"
    ]
    code, text = tracked(store)
    assert code == 1
    assert f"2-second: experiment {name} was deleted; `{restore}` brings it back. Try again once that is mended" in text
    client.restore_experiment(found.experiment_id)
    code, text = tracked(store)
    assert code == 0
    assert "records of run 2-second were still to be written, and now are" in text
    assert stages_of(client, "2-second") == {None, "tag", "train@1", "train@2", "evaluate"}
    assert len(runs(client, EVALS)) == 2
    assert not list((store.root / "tracking").glob("*.jsonl"))
    assert "MLflow has all records." in tracked(store)[1]


def begun(store: Store, notes: list[str]) -> MlflowTracking:
    tracking = MlflowTracking(store, "2-second", "toy", uri=None, note=notes.append)
    for name, fingerprint in (("a", "ab"), ("b", "cd")):
        tracking.begin_stage(stage(name), fingerprint * 32, {}, None)
        tracking.point(name, {"loss": 1.0}, 0)
        while not tracking.stage_run(name):
            pass
    return tracking


def test_an_experiment_that_is_deleted_while_a_run_goes_on_loses_nothing(store: Store) -> None:
    client, notes = client_of(store), []  # type: ignore[var-annotated]
    tracking = begun(store, notes)
    found = client.get_experiment_by_name(PIPELINES)
    assert found is not None
    client.delete_experiment(found.experiment_id)
    tracking.point("a", {"loss": 0.5}, 1)
    links = tracking.close("FINISHED")
    assert links.buffer is not None
    assert not list((store.root / "tracking").glob("*.refused.jsonl"))
    [note] = notes
    assert "takes no records: experiment lumina-video/pipelines was deleted" in note
    client.restore_experiment(found.experiment_id)
    assert tracked(store)[0] == 0
    assert curve(client, client.get_run(tracking.found.stages["a"]), "loss") == [(0, 1.0), (1, 0.5)]


def test_a_run_that_is_deleted_is_left_out_alone_until_it_is_restored(store: Store) -> None:
    client, notes = client_of(store), []  # type: ignore[var-annotated]
    tracking = begun(store, notes)
    gone = tracking.found.stages["a"]
    client.delete_run(gone)
    for name in ("a", "b"):
        tracking.point(name, {"loss": 0.5}, 1)
    links = tracking.close("FINISHED")
    assert links.buffer == store.root / "tracking" / "2-second.held.jsonl"
    uri = default_uri(store)
    assert notes == [
        f"MLflow run {gone} was deleted, and what belongs to it is left out; `MLFLOW_TRACKING_URI={uri} mlflow runs "
        f"restore --run-id {gone}` brings it back, and `lumina track 2-second` adds it then"
    ]
    assert curve(client, client.get_run(tracking.found.stages["b"]), "loss") == [(0, 1.0), (1, 0.5)]
    # It holds up no other run.
    assert waiting(store.root) == ()
    notes.clear()
    track(store.root, toy_training(), notes=notes, run_id="3-third")
    assert notes == []
    client.restore_run(gone)
    code, text = tracked(store, "2-second")
    assert (code, "records of run 2-second" in text) == (0, True)
    assert curve(client, client.get_run(gone), "loss") == [(0, 1.0), (1, 0.5)]
    assert waiting(store.root, held=True) == ()


def rename(client: MlflowClient, name: str) -> None:
    found = client.get_experiment_by_name(name)
    assert found is not None
    client.rename_experiment(found.experiment_id, f"{name}-old")


def test_what_else_was_deleted_or_renamed_is_made_again(store: Store) -> None:
    client, notes = client_of(store), []  # type: ignore[var-annotated]
    client.delete_registered_model("lumina-video-toy")
    for prompt in ("system-prompt.web", "system-prompt.clean"):
        for one in client.search_prompt_versions(prompt):
            client.delete_prompt_version(prompt, one.version)
        client.delete_prompt(prompt)
    for name in (PIPELINES, EVALS):
        rename(client, name)
    _, links = track(store.root, toy_training(), notes=notes, run_id="2-second")
    assert (notes, links.buffer) == ([], None)
    assert stages_of(client, "2-second") == {None, "tag", "train@1", "train@2", "evaluate"}
    assert client.search_model_versions("name = 'lumina-video-toy'")
    assert {one.name for one in client.search_prompts()} == {"system-prompt.web", "system-prompt.clean"}


def test_artifacts_that_cannot_be_written_hold_up_nothing_else(tmp_path: Path, database: Path) -> None:
    shutil.copy(database, tmp_path)
    store, notes = Store(tmp_path), []  # type: ignore[var-annotated]
    client, blocked = client_of(store), tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    for name in (PIPELINES, EVALS):
        client.create_experiment(name, (blocked / name).as_uri())
    _, links = track(tmp_path, toy_training(), notes=notes, run_id="1-first")
    assert links.buffer == tmp_path / "tracking" / "1-first.held.jsonl"
    assert len(notes) == 2
    assert notes[0].startswith(f"artifacts of MLflow's experiment {PIPELINES} cannot be written to {blocked.as_uri()}/")
    assert notes[0].endswith("let this host write there, and `lumina track 1-first` adds it then")
    assert "NotADirectoryError" in notes[0]
    assert stages_of(client, "1-first") == {None, "tag", "train@1", "train@2", "evaluate"}
    [evaluation] = runs(client, EVALS)
    assert (evaluation.info.status, evaluation.data.metrics) == ("FINISHED", {"eval/color_accuracy": 0.5})
    trained = {one.data.tags.get("lumina.stage"): one for one in runs(client, PIPELINES)}
    assert len(curve(client, trained["train@1"], "loss")) == 5
    # Later runs are not held up.
    assert waiting(tmp_path) == ()
    code, text = tracked(store)
    assert code == 1
    assert "were still to be written, and now are, without artifacts of MLflow's experiment" in text
    blocked.unlink()
    code, text = tracked(store)
    assert (code, "and now are" in text, "without" in text) == (0, True, False)
    assert [file.path for file in client.list_artifacts(evaluation.info.run_id)] == ["metrics.json"]
    assert [file.path for file in client.list_artifacts(trained["train@1"].info.run_id)] == ["curve.txt"]
    assert [file.path for file in client.list_artifacts(trained[None].info.run_id)] == ["config.yaml"]
    assert "MLflow has all records." in tracked(store)[1]


def test_a_place_for_artifacts_that_this_host_cannot_reach_is_named(store: Store) -> None:
    notes: list[str] = []
    client = client_of(store)
    for name, root in ((PIPELINES, "mlflow-artifacts:/x"), (EVALS, "nowhere://x/y")):
        rename(client, name)
        client.create_experiment(name, root)
    track(store.root, toy_training(), notes=notes, run_id="2-second")
    assert [
        "cannot be written to mlflow-artifacts:/x" in notes[0],
        "cannot be written to nowhere://x/y" in notes[1],
    ] == [
        True,
        True,
    ]
    assert stages_of(client, "2-second") == {None, "tag", "train@1", "train@2", "evaluate"}
