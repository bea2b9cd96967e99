"""The Python on the pages runs; what they add to the program is added to a copy of it, and used."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines import cli
from tests.docs.pages import ROOT, Block, blocks, commands

PYTHON = blocks("python")
_NEW_FILE = re.compile(r"A new file, `([\w/.]+)`:\s*$")


def of_page(name: str, language: str) -> list[Block]:
    """The blocks of one page, in order."""
    return [block for block in blocks(language) if block.page.name == name]


def new_file(block: Block) -> str | None:
    """The file that a block is, if the line before it says so."""
    before = "\n".join(block.page.read_text(encoding="utf-8").split("\n")[: block.line - 1])
    match = _NEW_FILE.search(before)
    return match[1] if match else None


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program with what both pages add to it."""
    copy = tmp_path_factory.mktemp("edited") / "lumina-video"
    for folder in ("lumina", "curation", "jobs", "pipelines", "tests"):
        # What is compiled already stays so; files with two suffixes are being written.
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("*.pyc.*"))
    for page in ("adding_a_stage.md", "adding_a_metric.md"):
        for block in of_page(page, "python"):
            if name := new_file(block):
                (copy / name).write_text(block.text, encoding="utf-8")
        for block in of_page(page, "diff"):
            # Numbers of lines move with every commit: the lines around them tell the place.
            command = ["git", "apply", "--recount", "--unidiff-zero", "-C2", "-"]
            done = subprocess.run(command, input=block.text, text=True, cwd=copy, capture_output=True)
            assert done.returncode == 0, f"{block.where} does not fit the code any more: {done.stderr}"
    return copy


def python(copy: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder` on the program in `copy`."""
    # As a submitted job does: workers of a cluster that is up already would import the program as it is installed.
    job = {"runtime_env": {"env_vars": {"PYTHONPATH": str(copy)}}}
    environment = {**os.environ, "PYTHONPATH": str(copy), "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job)}
    environment |= {"COLUMNS": "200"}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


def lumina(copy: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line of the program in `copy`."""
    return python(copy, folder, "-c", "from pipelines.cli import main; main()", *words)


def test_generation_from_python(with_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = [block for block in PYTHON if "TextToVideo" in block.text]
    monkeypatch.chdir(with_checkpoint)
    names: dict[str, object] = {}
    exec(compile(block.text, block.where, "exec"), names)  # noqa: S102 - the page's own code
    assert len(names["clips"].frames) == 2  # type: ignore[attr-defined]


def test_a_pipeline_of_diffusers(
    with_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusers.utils import dynamic_modules_utils

    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(with_checkpoint)
    [block] = of_page("diffusers.md", "python")
    names: dict[str, object] = {}
    exec(compile(block.text, block.where, "exec"), names)  # noqa: S102 - the page's own code
    assert (with_checkpoint / "first.png").is_file()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["0", "1", "2", "3"]


def test_every_block_of_python_is_run() -> None:
    run = {"README.md": 1, "diffusers.md": 1, "export_data.md": 1, "adding_a_stage.md": 2, "adding_a_metric.md": 1}
    found = {name: sum(block.page.name == name for block in PYTHON) for name in {b.page.name for b in PYTHON}}
    assert found == run, "say in tests/docs/test_code.py how the others are run"


def test_exported_data_is_read_as_the_page_says(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("webdataset")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    for options in (["--out", "tables", "--as", "parquet"], ["--out", "shards_with_clips", "--clips"]):
        done = CliRunner().invoke(cli.app, ["export-data", "my-run", "--store", str(curated / "runs"), *options])
        assert done.exit_code == 0, done.output
    [block] = of_page("export_data.md", "python")
    names: dict[str, Any] = {}
    exec(compile(block.text, block.where, "exec"), names)  # noqa: S102 - the page's own code
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(names["clips"]["train"]) > 0
    assert all("a red" in line for line in printed)


def test_added_code_keeps_the_rules_of_the_house(edited: Path) -> None:
    shutil.copyfile(ROOT / "pyproject.toml", edited / "pyproject.toml")
    files = ["curation/brightness.py", "lumina/evaluation/metrics.py"]
    for tool in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *tool, *files], cwd=edited, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.ray
def test_an_added_stage_runs(edited: Path, desk: Path, tmp_path: Path, ray_cluster: None) -> None:
    import ray

    folder = shutil.copytree(desk, tmp_path / "desk")
    address = ["-o", f"runtime.ray_address={ray.get_runtime_context().gcs_address}"]
    plan, run, *_ = (c.words[1:] for c in commands() if c.where.startswith("adding_a_stage.md"))
    planned = lumina(edited, folder, *plan)
    assert planned.returncode == 2, planned.stdout + planned.stderr
    assert re.search(r"score@brightness\W+run", planned.stdout), planned.stdout
    done = lumina(edited, folder, *run, *address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"select\W+done", done.stdout), done.stdout
    [look] = [block for block in of_page("adding_a_stage.md", "python") if new_file(block) is None]
    shown = python(edited, folder, "-c", look.text)
    assert shown.returncode == 0, shown.stderr
    assert len(re.findall(r"0\.[3-6]\d+\s+ok", shown.stdout)) == 6, shown.stdout


def test_an_added_metric_is_measured(edited: Path, desk: Path, tmp_path: Path) -> None:
    [look] = of_page("adding_a_metric.md", "python")
    done = python(edited, tmp_path, "-c", look.text)
    assert done.returncode == 0, done.stderr
    for command in commands():
        if command.where.startswith("adding_a_metric.md"):
            planned = lumina(edited, desk, *shlex.split(command.text)[1:], "--store", str(tmp_path / "none"))
            assert planned.returncode == 2, planned.stdout + planned.stderr
    script = edited / "tests" / "docs" / "evaluate_once.py"
    done = python(edited, tmp_path, str(script), str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])["offline/brightness_range"]
    assert 0 < found["value"] < 1
    assert found["low"] <= found["value"] <= found["high"]
