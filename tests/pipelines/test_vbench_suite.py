"""VBench in the DAG: what a stage is known by, mistakes that the plan tells, and what it costs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lumina.vbench.suite import official_clips
from lumina.vbench.suite_config import DIMENSIONS, NATIVE
from pipelines.config import PipelineConfig, load_config
from pipelines.engine.fingerprint import Identifier
from pipelines.engine.stage import Stage
from pipelines.errors import PipelineError
from pipelines.load import ConfigError
from pipelines.reports.cluster import _clips
from pipelines.run_lock import portable
from pipelines.text_to_video import build
from tests.conftest import SHARED

ENTRIES = [
    {"prompt_en": "a red car", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a dog", "dimension": ["subject_consistency", "dynamic_degree", "imaging_quality"]},
]
SCORE = "choose.score={vbench_native/temporal_flickering: 1}"
IDENTIFIER = Identifier()
JUDGED = ["evaluate@handheld", "evaluate@synthetic", "evaluate@web", "evaluate_final"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A prompt file and a file of weights."""
    (tmp_path / "VBench_full_info.json").write_text(json.dumps(ENTRIES))
    (tmp_path / "dino.pth").write_bytes(b"dino")
    return tmp_path


def _config(place: Path, suite: str = "dimensions: [temporal_flickering]", *more: str) -> PipelineConfig:
    prompts = place / "VBench_full_info.json"
    return load_config("demo", [f"evaluate.suite={{kind: vbench, prompts: {prompts}, {suite}}}", SCORE, *more])


def _stages(config: PipelineConfig) -> Mapping[str, Stage]:
    return build(config).by_name


def _identity(config: PipelineConfig) -> str:
    recipe, _ = IDENTIFIER.base(_stages(config)["evaluate@web"])
    return json.dumps(recipe, sort_keys=True)


def test_every_system_prompt_and_the_final_model_are_judged_by_the_suite(place: Path) -> None:
    stages = _stages(_config(place, f"weights: {{dino: {place / 'dino.pth'}}}"))
    for name in JUDGED:
        assert stages[name].entry.startswith("jobs.evaluate_vbench:run")
        assert stages[name].weights.keys() == {"vae", "text_encoder", "vbench.dino"}
        assert stages[name].files == {"vbench_prompts": place / "VBench_full_info.json"}
    suite = stages["evaluate@web"].config.suite  # type: ignore[attr-defined]
    assert suite.dimensions == ("subject_consistency", "temporal_flickering")
    assert stages["evaluate@web"].execution.tier.kind == "metric"


def test_files_and_networks_are_known_by_content_wherever_they_lie(place: Path, tmp_path: Path) -> None:
    given = f"weights: {{dino: {place / 'dino.pth'}}}"
    before = _identity(_config(place, given))
    assert str(place) not in before
    other = tmp_path / "elsewhere"
    other.mkdir()
    for name in ("VBench_full_info.json", "dino.pth"):
        (other / name).write_bytes((place / name).read_bytes())
    elsewhere = f"weights: {{dino: {other / 'dino.pth'}, raft: {other / 'dino.pth'}}}"
    named = "dimensions: [temporal_flickering, subject_consistency]"
    assert _identity(_config(other, f"{given}, {named}")) == before
    assert _identity(_config(other, f"{elsewhere}, {named}", "evaluate.width=128", "evaluate.height=128")) != before
    (other / "dino.pth").write_bytes(b"another")
    assert _identity(_config(other, f"weights: {{dino: {other / 'dino.pth'}}}")) != before
    (other / "VBench_full_info.json").write_text(json.dumps(ENTRIES[::-1]))
    assert _identity(_config(other, given)) != before


