"""VBench suite in the DAG: its prompt file, weights and official environment, checked before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from jobs.evaluate_vbench import AUGMENTED, PROMPTS, PYTHON, WEIGHTS
from lumina.files import place_of
from lumina.vbench.augmented import read_augmented
from lumina.vbench.clip_files import clip_name
from lumina.vbench.dimensions import OFFICIAL_SAMPLES
from lumina.vbench.official import OfficialError, official_versions
from lumina.vbench.prompts import find_prompts, read_prompts
from lumina.vbench.suite_config import VBenchSuite, judged_by
from pipelines.engine.fingerprint import locate_weights
from pipelines.engine.stage import Stage
from pipelines.errors import PipelineError


def with_suite(stages: list[Stage], suite: VBenchSuite, where: str) -> list[Stage]:
    """Stages that evaluate, with what the suite reads: known by content, and the official code by its versions.

    Args:
        stages: those of `jobs.evaluate_vbench`.
        suite: as the config has it.
        where: names its setting in errors, e.g. `evaluate.suite`.

    Raises:
        PipelineError: the prompts, the weights or the official environment cannot be used.
    """
    files = _prompt_files(suite, where)
    networks = {name: _network(place, f"{where}.weights.{name}") for name, place in _networks(suite, where).items()}
    official = any(judged_by(name, suite) == "official" for name in suite.judged())
    facts, locations = {}, {}
    if official and suite.python is not None:
        facts[PYTHON] = _versions(suite.python, where)
        locations[PYTHON] = place_of(suite.python) if suite.python.exists() else suite.python
    return [
        replace(
            stage,
            files={**stage.files, **files},
            weights={**stage.weights, **{f"{WEIGHTS}{name}": place for name, place in networks.items()}},
            facts={**stage.facts, **facts},
            execution=replace(stage.execution, locations={**stage.execution.locations, **locations}),
        )
        for stage in stages
    ]


def _prompt_files(suite: VBenchSuite, where: str) -> dict[str, Path]:
    setting = f"{where}.prompts"
    try:
        file = place_of(find_prompts(suite.prompts))
        prompts = read_prompts(file, suite.judged())
        for prompt in prompts:
            clip_name(prompt.text, OFFICIAL_SAMPLES)
        files = {PROMPTS: file}
        if suite.augmented is not None:
            setting = f"{where}.augmented"
            read_augmented(suite.augmented, prompts)
            files[AUGMENTED] = place_of(suite.augmented)
    except (OSError, ValueError) as error:
        raise PipelineError(f"{setting}: {error}") from error
    return files


def _networks(suite: VBenchSuite, where: str) -> dict[str, str]:
    """Weights that are used, by their settings: the names of the actions are some."""
    from lumina.vbench.judges import actions_file

    found = suite.networks()
    if "human_action" in found:
        try:
            found["actions"] = str(actions_file(suite.weights))
        except FileNotFoundError as error:
            raise PipelineError(f"{where}.weights.actions: {error}") from error
    return found


def _network(place: str, where: str) -> str:
    locate_weights(place, where)
    return place


def _versions(python: Path, where: str) -> str:
    try:
        found = official_versions(python)
    except OfficialError as error:
        raise PipelineError(f"{where}.python: {error}") from error
    if found.get("vbench") == "not installed":
        raise PipelineError(f"{where}.python: {python} has no vbench; docs/vbench.md has the recipe")
    return ", ".join(f"{name} {version}" for name, version in found.items())
