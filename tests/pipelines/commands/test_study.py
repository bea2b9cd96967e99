"""`lumina study`: arms of a checkpoint side by side, gone on with after a stop, and one line for what cannot be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs import clips
from jobs.clips import ClipWorker
from jobs.context import JobContext, JobResult
from lumina.config import Config
from lumina.diffusers_export.layout import write_diffusers
from pipelines import cli
from pipelines.commands.study_losses import find_losses
from pipelines.commands.study_search import check_target
from pipelines.engine.runner import run
from pipelines.engine.stage import Pipeline, Stage
from pipelines.engine.store.run_record import run_key
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError
from tests.jobs.here import PoolHere
from tests.lumina.tiny import text_to_video
from tests.pipelines.toy import EXECUTE, identifier
from tests.pipelines.toy import stage as toy_stage

SMALL = ("--size", "32x32", "--steps", "1", "--frames", "8", "--batch-size", "2")
ARMS = "arms:\n  fine: {patches: [[0, [1, 2, 2]]]}\n  coarse: {patches: [[0, [2, 2, 2]]]}\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "exported"
    text_to_video().save_pretrained(folder)
    write_diffusers(folder)
    return folder


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Everything is done in this process, in a folder with a file of arms and one of prompts."""
    monkeypatch.setattr(clips, "hand_out", PoolHere())
    monkeypatch.setattr("jobs.cluster.ensure", lambda runtime: "")
    monkeypatch.setattr("jobs.cluster.shutdown", lambda: None)
    monkeypatch.chdir(tmp_path)
    Path("arms.yaml").write_text(ARMS)
    Path("prompts.txt").write_text("a red circle\ntwo blue squares\n")


def _study(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["study", *words], env={"COLUMNS": "110"})
    return done.exit_code, done.output


