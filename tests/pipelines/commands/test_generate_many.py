"""`lumina generate --prompts`: the clips of a file, each once and with the same bytes whatever stops the command."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from typer.testing import CliRunner

from jobs import clips
from jobs.clip_folder import ClipModel, ClipSettings, open_folder
from jobs.runtime import RuntimeConfig
from jobs.submit import Job, Submitted, Work
from lumina import files
from lumina.generate import TextToVideo
from lumina.prompt_files import read_prompts
from lumina.training.stage import LoraConfig
from lumina.training.weights.lora import add_adapters, save_adapter
from lumina.video import write_h264
from pipelines import cli
from tests.jobs.here import PoolHere
from tests.lumina.tiny import text_to_video

HEADER = "prompt,seed,source,motion,negative_prompt,output\n"
ROWS = HEADER + 'a red circle,,,,,\n"two, blue",5,web,2,blur,fox\na red circle,,,,,\n'
SMALL = ("--size", "32x32", "--steps", "2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "exported"
    text_to_video().save_pretrained(folder)
    return folder


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips are made in this process."""
    monkeypatch.setattr(clips, "hand_out", PoolHere())
    monkeypatch.setattr("jobs.cluster.ensure", lambda runtime: "")
    monkeypatch.setattr("jobs.cluster.shutdown", lambda: None)


def _generate(model: Path | str, folder: Path, *more: str, name: str = "a.csv") -> tuple[int, str]:
    arguments = ["generate", "--checkpoint", str(model), "--prompts", str(folder / name), "--out", str(folder / "out")]
    done = CliRunner().invoke(cli.app, [*arguments, *SMALL, *more])
    return done.exit_code, done.output


def _clips(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "out").glob("*.mp4"))}


def _manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "manifest.jsonl").read_text().splitlines()]


def test_each_clip_is_that_of_its_row_and_is_made_once(model: Path, tmp_path: Path, here: None) -> None:
    (tmp_path / "a.csv").write_text(ROWS)
    code, output = _generate(model, tmp_path)
    assert code == 0, output
    assert "3 of 3 clips are in" in output
    assert "3 of them made now" in output
    first, fox, again = _manifest(tmp_path)
    made = _clips(tmp_path)
    assert set(made) == {first["file"], fox["file"], again["file"]}
    assert first["frames_sha256"] != again["frames_sha256"]
    loaded = TextToVideo.from_pretrained(model)
    sampler = loaded.defaults.sampler.model_copy(update={"steps": 2})
    size = {"width": 32, "height": 32, "sampler": sampler}
    for row, asked in ((first, {}), (fox, {"source": "web", "motion": 2.0, "negative_prompt": "blur"})):
        frames = loaded([row["prompt"]], seed=row["seed"], **asked, **size).frames[0]  # type: ignore[arg-type]
        assert hashlib.sha256(frames.tobytes()).hexdigest() == row["frames_sha256"]
        write_h264(tmp_path / "one.mp4", frames, row["fps"])
        assert (tmp_path / "one.mp4").read_bytes() == made[row["file"]]
    assert (fox["seed"], fox["source"], fox["text"]) == (5, "web", "web clips. <Prompt Start> two, blue")
    assert (fox["negative_text"], fox["motion"], fox["width"]) == ("web clips. <Prompt Start> blur", 2.0, 32)
    assert fox["sampler"]["steps"] == 2
    assert fox["checkpoint"].startswith("sha256:")
    assert (fox["tokens_cut"], fox["words_cut"]) == (0, "")

    # Again: nothing. A row that is moved: nothing. A changed one: that one. One that is gone is told of.
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.mp4")}
    code, output = _generate(model, tmp_path)
    assert (code, "0 of them made now" in output) == (0, True)
    lines = ROWS.splitlines()
    changed = lines[2].replace("blur", "haze")
    (tmp_path / "a.csv").write_text("\n".join([lines[0], "something new,,,,,", changed, lines[1]]))
    code, output = _generate(model, tmp_path)
    assert "3 of 3 clips" in output
    assert "2 of them made now" in output
    assert f"no row asks any more for 1 of the clips there: {again['file']}" in output
    assert [row["line"] for row in _manifest(tmp_path)] == [2, 3, 4]
    assert _manifest(tmp_path)[2] | {"line": 2} == first
    same = {path.name for path, made_ns in times.items() if path.stat().st_mtime_ns == made_ns}
    assert same == {first["file"], again["file"]}
    (tmp_path / "a.csv").write_text(ROWS)
    assert _generate(model, tmp_path)[0] == 0
    assert {name: _clips(tmp_path)[name] for name in made} == made


