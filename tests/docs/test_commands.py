"""Every command on the pages runs, or is held against the real command line where this machine lacks what it needs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from pipelines import cli
from pipelines.sweep.arms import read_seeds, read_sweep
from tests.docs.pages import ROOT, Command, commands


@dataclass(frozen=True)
class Run:
    """The command is run."""

    world: str
    """The fixture with the folder in which it runs; on a copy where it changes a store."""
    codes: tuple[int, ...] = (0,)
    """The exit code that the page promises."""


@dataclass(frozen=True)
class Read:
    """The command is not run: its words are taken apart by the program itself, and its config is loaded."""

    why: str


HOURS = "minutes to hours of work; other tests run the stages"
CLUSTER = "needs a Ray cluster with a dashboard; tests/jobs/test_submit.py has one"
AGAIN = "computes a recorded run again; tests/pipelines/rerun does"
OTHER = "not a command of ours: what it names must be there"
NETWORKS = "needs released weights; tests/pipelines/test_cli.py converts small ones"
SERVER = "a server that stays; tests/jobs/test_serve.py has one"
SMALL = "tests/pipelines/commands/test_assemble.py runs it on small files in the layout of the released ones"

RULES: tuple[tuple[str, Run | Read], ...] = (
    # Run.
    (r"lumina run folder -o data.manifest=clips.csv --until curation_page", Run("ran")),
    (r"lumina status.*", Run("ran")),
    (r"lumina plan .*brightness.*", Read("of an edited program: test_code.py runs it")),
    (r"lumina run .*brightness.*", Read("of an edited program: test_code.py runs it")),
    (r"lumina plan (demo|folder|my\.yaml).*", Run("desk", (2,))),
    (r"lumina plan v2a .*", Read("needs published weights; tests/pipelines/test_video_to_audio.py loads it")),
    (r"lumina sweep .* --plan", Run("desk", (2,))),
    (r"lumina cost (demo|paper|v2a|2B_GQA|my\.yaml).*", Run("desk")),
    (r"lumina probe my_videos/clip\.mp4", Run("desk")),
    (r"lumina generate --checkpoint \S+ --prompts .*", Read("tests/pipelines/commands/test_generate_many.py runs it")),
    (r"lumina generate --checkpoint exported .*", Run("with_checkpoint")),
    (r"lumina (compare|report).*", Run("compared")),
    (r"lumina diff my-run my-run --other-store .*", Run("compared")),
    (r"lumina diff my-run another-run.*", Run("compared", (4,))),
    (r"lumina verify.*", Run("compared_copy")),
    (r"lumina gc.*", Run("compared_copy")),
    (r"lumina track", Run("compared_copy")),
    (r"lumina cluster check .+", Run("program")),
    (r"lumina selection.*", Run("curated")),
    (r"lumina export-data .*s3://.*", Read("tests/pipelines/commands/test_export_data.py exports to a bucket")),
    (r"lumina export-data my-run .*", Run("curated_copy")),
    (r"lumina quarantine --retry .*", Run("curated_copy")),
    (r"lumina quarantine.*", Run("curated")),
    # Read.
    (r"lumina (run|submit)( .*)?", Read(HOURS)),
    (r"lumina sweep .*", Read(HOURS)),
    (r"lumina jobs .*", Read(CLUSTER)),
    (r"lumina rerun .*", Read(AGAIN)),
    (r"lumina serve .*", Read(SERVER)),
    (r"lumina vbench .*", Read("tests/pipelines/commands/test_vbench.py runs it")),
    (r"lumina study .*", Read("tests/pipelines/commands/test_study.py runs it")),
    (r"lumina convert.*", Read(NETWORKS)),
    (r"lumina (assemble|generate --checkpoint) lumina-video .*", Read(SMALL)),
    (r"lumina [a-z]+(-data)?( [a-z]+)?", Read("named in a sentence")),
    (r"lumina av-benchmark .*", Read("tests/pipelines/commands/test_av_benchmark.py runs it on a stand-in")),
    (r"lumina sound .*", Read("tests/pipelines/commands/test_sound.py runs it")),
    (r"lumina (generate|diff|probe|track|COMMAND)\b.*", Read("names in capitals stand for something else")),
    (r"make \w+", Read(OTHER)),
    (r"mlflow ui .*", Read("a server that stays")),
    (
        r"mlflow (experiments|runs) restore .*",
        Read("needs what was deleted; tests/pipelines/tracking/test_left_out.py has one"),
    ),
    (r"curl .*", Read(SERVER)),
    (r"(\.|cp|export|python|pip|hf|aws|kubectl|docker|ray) .*", Read(OTHER)),
)
COMMANDS = commands()
ALIASES = {
    "decode_timeout": "decode_error",
    "sha256:...": f"sha256:{'0' * 64}",
    "efs...": "efs.us-west-2.amazonaws.com",
}
"""What stands in for parts of a command: a broken file is made sooner than one that takes two minutes to decode."""


def rule(command: Command) -> Run | Read:
    for pattern, how in RULES:
        if re.fullmatch(pattern, command.text):
            return how
    raise AssertionError(f"{command.where}: say in tests/docs/test_commands.py how {command.text!r} is tested")


def test_every_command_is_tested_in_a_stated_way() -> None:
    assert COMMANDS
    for command in COMMANDS:
        rule(command)
    for pattern, _ in RULES:
        assert any(re.fullmatch(pattern, command.text) for command in COMMANDS), f"no page has {pattern}"


@pytest.fixture(scope="session")
def ran(desk: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of curation, as `your_data.md` begins."""
    from jobs import cluster

    folder = shutil.copytree(desk, tmp_path_factory.mktemp("docs") / "ran")
    with pytest.MonkeyPatch.context() as patch:
        # The cluster is everybody's.
        patch.setattr(cluster, "shutdown", lambda: None)
        patch.chdir(folder)
        arguments = ["run", "folder", "-o", "data.manifest=clips.csv", "--until", "curation_page"]
        done = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    assert "curation.html" in done.output
    return folder