def test_a_study_is_made_once_and_shares_arms_with_the_next(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (str(model), "--prompts", "prompts.txt", "--out", "s", *SMALL)
    code, output = _study(*words, "--arms", "arms.yaml")
    assert code == 0, output
    content = json.loads(Path("s/arms/study.json").read_text())
    assert (content["order"], content["reference"], content["system_prompt"]) == (["fine", "coarse"], "fine", "clean")
    # Without a truth there is no score of shapes: the first metric ranks.
    assert content["figures"][0] == "offline/temporal_flicker"
    assert "coarse" in output
    assert "s/study.html" in output
    rows = [json.loads(line) for line in Path("s/arms/clips.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert all((Path("s") / row["file"]).is_file() for row in rows)
    made, make = [], ClipWorker.make
    monkeypatch.setattr(ClipWorker, "make", lambda self, batch: (made.append(batch.job.sampler), make(self, batch)))
    # Ray is not started for clips that are there.
    monkeypatch.setattr("jobs.cluster.ensure", None)
    before = Path("s/arms/study.json").read_bytes()
    assert _study(*words, "--arms", "arms.yaml")[0] == 0
    assert made == []
    assert Path("s/arms/study.json").read_bytes() == before
    monkeypatch.setattr("jobs.cluster.ensure", lambda runtime: "")
    Path("arms.yaml").write_text(f"{ARMS}  guided: {{guidance: [[0, 3]]}}\n")
    assert _study(*words, "--arms", "arms.yaml")[0] == 0
    assert [one.guidance for one in made] == [((0, 3),)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--schedules",), "either --shapes N, or --prompts FILE"),
        (("--shapes", "2"), "--schedules, --motion, --guidance, --arms FILE.yaml or --search"),
        (("--shapes", "2", "--motion", "--metrics", "offline/beauty"), "unknown metric 'offline/beauty'"),
        (("--prompts", "prompts.txt", "--motion", "--metrics", "shapes/colour_acc"), "whose truth is known"),
        (("--shapes", "2", "--schedules", "--frames", "8", "--size", "48x32"), "which patch size (2, 4, 4) does not"),
        (
            ("--shapes", "2", "--arms", "bad.yaml"),
            "arm 'x' samples at patch size (4, 4, 4), which the checkpoint lacks",
        ),
        (("--shapes", "2", "--arms", "same.yaml"), "arms 'x' and 'y' are the same settings"),
        (("--shapes", "2", "--arms", "arms.txt"), "expected a file that ends in .yaml"),
        (("--shapes", "2", "--schedules", "--source", "nobody"), "no system prompt for source 'nobody'"),
    ],
)
def test_what_cannot_be_studied_is_one_line(model: Path, words: tuple[str, ...], said: str) -> None:
    Path("bad.yaml").write_text("arms: {x: {patches: [[0, [4, 4, 4]]]}}\n")
    Path("same.yaml").write_text("arms: {x: {}, y: {}}\n")
    code, output = _study(str(model), *words)
    assert (code, output.count("error:")) == (1, 1), output
    assert said in output.replace("\n", " ").replace("  ", " ")


def test_a_folder_of_another_study_or_of_anything_else_is_left_alone(model: Path) -> None:
    words = (str(model), "--prompts", "prompts.txt", "--arms", "arms.yaml", *SMALL)
    Path("mine").mkdir()
    Path("mine/thesis.txt").touch()
    code, output = _study(*words, "--out", "mine")
    assert code == 1
    assert "files that no study made" in output.replace("\n", " ")
    assert _study(*words, "--out", "s", "--workers", "1")[0] == 0
    code, output = _study(*words, "--out", "s", "--seed", "1")
    assert code == 1
    assert "a study of another seed (0, and this is 1)" in output.replace("\n", " ")


def _training(folder: Path, scales: dict[str, list[int]]) -> Path:
    """Output of a training stage in which the coarse scale loses from t = 0.5."""
    folder.mkdir()
    tasks = [{"name": name, "media": "video", "patch": patch} for name, patch in scales.items()]
    manifest = {"stage": "train@3", "attempt": "a-1", "recipe": {"config": {"tasks": tasks}}}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    _curve(folder / "a-1", scales)
    return folder


def _curve(folder: Path, scales: Mapping[str, list[int]]) -> None:
    folder.mkdir(exist_ok=True)
    row: dict[str, float] = {"step": 10}
    for name, patch in scales.items():
        for index in range(20):
            row |= {f"t_bin/{name}/{index:02d}": 0.2 + (patch[0] - 1) * (index >= 10), f"t_count/{name}/{index:02d}": 4}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")


class ScalesConfig(Config):
    """Of a toy training."""

    tasks: tuple[dict[str, Any], ...]


def trained(ctx: JobContext) -> JobResult:
    """A training stage that has its curve alone."""
    _curve(ctx.out, {one["name"]: one["patch"] for one in ctx.config.tasks})
    return JobResult("files", "sha256:" + "0" * 64)


def _train_stage(name: str, scales: dict[str, list[int]]) -> Stage:
    tasks = tuple({"name": name, "media": "video", "patch": patch} for name, patch in scales.items())
    return Stage(name, f"{__name__}:trained", ScalesConfig(tasks=tasks))


def test_losses_are_of_the_run_that_is_named_or_exported_the_checkpoint(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    stages = (
        _train_stage("train@1", {"fine": [1, 2, 2]}),
        _train_stage("train@2", {"fine": [1, 2, 2], "middle": [2, 2, 2]}),
        _train_stage("finetune", {"fine": [1, 2, 2]}),
        toy_stage("export"),
    )
    run(Pipeline("p", stages), store, EXECUTE, run_id="r1", identifier=identifier())
    named = find_losses("r1", "exported", str(store.root))
    assert named[2, 2, 2][15] == 1.2
    assert named[1, 2, 2][15] == 0.2
    exported = tmp_path / "exported"
    exported.mkdir()
    fingerprint = store.get_run("r1").stages["export"].fingerprint
    (exported / "lineage.json").write_text(json.dumps({"stage": "export", "fingerprint": fingerprint}))
    assert find_losses(None, str(exported), str(store.root)) == named
    # The run that computed the export was killed after it, and another ended in its place.
    store.objects.remove(run_key("r1"))
    run(Pipeline("p", stages), store, EXECUTE, run_id="r2", identifier=identifier())
    assert find_losses(None, str(exported), str(store.root)) == named
    (exported / "lineage.json").write_text(json.dumps({"stage": "export", "fingerprint": "0" * 64}))
    with pytest.raises(PipelineError, match=r"has no run that exported"):
        find_losses(None, str(exported), str(store.root))


def test_a_copy_that_cannot_be_written_is_refused_before_the_study(tmp_path: Path) -> None:
    (checkpoint := tmp_path / "checkpoint").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PipelineError, match=r"lies in CHECKPOINT .*, of which it is a copy"):
        check_target(str(checkpoint), checkpoint / "found")
    with pytest.raises(PipelineError, match="is no folder"):
        check_target(str(checkpoint), tmp_path / "file" / "found")
    check_target(str(checkpoint), tmp_path / "new" / "found")


def test_a_search_finds_a_cheaper_schedule_and_writes_it_into_a_copy(model: Path) -> None:
    stage = _training(Path("train"), {"fine": [1, 2, 2], "middle": [2, 2, 2]})
    Path("eight.txt").write_text("".join(f"a red circle {number}\n" for number in range(3)))
    words = (str(model), "--prompts", "eight.txt", "--out", "s", "--size", "32x32", "--frames", "8", "--steps", "4")
    search = ("--search", "--losses", str(stage), "--budget", "0.9", "--metrics", "offline/constant_rate")
    code, output = _study(*words, *search, "--write", "found")
    assert code == 0, output
    content = json.loads(Path("s/search/study.json").read_text())
    assert content["reference"] == "own"
    assert "Chosen: found" in output
    # The page shows the studies of earlier commands too.
    assert _study(*words, "--metrics", "offline/constant_rate", "--arms", "arms.yaml")[0] == 0
    assert all(f"every arm of {name}" in Path("s/study.html").read_text() for name in ("arms", "search"))
    chosen = json.loads(Path("found/generation.json").read_text())["sampler"]["patches"]
    assert chosen in [content["arms"][arm]["sampler"]["patches"] for arm in content["order"] if arm != "own"]
    assert Path("found/transformer/model.safetensors").is_file()
    assert json.loads(Path("found/scheduler/scheduler_config.json").read_text())["patches"] == chosen
    code, output = _study(*words, *search, "--write", "found")
    assert code == 1
    assert "is there already" in output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--search",), "does not say which run exported it: name a run"),
        (("--search", "--losses", "nobody"), "nobody"),
        (("--motion", "--budget", "0.5"), "--budget 0.5: it is for --search"),
        (("--search", "--losses", "one"), "did not train videos at several scales"),
        (("--search", "--losses", "nothing"), "there is no MANIFEST.json in it or above"),
        (("--search", "--losses", "two", "--budget", "0.01"), "no schedule costs 0.01"),
    ],
)
def test_a_search_that_cannot_be_made_is_one_line(model: Path, words: tuple[str, ...], said: str) -> None:
    _training(Path("one"), {"fine": [1, 2, 2]})
    _training(Path("two"), {"fine": [1, 2, 2], "middle": [2, 2, 2]})
    Path("nothing").mkdir()
    code, output = _study(str(model), "--shapes", "2", *words)
    assert (code, output.count("error:")) == (1, 1), output
    assert said in output.replace("\n", " ").replace("  ", " ")