def test_the_official_environment_is_known_by_its_versions(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SHARED / "golden_vbench" / "fake_interpreter"
    if not fake.is_dir():
        pytest.skip(f"no golden fixtures at {fake}")
    monkeypatch.setenv("PYTHONPATH", str(fake))
    suite = f"python: {sys.executable}, dimensions: [temporal_flickering, imaging_quality], official: [all]"
    config = _config(place, suite, "choose.score={vbench/imaging_quality: 1}")
    stage = _stages(config)["evaluate@web"]
    assert "torch 2." in stage.facts["vbench_python"]
    assert stage.execution.locations["vbench_python"] == Path(sys.executable)
    assert sys.executable not in _identity(config)
    assert stage.config.suite.official == ("temporal_flickering", "imaging_quality")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("suite", "more", "message"),
    [
        ("dimensions: [dynamic_degre]", "", "there is no dimension 'dynamic_degre'; did you mean 'dynamic_degree'?"),
        ("dimensions: [color]", "", "evaluate.suite.dimensions names color, which needs the official vbench: set eval"),
        ("dimensions: [aesthetic_quality]", "", "aesthetic_quality, which needs weights of clip_l14, aesthetic, or"),
        ("weights: {raft: x}", "", "temporal_flickering needs sides of 128 pixels"),
        ("dimensions: [temporal_flickering]", "evaluate.samples=6", "VBench looks at 5 clips of a prompt at most"),
        ("dimensions: [temporal_flickering]", "choose.score={vbench/total: 1}", "it measures vbench_native/temporal_f"),
        ("dimensions: [temporal_flickering]", "choose.score={vbench/totl: 1}", "unknown metric 'vbench/totl'"),
    ],
)
def test_mistakes_of_the_config_are_one_line(place: Path, suite: str, more: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _config(place, suite, *([more] if more else []))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mistakes_of_files_are_one_line(place: Path) -> None:
    (place / "old.json").write_text(json.dumps([{"prompt": "a dog"}]))
    (place / "few.csv").write_text("prompt,text\na dog,A brown dog runs.\n")
    dino = f"weights: {{dino: {place / 'dino.pth'}}}"
    for suite, message in (
        (f"prompts: {place / 'old.json'}", "evaluate.suite.prompts: .*entry 1: expected an object with the text"),
        (f"prompts: {place / 'none.json'}", "evaluate.suite.prompts: .*none.json is no file: expected VBench_full"),
        (
            "dimensions: [human_action, temporal_flickering], weights: {human_action: x}",
            "evaluate.suite.prompts: .* no prompt for human",
        ),
        ("weights: {dino: /nowhere}", "evaluate.suite.weights.dino: /nowhere is no folder"),
        (f"{dino}, augmented: {place / 'few.csv'}", "evaluate.suite.augmented: .* no text for 1 prompts"),
        (
            f"dimensions: [imaging_quality, temporal_flickering], python: {sys.executable}",
            "evaluate.suite.python: .* has no vbench; docs/vbench.md has the recipe",
        ),
        (
            "dimensions: [imaging_quality, temporal_flickering], python: /nowhere/python",
            "evaluate.suite.python: /nowhere/python is no interpreter",
        ),
    ):
        given = "" if suite.startswith("prompts") else f"prompts: {place / 'VBench_full_info.json'}, "
        config = load_config("demo", [f"evaluate.suite={{kind: vbench, {given}{suite}}}", SCORE])
        with pytest.raises(PipelineError, match=message) as caught:
            build(config)
        assert "\n" not in str(caught.value)


def test_a_recorded_config_means_the_same_elsewhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    suite = "{kind: vbench, prompts: VBench_full_info.json, weights: {dino: dino.pth}}"
    config = load_config("demo", [f"evaluate.suite={suite}", SCORE])
    held = portable(config)["evaluate"]["suite"]
    assert held["prompts"] == str(place / "VBench_full_info.json")
    assert held["weights"]["dino"] == str(place / "dino.pth")
    assert held["python"] is None


def test_clips_are_counted_with_and_without_the_prompt_file(place: Path) -> None:
    assert official_clips(DIMENSIONS, 5, filters=True) == 6220
    assert official_clips(DIMENSIONS, 3, filters=False) == 3 * 944
    assert official_clips(("dynamic_degree", "subject_consistency"), 5, filters=True) == 360
    assert len(NATIVE) == 7
    assert _clips(_config(place, "dimensions: [temporal_flickering]", "evaluate.samples=3").evaluate) == 3
    missing = load_config("demo", [f"evaluate.suite={{kind: vbench, prompts: {place / 'x'}}}", SCORE])
    assert _clips(missing.evaluate) == 75 * missing.evaluate.samples
