from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
from mlflow import MlflowClient
from mlflow.data import get_source
from mlflow.entities import Run

from jobs.context import Evaluation, JobContext, JobResult
from pipelines.compare.verify import verify
from pipelines.engine.runner import new_run_id, run
from pipelines.engine.stage import Execution, Pipeline, Stage
from pipelines.engine.store.store import Store
from pipelines.tracking.links import Links
from pipelines.tracking.mlflow_names import dataset_digest, flatten
from pipelines.tracking.mlflow_runs import EVALS, PIPELINES
from pipelines.tracking.tracker import MlflowTracking
from pipelines.tracking.uri import default_uri
from tests.pipelines import toy
from tests.pipelines.edited import KEEP, Edited
from tests.pipelines.toy import EXECUTE, stage
from tests.pipelines.tracking.drivers import attempt, create_database, start
from tests.pipelines.tracking.observed import runs, track

PIPELINE = Pipeline("p", (stage("a"), stage("e@x", "evaluate", ("a",), text="x"), stage("e@y", "evaluate", ("a",))))


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, database: Path) -> tuple[Path, list[Links]]:
    """A store with two runs of one pipeline: one that computes, one that finds everything cached."""
    root = tmp_path_factory.mktemp("store")
    shutil.copy(database, root)
    return root, [track(root, PIPELINE)[1] for _ in range(2)]


def test_stage_runs_nest_also_when_cached(tracked: tuple[Path, list[Links]]) -> None:
    root, _ = tracked
    client = MlflowClient(default_uri(Store(root)))
    found = runs(client, PIPELINES)
    parents = [r for r in found if r.data.tags["lumina.kind"] == "pipeline"]
    assert len(parents) == 2
    assert parents[0].data.params == {"a.b": "0.0001", "a.c": '["x"]'}
    children = [r for r in found if "mlflow.parentRunId" in r.data.tags]
    assert {r.info.status for r in found} == {"FINISHED"}
    caches = sorted((r.data.tags["lumina.stage"], r.data.tags["lumina.cache"]) for r in children)
    assert caches == [(name, state) for name in ("a", "e@x", "e@y") for state in ("hit", "miss")]
    [first, second] = sorted(
        (r for r in children if r.data.tags["lumina.stage"] == "a"), key=lambda r: r.info.start_time
    )
    assert second.data.tags["lumina.origin_run"] == first.info.run_id
    manifest = json.loads(Path(first.data.tags["lumina.manifest"]).read_text())
    assert manifest["mlflow"]["run_id"] == first.info.run_id
    assert first.data.params == {"text": "a", "sleep": "0.0"}
    assert [(p.step, p.value) for p in client.get_metric_history(first.info.run_id, "loss")] == [
        (0, 1.0),
        (1, 0.5),
        (2, pytest.approx(1 / 3)),
    ]


def test_a_digest_finds_the_runs_that_wrote_and_read_the_data(tracked: tuple[Path, list[Links]]) -> None:
    root, _ = tracked
    client = MlflowClient(default_uri(Store(root)))
    found = client.get_experiment_by_name(PIPELINES)
    assert found is not None
    [manifest] = [json.loads(path.read_text()) for path in (root / "stages" / "a").glob("*/MANIFEST.json")]
    digest = dataset_digest(manifest["digest"])
    users = client.search_runs([found.experiment_id], f"dataset.digest = '{digest}'")
    uses = [(r.data.tags["lumina.stage"], use) for r in users for use in r.inputs.dataset_inputs]
    uses = [(name, use) for name, use in uses if use.dataset.digest == digest]
    tags = [(name, {tag.key: tag.value for tag in use.tags}) for name, use in uses]
    # Once by the run that computed, once by the one that found all of it cached.
    contexts = sorted((name, tag["mlflow.data.context"], tag["lumina.key"]) for name, tag in tags)
    once = [("a", "output", "output"), ("e@x", "input", "a"), ("e@y", "input", "a")]
    assert contexts == sorted(once * 2)
    [uri] = {tag["lumina.uri"] for _, tag in tags}
    assert uri == Path(root / "stages" / "a" / manifest["fingerprint"][7:27] / manifest["attempt"]).as_uri()
    assert {tag["lumina.digest"] for _, tag in tags} == {manifest["digest"]}
    # What MLflow resolves a dataset to is the place of the output.
    source = get_source(uses[0][1].dataset)
    assert source.load() == uri.removeprefix("file://")
    assert json.loads(uses[0][1].dataset.profile)["digest"] == manifest["digest"]


def test_a_failed_stage_shows_what_it_read(tmp_path: Path, database: Path) -> None:
    shutil.copy(database, tmp_path)
    track(tmp_path, Pipeline("p", (stage("a"), stage("b", "fail", ("a",)))))
    client = MlflowClient(default_uri(Store(tmp_path)))
    [failed] = [r for r in runs(client, PIPELINES) if r.data.tags.get("lumina.stage") == "b"]
    assert [use.dataset.name for use in failed.inputs.dataset_inputs] == ["a"]