class Killed(BaseException):
    """Nothing that any code catches."""


@pytest.mark.parametrize("point", ["while a clip is written", "between clip and record", "after a record"])
def test_a_kill_at_any_point_leaves_what_the_same_command_goes_on_from(
    model: Path, tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    (tmp_path / "a.csv").write_text(ROWS)
    replace_file, seen = files.replace_file, []

    def killed(path: Path, content: bytes, sync: bool = False) -> None:
        seen.append(path)
        if point == "between clip and record" and len(seen) == 2:
            raise Killed
        replace_file(path, content, sync)
        if point == "after a record" and len(seen) == 2:
            raise Killed

    def half(path: Path, frames: Any, fps: float) -> None:
        path.write_bytes(b"half a clip")
        if len(seen) == 1:
            # As SIGKILL leaves it.
            shutil.copy(path, path.with_name(path.name.replace(".tmp", "x.tmp")))
            raise Killed
        write_h264(path, frames, fps)

    with monkeypatch.context() as patch:
        patch.setattr(clips, "replace_file", killed)
        if point == "while a clip is written":
            patch.setattr("lumina.video.write_h264", half)
        with pytest.raises(Killed):
            _generate(model, tmp_path)
    finished = 2 if point == "after a record" else 1
    assert sum(1 for _ in (tmp_path / "out" / ".clips").glob("*.mp4.json")) == finished
    code, output = _generate(model, tmp_path)
    assert code == 0, output
    assert f"{3 - finished} of them made now" in output
    assert not list((tmp_path / "out").rglob("*.tmp"))
    calm = tmp_path / "calm"
    calm.mkdir()
    (calm / "a.csv").write_text(ROWS)
    assert _generate(model, calm)[0] == 0
    assert _clips(calm) == _clips(tmp_path)
    assert _manifest(calm) == _manifest(tmp_path)


def test_what_fails_is_named_and_the_others_are_made(model: Path, tmp_path: Path, here: None) -> None:
    long = "red circle " * 300
    (tmp_path / "a.csv").write_text(
        f"prompt,size,frames,output\na,33x64,,wrong\nb,,10,odd\n{long},,,long\nc,64x32,,fits\n"
    )
    code, output = _generate(model, tmp_path)
    assert code == 1
    assert "a.csv, line 2: wrong.mp4 failed: width and height must be positive multiples of 32, got 33x64" in output
    assert "a.csv, line 3: odd.mp4 failed: a generated clip has 1 frame, or a multiple of 4 from 8 on" in output
    assert "2 of 4 clips are in" in output
    assert "1 of 2 prompts is longer than the 256 tokens" in output
    assert set(_clips(tmp_path)) == {"long.mp4", "fits.mp4"}
    cut, fits = _manifest(tmp_path)
    assert cut["tokens_cut"] > 0
    assert cut["text"].strip().endswith(cut["words_cut"])
    assert (fits["width"], fits["height"]) == (64, 32)


def test_what_a_network_refuses_is_the_clips_and_what_the_machine_refuses_is_not(
    model: Path, tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\nthree")
    cut = clips.ClipWorker.make

    def make(worker: clips.ClipWorker, batch: clips.Batch) -> None:
        if batch.requests[0].prompt == "two":
            raise torch.OutOfMemoryError("out of\nmemory")
        cut(worker, batch)

    monkeypatch.setattr(clips.ClipWorker, "make", make)
    code, output = _generate(model, tmp_path, name="a.txt")
    assert code == 1
    assert "line 2: two-" in output
    assert "failed: OutOfMemoryError: out of" in output
    assert len(_clips(tmp_path)) == 2

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(clips.ClipWorker, "make", full)
    code, output = _generate(model, tmp_path, name="a.txt")
    assert code == 1
    assert output.splitlines()[-1].startswith("error: two-")
    assert "No space left on device; free some space, and the same command continues" in output
    assert len(_manifest(tmp_path)) == 2


def test_a_folder_is_of_one_checkpoint_one_sampler_and_one_command(model: Path, tmp_path: Path, here: None) -> None:
    (tmp_path / "a.txt").write_text("one")
    assert _generate(model, tmp_path, name="a.txt")[0] == 0
    before = _clips(tmp_path)
    other = shutil.copytree(model, tmp_path / "other")
    config = json.loads((other / "text_encoder" / "config.json").read_text())
    (other / "text_encoder" / "config.json").write_text(json.dumps(config | {"note": 1}))
    for checkpoint, more, text in (
        (other, (), "holds clips of another checkpoint ("),
        (model, ("--steps", "3"), "holds clips of another sampler ("),
        (model, ("--dtype", "bfloat16"), "holds clips of another dtype (float32, and this is bfloat16)"),
        (model, ("--tiling",), "holds clips of another tiling"),
    ):
        code, output = _generate(checkpoint, tmp_path, *more, name="a.txt")
        assert code == 1
        assert text in output
        assert "name another --out, or delete that folder" in output
    with (tmp_path / "out" / ".clips" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, output = _generate(model, tmp_path, name="a.txt")
    assert (code, "another command is making clips in" in output) == (1, True)
    assert _clips(tmp_path) == before


def test_a_worker_with_little_memory_makes_the_same_clips_and_says_how(
    model: Path, tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("one")
    assert _generate(model, tmp_path, name="a.txt")[0] == 0
    [clip], [row] = _clips(tmp_path).values(), _manifest(tmp_path)
    assert row["tiling"] is False
    assert "0 of them made now" in _generate(model, tmp_path, "--offload", "model", name="a.txt")[1]
    moves: list[tuple[str, str]] = []
    move = torch.nn.Module.to

    def spy(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        moves.append((type(module).__name__, str(args[0]) if args else ""))
        return move(module, *args, **kwargs)

    found = ClipModel.find(str(model))
    sampler = found.defaults.sampler.model_copy(update={"steps": 2})
    settings = ClipSettings(sampler, "float32", "cpu", "auto", None, size=(32, 32))
    for tiled, offload in ((False, "none"), (True, "model")):
        for module in ("lumina.clip_frames", "jobs.clips"):
            monkeypatch.setattr(f"{module}.plan_memory", lambda *_, chosen=(tiled, offload): chosen)
        folder = tmp_path / offload
        with (
            monkeypatch.context() as patch,
            open_folder(folder, read_prompts(tmp_path / "a.txt"), found, settings) as out,
        ):
            patch.setattr(torch.nn.Module, "to", spy)
            moves.clear()
            out.make(RuntimeConfig(), 1, lambda done, total: None)
        # A frame of one tile is the same.
        assert (folder / row["file"]).read_bytes() == clip
        [made] = map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())
        assert made["tiling"] is tiled
        assert [name for name, _ in moves].count("Gemma2Model") == 1 + tiled


def test_nobodys_own_files_are_replaced(model: Path, tmp_path: Path, here: None) -> None:
    (tmp_path / "a.csv").write_text("prompt,output\na,mine\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.mp4").write_text("my own")
    code, output = _generate(model, tmp_path)
    assert code == 1
    assert "mine.mp4 is there and was not made by this command: name another output or --out" in output
    assert (tmp_path / "out" / "mine.mp4").read_text() == "my own"
    (tmp_path / "out" / "mine.mp4").unlink()
    shutil.rmtree(tmp_path / "out" / ".clips")
    (tmp_path / "out" / "manifest.jsonl").write_text("my own")
    assert "manifest.jsonl is there and was not made by this command" in _generate(model, tmp_path)[1]


def test_an_adapter_counts_as_another_checkpoint(model: Path, tmp_path: Path, here: None) -> None:
    loaded = TextToVideo.from_pretrained(model)
    config = LoraConfig(rank=2, targets=("wq", "w2"))
    add_adapters(loaded.transformer, config, torch.Generator().manual_seed(0))
    adapters = {name: value.data for name, value in loaded.transformer.named_parameters() if value.requires_grad}
    save_adapter({name: value + 0.1 for name, value in adapters.items()}, config, tmp_path / "adapter")
    (tmp_path / "a.txt").write_text("one")
    assert _generate(model, tmp_path, name="a.txt")[0] == 0
    with_adapter = ("--adapter", str(tmp_path / "adapter"), "--adapter-scale", "0.5")
    assert "holds clips of another checkpoint" in _generate(model, tmp_path, *with_adapter, name="a.txt")[1]
    (tmp_path / "out").rename(tmp_path / "plain")
    assert _generate(model, tmp_path, *with_adapter, name="a.txt")[0] == 0
    [row] = _manifest(tmp_path)
    adapted = TextToVideo.from_pretrained(model, adapter=tmp_path / "adapter", adapter_scale=0.5)
    sampler = adapted.defaults.sampler.model_copy(update={"steps": 2})
    frames = adapted("one", seed=row["seed"], width=32, height=32, sampler=sampler).frames[0]
    assert hashlib.sha256(frames.tobytes()).hexdigest() == row["frames_sha256"]
    assert "holds clips of another checkpoint" in _generate(model, tmp_path, *with_adapter[:2], name="a.txt")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--prompts", "a.txt", "--prompt", "x"],
            "give either --prompt TEXT, which may be repeated, or --prompts FILE",
        ),
        ([], "give either --prompt TEXT"),
        (["--prompts", "a.txt", "--out", "x.mp4"], "with --prompts it is the folder for all clips; give one without"),
        (["--prompts", "a.txt", "--out", "a.txt"], "--out a.txt is a file: with --prompts it is the folder"),
        (["--prompts", "a.txt", "--out", "a.txt/b"], "--out a.txt/b cannot be made: a.txt is no folder"),
        (["--prompt", "x", "--out", "folder"], "--out folder: expected a file name that ends in .mp4"),
        (["--prompt", "x", "--workers", "2"], "--workers 2: it is for many clips, and --prompts names no file"),
        (["--prompts", "none.txt"], "none.txt is no file: give one with a prompt on each line"),
        (["--prompts", "bad.csv"], "bad.csv, line 1: unknown column 'sed'; did you mean seed?"),
        (["--prompts", "a.txt", "--address", "http://head:8265"], "--checkpoint model is relative: name an absolute"),
        (["--prompts", "a.txt"], "model does not hold a text-to-video checkpoint"),
    ],
)
def test_it_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("folder", "model"):
        Path(name).mkdir()
    Path("a.txt").write_text("one")
    Path("bad.csv").write_text("prompt,sed\nx,1\n")
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(cli.app, ["generate", "--checkpoint", "model", *arguments])
    assert done.exit_code == 1
    assert message in done.output
    assert done.output.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_source_that_is_not_there_is_named_with_its_line(model: Path, tmp_path: Path, here: None) -> None:
    (tmp_path / "a.csv").write_text("prompt,source\na,\nb,studio\n")
    code, output = _generate(model, tmp_path)
    assert code == 1
    assert "line 3: no system prompt for source 'studio'; there are clean, web" in output
    assert not _clips(tmp_path)


def test_a_cluster_gets_the_code_the_prompts_and_a_command_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[Work, list[str], bytes]] = []

    def submit(client: object, work: Work, again: bool) -> Submitted:
        assert again
        prompts = (work.package / "prompts.csv").read_bytes()
        sent.append((work, sorted(path.name for path in work.package.iterdir()), prompts))
        return Submitted(Job("lumina-generate-1-a1", "RUNNING", "", None, None, {}), "started")

    monkeypatch.setattr("jobs.submit.connect", lambda address: address)
    monkeypatch.setattr("jobs.submit.submit", submit)
    monkeypatch.setattr("pipelines.commands.jobs.follow_job", lambda client, job, address: 1)
    monkeypatch.setattr("pipelines.commands.package.PACKAGES", ("lumina", "pipelines"))
    (tmp_path / "a.csv").write_text(ROWS)
    more = ["--seed", "3", "--source", "web", "--tiling", "--adapter", "hf:a/b", "--adapter-scale", "0.5"]
    code, output = _generate("/shared/model", tmp_path, *more, "--address", "http://head:8265/")
    assert code == 1, output
    assert "lumina-generate-1-a1: 3 clips for" in output
    [(work, names, prompts)] = sent
    assert {"lumina", "pipelines", "prompts.csv"} <= set(names)
    assert prompts.decode() == ROWS
    words = shlex.split(work.command)
    given = words[3 : words.index("--ray-address")]
    assert given[:5] == ["generate", "--checkpoint", "/shared/model", "--prompts", "prompts.csv"]
    assert given[5:7] == ["--out", str(tmp_path / "out")]
    assert sorted(given[7:]) == sorted([*more, *SMALL])
    assert words[:2] == ["python", "-c"]
    told = shlex.split(words[-1])
    assert told[:2] == ["lumina", "generate"]
    assert str(tmp_path / "a.csv") in told
    assert told[-2:] == ["--address", "http://head:8265"]
    # The same work has the same name; other prompts have another.
    for text in (ROWS, ROWS + "one more,,,,,\n"):
        (tmp_path / "a.csv").write_text(text)
        _generate("/shared/model", tmp_path, *more, "--address", "http://head:8265")
    assert [one.name == work.name for one, *_ in sent] == [True, True, False]
    (tmp_path / "a.csv").write_text("prompt,sed\n")
    code, output = _generate("/shared/model", tmp_path, "--address", "http://head:8265")
    assert (code, "did you mean seed?" in output, len(sent)) == (1, True, 3)


