"""`lumina vbench`: clips of a checkpoint or of anybody, judged, reported, and gone on with after any stop."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from jobs import clips, vbench
from jobs.submit import Job, Submitted, Work
from jobs.vbench import JudgeWorker
from lumina.video import write_h264
from pipelines import cli
from tests.conftest import SHARED
from tests.jobs.here import PoolHere
from tests.lumina.tiny import text_to_video

SMALL = ("--size", "32x32", "--steps", "2", "--frames", "8")
PROMPTS = [
    {"prompt_en": "a ball", "dimension": ["subject_consistency", "temporal_flickering"]},
    {"prompt_en": "a box", "dimension": ["subject_consistency", "scene"], "auxiliary_info": {"scene": {"scene": "x"}}},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "exported"
    text_to_video().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("dino")
    config = ViTConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ViTModel(config, add_pooling_layer=False).save_pretrained(place)
    return f"dino={place}"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Everything is done in this process, in a folder with a prompt file."""
    monkeypatch.setattr(clips, "hand_out", PoolHere())
    monkeypatch.setattr(vbench, "hand_out", PoolHere())
    monkeypatch.setattr("jobs.cluster.ensure", lambda runtime: "")
    monkeypatch.setattr("jobs.cluster.shutdown", lambda: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.json").write_text(json.dumps(PROMPTS))


def _vbench(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["vbench", *words], env={"COLUMNS": "100"})
    return done.exit_code, done.output


def _clips(folder: Path, *names: str, frames: int = 4, size: int = 32, fps: float = 8) -> None:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        image = np.random.default_rng(number).integers(0, 255, (size, size, 3), dtype=np.uint8)
        shown = np.stack([np.roll(image, step * number, 1) for step in range(frames)])
        write_h264(folder / name, shown, fps)


def _report(out: Path = Path("vbench")) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "vbench.json").read_text())
    return found


def _log(out: Path = Path("vbench")) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