def test_evaluations_are_flat_and_not_doubled_by_a_cache_hit(tracked: tuple[Path, list[Links]]) -> None:
    root, links = tracked
    client = MlflowClient(default_uri(Store(root)))
    found = runs(client, EVALS)
    assert len(found) == 2
    for evaluation in found:
        assert "mlflow.parentRunId" not in evaluation.data.tags
        assert evaluation.data.params["system_prompt"] == evaluation.data.tags["system_prompt"]
        assert evaluation.data.tags["lumina.pipeline_run"]
        assert evaluation.data.metrics == {"eval/color_accuracy": 0.5}
        assert [a.path for a in client.list_artifacts(evaluation.info.run_id)] == ["metrics.json"]
    ids = {evaluation.info.run_id for evaluation in found}
    for link in links:
        page, _, query = unquote(link.compare_url).partition("?")
        assert page == "http://127.0.0.1:5000/#/compare-runs"
        fields = dict(field.split("=") for field in query.split("&"))
        assert set(json.loads(fields["runs"])) == ids
        assert json.loads(fields["experiments"]) == [found[0].info.experiment_id]
        assert link.ui_command.endswith(f"sqlite:///{root}/mlflow.db")
        assert link.buffer is None


def study(ctx: JobContext) -> JobResult:
    """Two arms, as a study logs them."""
    (ctx.out / "study.json").write_text("{}")
    arms = tuple(
        Evaluation(f"schedules: {arm} | a", {"study": "schedules", "arm": arm}, {"score": 0.5}, ("study.json",))
        for arm in ("fine", "coarse")
    )
    return JobResult("files", f"sha256:{'7' * 64}", evaluations=arms)


def test_arms_of_a_study_are_not_compared_with_system_prompts(tmp_path: Path, database: Path) -> None:
    shutil.copy(database, tmp_path)
    arms = Stage("study@schedules", f"{__name__}:study", toy.ToyConfig(), execution=Execution(uses_cluster=False))
    _, links = track(tmp_path, Pipeline("p", (*PIPELINE.stages, arms)))
    found = {one.info.run_id: one for one in runs(MlflowClient(default_uri(Store(tmp_path))), EVALS)}
    fields = dict(field.split("=") for field in unquote(links.compare_url).partition("?")[2].split("&"))
    shown = json.loads(fields["runs"])
    assert len(found) == 4
    assert [found[one].data.tags["lumina.stage"] for one in shown] == ["e@x", "e@y"]


