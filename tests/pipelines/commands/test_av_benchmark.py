"""`lumina av-benchmark`: a run's sounds judged by the stand-in, and one line for each thing that can be wrong."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.context import JobContext, JobResult
from jobs.evaluate_sound import SCHEMA
from jobs.files import files_digest
from pipelines import cli
from pipelines.engine.stage import Pipeline
from tests.lumina.video_to_audio.fake_av_benchmark import write_clone, write_evaluation
from tests.pipelines.compared import NoConfig, go, stage


def evaluate(ctx: JobContext) -> JobResult:
    """An evaluation of sounds whose clips' length is that of the config."""
    seconds = float(ctx.config.note)
    write_evaluation(ctx.out, seconds, seconds)
    _tell(ctx.out, ctx.stage)
    return JobResult("files", files_digest(ctx.out))


def _tell(folder: Path, label: str) -> None:
    content = {"schema": SCHEMA, "checkpoint": label, "clips": 2, "conditions": {}, "given_minus": {}}
    (folder / "metrics.json").write_text(json.dumps(content))


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a clone of the stand-in."""
    monkeypatch.chdir(tmp_path)
    write_clone(tmp_path / "av-benchmark")
    return tmp_path


def judged(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["av-benchmark", *words, "--python", sys.executable], env={"COLUMNS": "200"})
    return done.exit_code, done.output


def test_a_run_is_judged_by_its_last_evaluation(world: Path) -> None:
    stages = [
        stage(f"evaluate@{name}", "evaluate", NoConfig(note=seconds)) for name, seconds in (("1", "8"), ("2", "5"))
    ]
    made = tuple(replace(one, entry=f"{__name__}:evaluate") for one in stages)
    _, record = go(Pipeline("sounds", made), world / "runs")
    code, output = judged()
    assert code == 0, output
    assert "Sounds of 2 clips (given) by av-benchmark" in output
    assert ["FD-PANN", "10.0"] in [line.split() for line in output.splitlines()]
    given = world / "av-benchmark" / "given.json"
    assert json.loads(given.read_text())["audio_length"] == "5"

    films = world / "films"
    films.mkdir()
    for clip in "ab":
        (films / f"{clip}.mp4").touch()
    code, output = judged(record.run, "--stage", "evaluate@1", "--films", "films", "--json")
    assert code == 0, output
    told = json.loads(output)
    assert (told["condition"], told["clips"], told["figures"]["DeSync"]) == ("given", 2, 0.45)
    assert json.loads(given.read_text())["audio_length"] == "8"
    code, output = judged(record.run, "--stage", "evaluate@3")
    assert (code, "--stage evaluate@3: no evaluation of it; " in output) == (1, True), output
    for path in (world / "runs" / "stages").iterdir():
        shutil.rmtree(path)
    code, output = judged()
    assert (code, "has no evaluation of sounds: " in output) == (1, True), output


def test_an_output_is_judged_where_it_lies(world: Path) -> None:
    folder = write_evaluation(world / "output", 8.0, 8.0)
    _tell(folder, "train@1")
    code, output = judged("output", "--condition", "text_dropped")
    assert (code, "kept no sound of clip b under text_dropped: evaluate with `shown` of 2" in output) == (1, True)
    assert judged("output")[0] == 0
    # Again, over what the first left.
    assert judged("output")[0] == 0
    (folder / "sounds" / "given" / "b.wav").unlink()
    code, output = judged("output")
    assert (code, "b.wav is gone: evaluate again" in output) == (1, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "holds no run 'nothing'"),
        (["films"], "films is no evaluation's output: "),
        (["video"], "video is no evaluation of sounds: name the output of a stage evaluate@N of such a run"),
        (["output", "--stage", "evaluate@1"], "--stage evaluate@1: output is a folder; name a run, or leave it out"),
        (["output", "--films", "none"], "--films none is no folder: name one with a CLIP_ID.mp4 for each clip"),
        (["output", "--films", "films"], "there is no film of clip a: films are needed of all clips, or of none"),
        (["output", "--condition", "loud"], "no sounds of the condition 'loud'; it has given, text_dropped, truth"),
        (["output", "--checkout", "films"], "films holds no evaluate.py: it is no clone of av-benchmark"),
        (["output", "--work", "films"], "--work films holds mine.txt, which is not of this command: name a new folder"),
        (["output", "--work", "films/mine.txt"], "--work films/mine.txt exists: choose another directory"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_files_alone(world: Path, words: list[str], message: str) -> None:
    _tell(write_evaluation(world / "output", 8.0, 8.0), "train@1")
    for name in ("films", "video"):
        (world / name).mkdir()
    (world / "films" / "mine.txt").write_text("mine")
    (world / "video" / "metrics.json").write_text('{"schema": "another"}')
    code, output = judged(*words)
    assert (code, message in output) == (1, True), output
    assert len(output.strip().splitlines()) == 1
    assert (world / "films" / "mine.txt").read_text() == "mine"


def test_without_the_environment_it_says_what_to_do(world: Path) -> None:
    _tell(write_evaluation(world / "output", 8.0, 8.0), "train@1")
    done = CliRunner().invoke(cli.app, ["av-benchmark", "output", "--python", "av/bin/python"])
    assert done.exit_code == 1
    assert "is no interpreter: name the python of an environment; clone hkchengrex/av-benchmark" in done.output