@pytest.mark.ray
def test_a_killed_worker_and_ctrl_c_cost_no_clip(
    model: Path, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.cluster.shutdown", lambda: None)
    (tmp_path / "a.txt").write_text("\n".join(f"circle {number}" for number in range(64)))
    records, acts = tmp_path / "out" / ".clips", []

    def disturb() -> None:
        while not list(records.glob("*.mp4.json")):
            time.sleep(0.01)
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "ClipWorker" in " ".join(process.cmdline()):
                    process.kill()
                    acts.append("killed")
        have = len(list(records.glob("*.mp4.json")))
        while len(list(records.glob("*.mp4.json"))) == have:
            time.sleep(0.01)
        # Later it would end the tests.
        if have < 32:
            acts.append("ctrl-c")
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    code, output = _generate(model, tmp_path, "--workers", "1", name="a.txt")
    thread.join()
    assert acts == ["killed", "ctrl-c"]
    assert code == 130, output
    assert "Stopped. Nothing is lost: the same command continues where it was:" in output
    assert f"lumina generate --checkpoint {model} --prompts" in output
    left = 64 - len(list(records.glob("*.mp4.json")))
    assert 0 < left < 64
    assert len(_manifest(tmp_path)) == 64 - left
    monkeypatch.setattr(clips, "hand_out", PoolHere())
    code, output = _generate(model, tmp_path, name="a.txt")
    assert code == 0, output
    assert f"{left} of them made now" in output
    before = _clips(tmp_path)
    shutil.rmtree(tmp_path / "out")
    assert _generate(model, tmp_path, name="a.txt")[0] == 0
    assert _clips(tmp_path) == before
