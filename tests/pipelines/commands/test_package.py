"""What is sent to a cluster for one run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from jobs.submit import Job
from pipelines.commands.jobs import _lacks
from pipelines.commands.package import Package, make_package
from pipelines.config import load_config


def package(folder: Path, recompute: Sequence[str], until: str | None = None) -> Package:
    settings = load_config("demo", [f"store={folder.parent / 'store'}"])
    folder.mkdir()
    return make_package(settings, folder, until, "lumina submit demo", recompute=recompute)


def test_what_is_to_be_computed_again_is_said_to_the_run_and_is_no_part_of_the_name(tmp_path: Path) -> None:
    plain, let_through = package(tmp_path / "plain", ()), package(tmp_path / "rerun", ("train@2", "all"))
    assert let_through.name == plain.name
    assert let_through.metadata["fingerprint"] == plain.metadata["fingerprint"]
    words = shlex.split(let_through.command)
    assert words[words.index("run") :] == [
        "run", "config.yaml", "--recompute", "train@2", "--recompute", "all", "--continue-with", "lumina submit demo",
    ]  # fmt: skip
    assert "--recompute" not in plain.command
    assert package(tmp_path / "until", (), "motion").name != plain.name


def test_a_job_that_was_submitted_without_the_word_says_so() -> None:
    job = Job("lumina-demo-1-a1", "RUNNING", "", None, None, {"recompute": "train@1 train@2"})
    assert _lacks(job, []) == _lacks(job, ["train@2"]) == ""
    assert "without --recompute all --recompute finetune: " in _lacks(job, ["finetune", "train@1", "all"])