def test_a_tracker_that_fails_warns_once_and_keeps_the_records(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    notes: list[str] = []
    _, links = track(tmp_path / "store", PIPELINE, f"sqlite:///{tmp_path}/taken/mlflow.db", notes)
    assert len(notes) == 1
    assert "the run goes on" in notes[0]
    assert links.buffer is not None
    header, *kept = [json.loads(line) for line in links.buffer.read_text().splitlines()]
    assert header["uri"] == links.uri
    kinds = [event["event"] for event in kept]
    assert (kinds[0], kinds[-1], kinds.count("EndStage")) == ("BeginRun", "EndRun", 3)
    assert Store(tmp_path / "store").get_run(None).ok


def counting(ctx: JobContext) -> JobResult:
    """Log six steps; the first attempt dies after four, having saved the state after two."""
    saved = ctx.work / "step"
    first = int(saved.read_text()) if saved.exists() else 0
    for step in range(first, 6):
        ctx.log_metrics({"loss": float(step)}, step)
        if not first and step == 3:
            saved.write_text("2")
            raise RuntimeError("killed")
    return toy.constant(ctx)


COUNTING = Pipeline(
    "p", (Stage("s", f"{__name__}:counting", toy.ToyConfig(), execution=Execution(uses_cluster=False)),)
)


def stage_runs(root: Path) -> tuple[MlflowClient, list[Run]]:
    """The runs of the stage `s`, by attempt."""
    client = MlflowClient(default_uri(Store(root)))
    found = [r for r in runs(client, PIPELINES) if r.data.tags["lumina.kind"] == "s"]
    return client, sorted(found, key=lambda r: int(r.data.tags["lumina.attempt"]))


def steps_of(client: MlflowClient, found: Run, metric: str) -> list[int]:
    return [point.step for point in client.get_metric_history(found.info.run_id, metric)]


def test_a_resumed_stage_has_every_step_once(tmp_path: Path, database: Path) -> None:
    shutil.copy(database, tmp_path)
    for _ in range(2):
        track(tmp_path, COUNTING)
    client, [failed, finished] = stage_runs(tmp_path)
    assert [failed.info.status, finished.info.status] == ["FAILED", "FINISHED"]
    assert steps_of(client, failed, "loss") == [0, 1, 2, 3]
    assert steps_of(client, finished, "loss") == [0, 1, 2, 3, 4, 5]
    assert failed.data.tags["lumina.error"] == "RuntimeError: killed"
    assert finished.data.tags["lumina.previous_attempt"] == failed.info.run_id
    assert [failed.info.run_name, finished.info.run_name] == ["s", "s | attempt 2"]


def _kill_when(root: Path, step: int) -> None:
    """Start the pipeline in a process of its own and end it by SIGKILL once it hangs at `step`, all of it tracked."""
    process = start(attempt, root)
    deadline = time.monotonic() + 240
    while True:
        assert process.is_alive()
        assert time.monotonic() < deadline, f"step {step} was not tracked"
        time.sleep(0.2)
        client = MlflowClient(default_uri(Store(root)))
        if any(r.info.status == "RUNNING" and steps_of(client, r, "rate")[-1:] == [step] for r in stage_runs(root)[1]):
            break
    process.kill()
    process.join()


def test_a_killed_driver_leaves_one_ended_run_per_attempt_and_no_step_twice(tmp_path: Path, database: Path) -> None:
    shutil.copy(database, tmp_path)
    _kill_when(tmp_path, 3)
    [directory] = (tmp_path / "stages" / "s").iterdir()
    # The kill may cut a line short.
    with (directory / "curve.jsonl").open("a") as file:
        file.write('{"metrics": {"loss": 0.2')
    # As if the first driver had run on another host, whose processes cannot be looked at.
    client, [first] = stage_runs(tmp_path)
    client.set_tag(first.data.tags["mlflow.parentRunId"], "lumina.host", "another")
    _kill_when(tmp_path, 6)
    attempt(tmp_path)

    client, found = stage_runs(tmp_path)
    assert [r.data.tags["lumina.attempt"] for r in found] == ["1", "2", "3"]
    assert [r.info.status for r in found] == ["KILLED", "KILLED", "FINISHED"]
    assert [r.data.tags["lumina.state"] for r in found] == ["killed", "killed", "done"]
    for metric in ("loss", "rate"):
        assert [steps_of(client, r, metric) for r in found] == [list(range(count)) for count in (4, 7, 10)]
    parents = [client.get_run(r.data.tags["mlflow.parentRunId"]).info for r in found]
    assert [parent.status for parent in parents] == ["KILLED", "KILLED", "FINISHED"]
    assert len({parent.run_id for parent in parents}) == 3
    # What was found finished is no attempt.
    attempt(tmp_path)
    cached = [r for r in runs(client, PIPELINES) if r.data.tags.get("lumina.cache") == "hit"]
    assert ["lumina.attempt" in r.data.tags for r in cached] == [False]


def test_an_attempt_at_a_stage_of_a_living_driver_ends_that_stage_alone(tmp_path: Path, database: Path) -> None:
    shutil.copy(database, tmp_path)
    store = Store(tmp_path)
    tracking = MlflowTracking(store, "living", "living")
    curve = tmp_path / "curve.jsonl"
    tracking.begin_stage(stage("s"), "ab" * 32, {}, curve)
    tracking.begin_stage(stage("other"), "cd" * 32, {}, None)
    deadline = time.monotonic() + 60
    while not tracking.stage_run("other"):
        assert time.monotonic() < deadline
    second = MlflowTracking(store, "second", "second")
    second.begin_stage(stage("s"), "ab" * 32, {}, curve)
    second.close("FINISHED")
    client = MlflowClient(default_uri(store))
    status = {
        (r.data.tags["lumina.run"], r.data.tags.get("lumina.stage")): r.info.status for r in runs(client, PIPELINES)
    }
    assert status["living", "s"] == "KILLED"
    assert status["living", "other"] == status["living", None] == "RUNNING"
    tracking.close("FAILED")


def test_two_processes_may_create_the_database_at_once_after_one_that_was_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    alone = context.Barrier(1)
    killed = start(create_database, tmp_path, alone)
    while not (partial := tmp_path / "mlflow.db.partial").exists() or not partial.stat().st_size:
        assert killed.is_alive()
        time.sleep(0.005)
    killed.kill()
    killed.join()
    assert not (tmp_path / "mlflow.db").exists()
    barrier = context.Barrier(2)
    racers = [start(create_database, tmp_path, barrier) for _ in range(2)]
    for racer in racers:
        racer.join(240)
    assert [racer.exitcode for racer in racers] == [0, 0]
    found = {one.name for one in MlflowClient(default_uri(Store(tmp_path))).search_experiments()}
    assert found >= {PIPELINES, EVALS}


def test_flatten_gives_names_that_mlflow_takes() -> None:
    assert flatten({"a": {"b@2": None, "c": "x" * 7000}}) == {"a.b_2": "null", "a.c": "x" * 5999 + "…"}


def test_what_was_kept_though_code_differs_says_so(tmp_path: Path, database: Path) -> None:
    code = Edited(tmp_path)
    code.store.root.mkdir()
    shutil.copy(database, code.store.root)
    code.go()
    code.edit("b")
    tracking = MlflowTracking(code.store, new_run_id(), "name")
    run(code.pipeline(), code.store, EXECUTE, tracking=tracking, identifier=code.identifier(), drift=KEEP)
    tracking.close("FINISHED")
    client = MlflowClient(default_uri(code.store))
    [found] = [one for one in runs(client, PIPELINES) if one.data.tags.get("lumina.stage") == "b"]
    assert found.data.tags["lumina.code_drift"] == "code differs since: own.b"
    assert Path(found.data.tags["lumina.manifest"]).read_text() == code.store.manifests("b")[0].to_json()
    assert verify(code.store, None).found == ()