def test_a_folder_of_anybodys_clips_is_judged_once(dino: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _clips(Path("videos"), "one-0.mp4", "one-1.mp4", "another.mp4")
    Path("videos/manifest.jsonl").touch()
    code, output = _vbench("--videos", "videos", "--weights", dino)
    assert code == 0, output
    assert "vbench_native/temporal_flickering" in output
    assert "temporal_flickering: without the static filter" in output
    assert "dynamic_degree: needs weights of raft, or the official vbench" in output
    assert "docs/vbench.md" in output
    # The bar is of what loads the network, here in the same process.
    assert max(len(line) for line in output.splitlines() if "Loading" not in line) <= 100
    report, page = _report(), Path("vbench/vbench.html").read_text()
    assert set(report["metrics"]) == {"vbench_native/subject_consistency", "vbench_native/temporal_flickering"}
    found = report["dimensions"]["subject_consistency"]
    assert (report["subject"], found["by"], found["prompts"], found["clips"]) == ("videos", "native", 2, 3)
    assert found["weights"]["dino"].startswith("sha256:")
    assert report["gaps"]["total"] == "without 14 dimensions"
    monkeypatch.setattr(JudgeWorker, "make", lambda *_: pytest.fail("it was scored already"))
    code, again = _vbench("--videos", "videos", "--weights", dino)
    assert (code, again.strip()) == (0, output[output.index("\n") :].strip())
    assert (_report(), Path("vbench/vbench.html").read_text()) == (report, page)
    assert len(_log()) == 6


def test_a_prompt_file_says_who_looks_at_which_clip_and_what_is_missing(dino: str) -> None:
    _clips(Path("videos"), "a ball-0.mp4", "a ball-1.mp4", "a box-0.mp4", "another-0.mp4")
    code, output = _vbench("--videos", "videos", "--prompts", "p.json", "--samples", "2", "--weights", dino)
    assert code == 0, output
    found = _report()["dimensions"]
    assert found["subject_consistency"]["gap"] == "1 of 4 clips is missing"
    assert (found["temporal_flickering"]["clips"], found["temporal_flickering"]["gap"]) == (2, None)
    assert found["temporal_flickering"]["note"] == "2 clips a prompt, officially 5; without the static filter"
    assert found["scene"]["gap"] == "needs the official vbench"
    assert found["human_action"]["gap"] == "no prompt of the file asks for it"
    assert {(line["clip"], line["dimension"]) for line in _log()} == {
        ("a ball-0.mp4", "subject_consistency"), ("a ball-0.mp4", "temporal_flickering"),
        ("a ball-1.mp4", "subject_consistency"), ("a ball-1.mp4", "temporal_flickering"),
        ("a box-0.mp4", "subject_consistency"),
    }  # fmt: skip


def test_clips_that_cannot_be_judged_or_are_not_alike_are_told(dino: str) -> None:
    _clips(Path("videos"), "a-0.mp4", "b-0.mp4")
    _clips(Path("videos"), "short-0.mp4", frames=1)
    _clips(Path("videos"), "fast-0.mp4", size=64, fps=16)
    Path("videos/broken-0.mp4").write_bytes(b"nothing")
    code, output = _vbench("--videos", "videos", "--dimensions", "subject_consistency", "--weights", dino)
    assert code == 1, output
    [line] = [line for line in _log() if line["clip"] == "short-0.mp4"]
    assert (line["total"], line["reason"]) == (None, "consistency needs two frames, the clip has 1")
    report = _report()
    found = report["dimensions"]["subject_consistency"]
    assert (found["failed"], report["metrics"]) == (2, {})
    assert found["gap"].startswith("2 of 5 clips cannot be scored; broken-0.mp4: videos/broken-0.mp4 is no clip")
    assert "2 of 32x32 at 8 fps, 4 frames (a-0.mp4, ...), 1 of 32x32 at 8 fps, 1 frames" in report["note"].replace(
        "1 frame (", "1 frames ("
    )
    assert "64x64 at 16 fps" in output.replace("\n", " ")
    assert "The clips are not alike" in Path("vbench/vbench.html").read_text()


def test_a_checkpoint_is_judged_end_to_end_and_again_makes_and_scores_nothing(
    model: Path, dino: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [{"prompt": one["prompt_en"], "text": f"{one['prompt_en']}, at noon"} for one in PROMPTS]
    Path("told.jsonl").write_text("".join(json.dumps(one) + "\n" for one in told))
    words = (str(model), "--prompts", "p.json", "--samples", "2", "--weights", dino, *SMALL)
    code, output = _vbench(*words, "--augmented", "told.jsonl")
    assert code == 0, output
    assert "4 of 4 clips are in vbench/clips" in output
    manifest = [json.loads(line) for line in Path("vbench/clips/manifest.jsonl").read_text().splitlines()]
    assert [one["file"] for one in manifest] == ["a ball-0.mp4", "a ball-1.mp4", "a box-0.mp4", "a box-1.mp4"]
    last = manifest[-1]
    assert (last["vbench_prompt"], last["vbench_index"], last["prompt"]) == ("a box", 1, "a box, at noon")
    assert last["text"] == "clean clips. <Prompt Start> a box, at noon"
    assert (last["source"], last["sampler"]["steps"], last["checkpoint"][:7]) == ("clean", 2, "sha256:")
    metrics = _report()["metrics"]
    assert set(metrics) == {"vbench_native/subject_consistency", "vbench_native/temporal_flickering"}
    with monkeypatch.context() as patch:
        patch.setattr(JudgeWorker, "make", lambda *_: pytest.fail("it was scored already"))
        patch.setattr(clips.ClipWorker, "make", lambda *_: pytest.fail("it was made already"))
        assert _vbench(*words, "--augmented", "told.jsonl")[0] == 0
    assert _report()["metrics"] == metrics
    # What the model is told changes no seed; clips of prompts that nobody asks for any more are left, and not judged.
    Path("p.json").write_text(json.dumps(PROMPTS[:1]))
    code, output = _vbench(*words)
    assert code == 0, output
    assert "no row asks any more for 2 of the clips there: a box-0.mp4, a box-1.mp4" in output
    again = [json.loads(line) for line in Path("vbench/clips/manifest.jsonl").read_text().splitlines()]
    assert [(one["seed"], one["prompt"]) for one in again] == [(one["seed"], "a ball") for one in manifest[:2]]
    assert _report()["dimensions"]["subject_consistency"]["clips"] == 2


def test_ctrl_c_while_clips_are_judged_says_how_to_go_on(dino: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _clips(Path("videos"), "a-0.mp4", "a-1.mp4", "b-0.mp4")
    words = ("--videos", "videos", "--weights", dino)
    make, seen = JudgeWorker.make, []

    def stopped(worker: JudgeWorker, task: Any) -> Any:
        if seen:
            raise KeyboardInterrupt
        seen.append(task)
        return make(worker, task)

    with monkeypatch.context() as patch:
        patch.setattr(JudgeWorker, "make", stopped)
        code, output = _vbench(*words)
    assert code == 130
    assert "Nothing is lost: the same command continues where it was" in output
    assert not Path("vbench/vbench.json").exists()
    assert len(_log()) == 2
    assert _vbench(*words)[0] == 0
    assert len(_log()) == 6


def test_an_official_environment_that_crashes_is_one_dimension_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fixtures = SHARED / "golden_vbench"
    if not fixtures.is_dir():
        pytest.skip(f"no golden fixtures at {fixtures}")
    _clips(Path("videos"), "a box-0.mp4", "a ball-0.mp4")
    monkeypatch.setenv("PYTHONPATH", str(fixtures / "fake_interpreter"))
    words = ("--videos", "videos", "--prompts", "p.json", "--samples", "1", "--python", sys.executable)
    monkeypatch.setenv("VBENCH_FAKE_KILL", "scene")
    code, output = _vbench(*words, "--dimensions", "scene,temporal_flickering")
    assert code == 1
    said = " ".join(output.split())
    assert "scene: the official scene ended with exit code 137" in said
    # A long path is broken where the table ends.
    assert "vbench/.vbench/scene/official.log" in "".join(output.split())
    monkeypatch.delenv("VBENCH_FAKE_KILL")
    code, output = _vbench(*words, "--dimensions", "scene,temporal_flickering")
    assert code == 0, output
    assert set(_report()["metrics"]) == {"vbench/scene", "vbench_native/temporal_flickering"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give either a CHECKPOINT to make clips with, or --videos DIR with clips"),
        (("m", "--videos", "videos"), "give either a CHECKPOINT"),
        (("nowhere", "--prompts", "p.json"), "CHECKPOINT nowhere is no"),
        (("--videos", "nowhere"), "--videos nowhere is no directory: name one with clips called PROMPT-INDEX.mp4"),
        (("--videos", "empty"), "empty holds no clip: expected files named <prompt>-<index>.mp4"),
        (("--videos", "videos", "--steps", "5"), "--steps is for clips that are made"),
        (("--videos", "videos", "--augmented", "p.json"), "--augmented is for clips that are made"),
        (("--videos", "videos", "--weights", "dina=p.json"), "--weights dina: unknown; did you mean 'dino'?"),
        (("--videos", "videos", "--weights", "dino"), "--weights dino: expected NAME=PATH"),
        (("--videos", "videos", "--weights", "dino=x"), "--weights dino=x: there is no x"),
        (("--videos", "videos", "--weights", "raft=p.json"), "p.json"),
        (("--videos", "videos", "--weights", "raft=raft.pth"), "raft.pth does not fit RAFT"),
        (("--videos", "videos", "--dimensions", "colour"), "--dimensions colour: unknown; did you mean 'color'?"),
        (("--videos", "videos", "--dimensions", "color"), "--dimensions color looks for what the prompt file tells"),
        (("--videos", "videos", "--official", "all"), "--official needs --python"),
        (("--videos", "videos", "--prompts", "q.json"), "q.json is no file: expected VBench_full_info.json"),
        (("--videos", "videos", "--prompts", "bad.json"), "bad.json: expected a list of prompts"),
        (("--videos", "videos", "--prompts", "old.json"), "old.json, entry 1: auxiliary_info does not tell scene its"),
        (("--videos", "videos", "--prompts", "p.json", "--dimensions", "color"), "p.json has no prompt for color"),
        (("--videos", "others", "--prompts", "p.json"), "others holds no clip of any prompt of the file"),
        (("--videos", "videos", "--out", "p.json"), "--out p.json is a file"),
        (("--videos", "videos", "--address", "http://head:8265"), "--videos videos is relative: name an absolute path"),
    ],
)
def test_bad_input_is_one_line(words: tuple[str, ...], message: str) -> None:
    _clips(Path("videos"), "a ball-0.mp4")
    _clips(Path("others"), "else-0.mp4")
    Path("empty").mkdir()
    torch.save({"weight": torch.zeros(2)}, "raft.pth")
    Path("bad.json").write_text('{"a": 1}')
    Path("old.json").write_text('[{"prompt_en": "x", "dimension": ["scene"]}]')
    code, output = _vbench(*words)
    assert code == 1
    assert message in output
    assert len(output.splitlines()) == 1
    assert not list(Path().glob("**/scores.jsonl"))


def test_a_cluster_gets_a_command_that_goes_on(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Work] = []
    told = "prompt,text\na box,a large box\n"

    def submit(client: Any, work: Work, again: bool) -> Submitted:
        sent.append(work)
        assert json.loads((work.package / "prompts.json").read_text()) == PROMPTS
        assert (work.package / "augmented.csv").read_text() == told
        return Submitted(Job("lumina-vbench-1-a1", "RUNNING", "", None, None, {}), "started")

    monkeypatch.setattr("jobs.submit.connect", lambda address: address)
    monkeypatch.setattr("jobs.submit.submit", submit)
    monkeypatch.setattr("pipelines.commands.jobs.follow_job", lambda client, job, address: 0)
    monkeypatch.setattr("pipelines.commands.package.PACKAGES", ("lumina", "pipelines"))
    Path("told.csv").write_text(told)
    words = ["/shared/model", "--prompts", "p.json", "--out", "/shared/out", "--weights", "raft=/shared/raft.pth"]
    words += ["--augmented", "told.csv", "--dimensions", "scene", "--samples", "3", "--steps", "4"]
    words += ["--python", "/shared/python", "--official", "scene"]
    code, output = _vbench(*words, "--address", "http://head:8265/")
    assert code == 0, output
    [work] = sent
    given = shlex.split(work.command)[3:]
    at = given.index("--ray-address")
    assert given[at + 1 : at + 3] == ["auto", "--typed"]
    assert given[:2] == ["vbench", "/shared/model"]
    pairs = dict(zip(given[2:at:2], given[3:at:2], strict=True))
    assert pairs == {
        "--out": "/shared/out", "--samples": "3", "--prompts": "prompts.json", "--augmented": "augmented.csv",
        "--dimensions": "scene", "--weights": "raft=/shared/raft.pth", "--python": "/shared/python",
        "--official": "scene", "--steps": "4",
    }  # fmt: skip
    assert work.metadata["run"] == "vbench"
    Path("told.csv").write_text("prompt,text\na ball,a large ball\n")
    code, output = _vbench(*words, "--address", "http://head:8265")
    assert (code, len(sent)) == (1, 1)
    assert "told.csv has no text for 1 prompts, the first of them 'a box'" in output
