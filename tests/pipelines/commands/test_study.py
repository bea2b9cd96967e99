"""`lumina study`: arms of a checkpoint side by side, gone on with after a stop, and one line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs import clips
from jobs.clips import ClipWorker
from pipelines import cli
from tests.jobs.here import PoolHere
from tests.lumina.tiny import text_to_video

SMALL = ("--size", "32x32", "--steps", "1", "--frames", "8", "--batch-size", "2")
ARMS = "arms:\n  fine: {patches: [[0, [1, 2, 2]]]}\n  coarse: {patches: [[0, [2, 2, 2]]]}\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "exported"
    text_to_video().save_pretrained(folder)
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
    before = Path("s/arms/study.json").read_bytes()
    assert _study(*words, "--arms", "arms.yaml")[0] == 0
    assert made == []
    assert Path("s/arms/study.json").read_bytes() == before
    Path("arms.yaml").write_text(f"{ARMS}  guided: {{guidance: [[0, 3]]}}\n")
    assert _study(*words, "--arms", "arms.yaml")[0] == 0
    assert [one.guidance for one in made] == [((0, 3),)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--schedules",), "either --shapes N, or --prompts FILE"),
        (("--shapes", "2"), "--schedules, --motion, --guidance or --arms FILE.yaml"),
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