def _marked(command: Command) -> Any:
    how = rule(command)
    marks = [pytest.mark.ray] if isinstance(how, Run) and how.world == "ran" else []
    return pytest.param(command, id=f"{command.where} {command.text}"[:90], marks=marks)


@pytest.mark.parametrize("command", [_marked(c) for c in COMMANDS if isinstance(rule(c), Run)])
def test_it_runs(command: Command, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    how = rule(command)
    assert isinstance(how, Run)
    folder: Path = request.getfixturevalue(how.world)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    if how.world == "ran":
        monkeypatch.setattr("jobs.cluster.shutdown", lambda: None)
    places = {**ALIASES, "/shared/": f"{folder}/shared/"}
    words = [reduce(lambda word, item: word.replace(*item), places.items(), word) for word in command.words[1:]]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code in how.codes, f"{command.where}: {command.text}\n{done.output}\n{done.exception!r}"
    assert done.output.strip()


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, id=f"{c.where} {c.text}"[:90]) for c in COMMANDS if isinstance(rule(c), Read)],
)
def test_it_would_run(command: Command, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    program, *words = command.words
    check = OTHERS.get(program, _refused)
    if program == "lumina":
        _check_lumina(command, words)
    else:
        check(words)


def _check_lumina(command: Command, words: list[str]) -> None:
    if words[0] == "COMMAND":
        assert CliRunner().invoke(cli.app, words[1:]).exit_code == 0
        return
    group: Any = typer.main.get_command(cli.app)
    while hasattr(group, "commands"):
        assert words, f"{command.where}: {command.text} names no command"
        assert words[0] in group.commands, f"{command.where}: there is no command {words[0]}"
        group, words = group.commands[words[0]], words[1:]
    if command.inline:
        # In a sentence a command may stand without what it needs; what it has must be right.
        options = {name for parameter in group.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options, f"{command.where}: {command.text}"
        return
    values = group.make_context("lumina", list(words)).params
    if group.name == "sweep":
        read_sweep(values["config"], values["override"], values["arms"], read_seeds(values["seeds"]))
    elif "override" in values and values.get("config") is not None and "brightness" not in command.text:
        _check_config(values["config"], [*(values.get("override") or []), *_store(values)])


def _store(values: dict[str, Any]) -> list[str]:
    return [f"store={values['store']}"] if values.get("store") else []


def _check_config(name: str, overrides: list[str]) -> None:
    from curation.manifests import read_manifest
    from pipelines.config import load_config

    settings = load_config(name, overrides, needs_clips=any("data.manifest" in override for override in overrides))
    if settings.data.manifest is not None and any("data.manifest" in override for override in overrides):
        assert read_manifest(settings.data.manifest, settings.ingest).rows


def _make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words) <= set(targets)


def _copy(words: list[str]) -> None:
    assert (ROOT / words[0]).is_file()


def _source(words: list[str]) -> None:
    assert words == [".venv/bin/activate"]
    assert "VENV := .venv\n" in (ROOT / "Makefile").read_text()


def _export(words: list[str]) -> None:
    name = words[0].partition("=")[0]
    assert any(name in file.read_text() for file in (ROOT / "pipelines" / "commands").glob("*.py")), name


def _python(words: list[str]) -> None:
    """The module or script is there, and has the options."""
    module = ROOT / (words[1].replace(".", "/") if words[0] == "-m" else words[0].removesuffix(".py"))
    found = [file for file in (module.with_suffix(".py"), module / "__main__.py") if file.is_file()]
    assert found, words
    text = found[0].read_text()
    assert all(f'"{word}"' in text for word in words[1:] if word.startswith("--")), words


def _pip(words: list[str]) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert words[0] == "install"
    if len(words) > 2:  # For who has not our code: what `docs/diffusers.md` imports, and diffusers asks for accelerate.
        ours = {re.split(r"[\[<>=]", one)[0] for one in project["dependencies"]}
        assert set(words[1:]) <= ours | {"accelerate"}
        return
    match = re.fullmatch(r"([\w-]+)\[(\w+)\]", words[-1])
    assert match
    assert match[1] == project["name"]
    assert match[2] in project["optional-dependencies"]


def _hub(words: list[str]) -> None:
    """The tool has the command and its options; hub ids are those of the shipped configs, or of `assemble --help`."""
    known = _hub_help(tuple(word for word in words if re.fullmatch(r"[a-z]+", word)))
    assert all(f"{word} " in known for word in words if word.startswith("--")), known
    configs = "".join(file.read_text() for file in (ROOT / "pipelines" / "configs").glob("*.yaml"))
    # Nothing trains on the released transformer as the hub has it.
    configs += (ROOT / "pipelines" / "commands" / "assemble.py").read_text()
    assert all(word in configs for word in words if re.fullmatch(r"[\w-]+/[\w.-]+", word))


@cache
def _hub_help(names: tuple[str, ...]) -> str:
    code = "from huggingface_hub.cli.hf import main; main()"
    words = [sys.executable, "-c", code, *names, "--help"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def _curl(words: list[str]) -> None:
    """The server has the route, and takes the body."""
    from starlette.applications import Starlette
    from starlette.routing import Match

    from jobs.serve_api import make_app
    from jobs.serve_request import Limits, Served, parse_request
    from lumina.generation_config import GenerationConfig
    from tests.lumina.tiny import TINY

    served = Served("exported", "exported", TINY, GenerationConfig(), ("synthetic",))
    app: Any = make_app(served, Limits(), lambda: pytest.fail("nothing is made"), ())
    inner: Starlette = app._app
    [url] = [word for word in words if word.startswith("http://127.0.0.1:8000/")]
    body = words[words.index("-d") + 1] if "-d" in words else None
    method = words[words.index("-X") + 1] if "-X" in words else "POST" if body else "GET"
    scope = {"type": "http", "method": method, "path": url.removeprefix("http://127.0.0.1:8000")}
    assert any(route.matches(scope)[0] is Match.FULL for route in inner.routes), words
    if body is not None:
        parse_request(json.loads(body))


def _mlflow(words: list[str]) -> None:
    import click
    from mlflow.cli import cli as group

    found, rest = group.get_command(click.Context(group), words[0]), list(words[1:])
    while isinstance(found, click.Group):
        found = found.get_command(click.Context(found), rest.pop(0))
    assert found is not None
    found.make_context("mlflow", rest)


def _elsewhere(words: list[str]) -> None:
    """A tool of others that is not here: the files of ours that it is given must be there."""
    made = {command.words[command.words.index("--out") + 1] for command in COMMANDS if "--out" in command.words}
    for word in words:
        if re.search(r"\.(ya?ml|py)$|^Dockerfile$", word):
            assert word in made or (ROOT / word).is_file(), word
    if words[:1] == ["build"]:
        assert (ROOT / "Dockerfile").is_file()


def _refused(words: list[str]) -> None:
    raise AssertionError(f"no test knows what to do with {words}")


OTHERS: dict[str, Callable[[list[str]], None]] = {
    "make": _make,
    "cp": _copy,
    ".": _source,
    "export": _export,
    "python": _python,
    "pip": _pip,
    "hf": _hub,
    "curl": _curl,
    "mlflow": _mlflow,
    "aws": _elsewhere,
    "kubectl": _elsewhere,
    "docker": _elsewhere,
    "ray": _elsewhere,
}
