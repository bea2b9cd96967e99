from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from jobs.runtime import RuntimeConfig
from lumina.training.stage import LoraConfig
from lumina.training.weights.lora import add_adapters, save_adapter
from lumina.video import read_frames
from pipelines import cli
from pipelines.engine.code_closure import CodeIndex
from pipelines.engine.code_drift import DriftPolicy
from pipelines.engine.fingerprint import DigestCache, Identifier
from pipelines.engine.stage import Pipeline
from pipelines.tracking.tracker import Links
from tests.lumina.tiny import TINY, dit_without_zeros, text_to_video
from tests.pipelines import toy

HEAVY = {"ray", "mlflow", "torch", "deepspeed", "transformers", "diffusers", "pandas", "matplotlib", "cv2", "av"}


class Settings:
    """Stands in for a PipelineConfig."""

    runtime, tracking_uri, min_free_gb, store_cache = RuntimeConfig(), None, 0.0, None
    policy = DriftPolicy(None, 900.0)

    def drift_policy(self, recompute: Sequence[str] = ()) -> DriftPolicy:
        return replace(self.policy, recompute=frozenset(recompute))

    example_prompt = staticmethod(lambda: 'It\'s a "red" circle.')

    def __init__(self, overrides: list[str]) -> None:
        self.values = {"name": "toy", **dict(item.split("=") for item in overrides)}
        self.name, self.store = self.values["name"], self.values["store"]

    def model_dump(self, mode: str) -> dict[str, Any]:
        sections = {"data": {}, "ingest": {}, "weights": {}, "runtime": self.runtime.model_dump(mode=mode)}
        return {**self.values, **sections}


class Untracked:
    """Stands in for MLflow: importing it takes seconds."""

    def __init__(self, *arguments: object, **options: object) -> None:
        self.begin_stage = self.point = self.end_stage = lambda *_: None

    def stage_run(self, stage: str) -> dict[str, Any]:
        return {}

    def close(self, state: str, timeout_s: float = 0) -> Links:
        return Links(
            "sqlite:////x/mlflow.db", "mlflow ui --backend-store-uri sqlite:////x/mlflow.db", "", "", "", "", None
        )


@pytest.fixture
def lumina(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call the command line on a toy pipeline."""

    def build(settings: Settings) -> Pipeline:
        if "bad" in settings.values:
            return Pipeline("toy", (toy.stage("bad", "fail"), toy.stage("after", inputs=("bad",))))
        return toy.diamond(b=settings.values.get("b", "b"))

    monkeypatch.setattr("pipelines.dag.build", build)
    monkeypatch.setattr("pipelines.config.load_config", lambda name, overrides: Settings(overrides))
    monkeypatch.setattr("pipelines.run_lock.portable", lambda settings: settings.model_dump(mode="json"))
    monkeypatch.setattr("pipelines.tracking.tracker.MlflowTracking", Untracked)
    monkeypatch.setenv("COLUMNS", "140")

    def identify(cache: DigestCache) -> Identifier:
        return Identifier(code=CodeIndex({"tests": toy.TESTS}), cache=cache)

    monkeypatch.setattr("pipelines.engine.plan.Identifier", identify)
    monkeypatch.setattr("pipelines.engine.runner.Identifier", identify)
    monkeypatch.setattr("pipelines.engine.fingerprint.Identifier", identify)

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(cli.app, [*arguments, "--store", str(tmp_path / "store")])

    return call


def test_plan_run_plan(lumina: Any) -> None:
    planned = lumina("plan", "toy")
    assert planned.exit_code == 2
    assert "4 stages: 4 run" in planned.output
    done = lumina("run", "toy")
    assert done.exit_code == 0, done.output
    assert "4 stages done, 0 of them cached" in done.output
    assert "mlflow ui --backend-store-uri" in done.output
    assert lumina("plan", "toy").exit_code == 0
    again = lumina("run", "toy")
    assert "Every stage is cached" in again.output
    changed = lumina("plan", "toy", "-o", "b=B", "--json")
    assert changed.exit_code == 2
    stages = {entry["name"]: entry for entry in json.loads(changed.output)["stages"]}
    assert stages["b"]["reason"] == "config.text b -> B"


def test_until_runs_only_what_is_needed(lumina: Any) -> None:
    assert "2 stages done" in lumina("run", "toy", "--until", "b").output
    assert lumina("run", "toy", "--until", "nowhere").exit_code == 1


def test_a_failure_says_what_where_and_how_to_go_on(lumina: Any, tmp_path: Path) -> None:
    failed = lumina("run", "toy", "-o", "bad=1")
    assert failed.exit_code == 1
    assert "bad failed: RuntimeError: no luck with row 7" in failed.output
    assert f"lumina run toy -o bad=1 --store {tmp_path / 'store'}" in failed.output
    [trace] = tmp_path.glob("store/logs/*/bad.log")
    assert "Traceback" in trace.read_text()


def test_errors_are_one_line_without_debug(lumina: Any, tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    failed = lumina("run", "toy")
    assert failed.exit_code == 1
    assert failed.output.startswith("error: store ")
    assert "Traceback" not in failed.output
    assert failed.output.count("\n") == 1
    assert type(lumina("run", "toy", "--debug").exception).__name__ == "StoreError"


def test_generate_names_what_is_wrong_before_loading_anything(tmp_path: Path) -> None:
    for arguments, text in (
        (["--checkpoint", str(tmp_path), "--out", "x.avi"], "ends in .mp4"),
        (["--checkpoint", str(tmp_path / "none")], "none is no folder; give a path that exists"),
        (["--checkpoint", str(tmp_path), "--size", "64"], "expected WIDTHxHEIGHT"),
        (["--checkpoint", str(tmp_path)], "does not hold a text-to-video checkpoint"),
    ):
        failed = CliRunner().invoke(cli.app, ["generate", "--prompt", "A red circle.", *arguments])
        assert failed.exit_code == 1
        assert text in failed.output


def test_generate_takes_a_preset_and_several_prompts(tmp_path: Path) -> None:
    text_to_video().save_pretrained(tmp_path / "model")
    arguments = ["--checkpoint", str(tmp_path / "model"), "--prompt", "a red circle", "--prompt", "two blue squares"]
    arguments += ["--preset", "f24F96R960-MultiScale", "--steps", "6", "--size", "32x64", "--frames", "16"]

    def generate(name: str, *more: str) -> str:
        done = CliRunner().invoke(cli.app, ["generate", *arguments, "--out", str(tmp_path / name), *more])
        assert done.exit_code == 0, done.output
        return done.output

    assert "a-2.mp4: 16 frames, 32x64, 8 fps" in generate("a.mp4")
    generate("b.mp4")
    assert "cpu, float32, frames decoded in tiles, all networks stay there" in generate("tiled.mp4", "--tiling")
    assert "frames decoded whole, each network waits" in generate("moved.mp4", "--offload", "model", "--no-tiling")
    assert (tmp_path / "moved-1.mp4").read_bytes() == (tmp_path / "a-1.mp4").read_bytes()
    generate("half.mp4", "--dtype", "bfloat16")
    first, second = (read_frames(tmp_path / f"a-{number}.mp4", range(16)) for number in (1, 2))
    assert first.shape == (16, 64, 32, 3)
    assert not np.array_equal(first, second)
    assert (tmp_path / "a-1.mp4").read_bytes() == (tmp_path / "b-1.mp4").read_bytes()
    half = read_frames(tmp_path / "half-1.mp4", range(16)).astype(int)
    assert 0 < np.abs(half - first).mean() < np.abs(second.astype(int) - first).mean()
    kernel = CliRunner().invoke(
        cli.app, ["generate", *arguments, "--out", str(tmp_path / "no.mp4"), "--attention", "fa3"]
    )
    assert kernel.exit_code == 1
    assert "attention fa3 is a kernel of GPUs, and the network runs on the cpu: take attention auto" in kernel.output
    unknown = CliRunner().invoke(cli.app, ["generate", *arguments[:4], "--preset", "fast"])
    assert "no sampler preset 'fast'; there are f16F64R512" in unknown.output


def test_generate_with_an_adapter(tmp_path: Path) -> None:
    model = text_to_video()
    model.save_pretrained(tmp_path / "model")
    config = LoraConfig(rank=2, targets=("wq", "w2"))
    add_adapters(model.transformer, config, torch.Generator().manual_seed(0))
    adapters = {name: value.data for name, value in model.transformer.named_parameters() if value.requires_grad}
    save_adapter({name: value + 0.1 for name, value in adapters.items()}, config, tmp_path / "adapter")
    arguments = ["generate", "--checkpoint", str(tmp_path / "model"), "--prompt", "a red circle"]

    def generate(name: str, *more: str) -> bytes:
        done = CliRunner().invoke(cli.app, [*arguments, "--out", str(tmp_path / name), *more])
        assert done.exit_code == 0, done.output
        return (tmp_path / name).read_bytes()

    with_adapter = ["--adapter", str(tmp_path / "adapter")]
    plain = generate("plain.mp4")
    assert generate("off.mp4", *with_adapter, "--adapter-scale", "0") == plain
    full = generate("full.mp4", *with_adapter)
    assert full != plain
    assert generate("one.mp4", *with_adapter, "--adapter-scale", "1") == full
    assert generate("half.mp4", *with_adapter, "--adapter-scale", "0.5") not in (plain, full)
    for more, text in (
        (["--adapter-scale", "0.5"], "--adapter-scale 0.5: it is of an adapter, and --adapter names none"),
        (["--adapter", str(tmp_path / "none")], "none is no folder"),
        (["--adapter", str(tmp_path / "model")], "does not hold an adapter: no adapter_config.json"),
    ):
        failed = CliRunner().invoke(cli.app, [*arguments, "--out", str(tmp_path / "no.mp4"), *more])
        assert failed.exit_code == 1
        assert text in failed.output
        assert failed.output.count("\n") == 1


def test_convert_there_and_back(tmp_path: Path) -> None:
    model = dit_without_zeros(0.1)
    save_file(dict(model.state_dict()), tmp_path / "consolidated.00-of-01.safetensors")
    (tmp_path / "shape.json").write_text(TINY.model_dump_json())

    def convert(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli.app, ["convert", *arguments])
        return done.exit_code, done.output

    code, output = convert(str(tmp_path), str(tmp_path / "ours"))
    assert code == 1
    assert "give --preset, one of 2B_GQA, 2B, or --config" in output
    code, output = convert(str(tmp_path), str(tmp_path / "ours"), "--preset", "2B_GQA")
    assert code == 1
    assert "(506 missing, 77 of another shape; the network has 583): layers.2.attention.gate [16]: missing; " in output
    assert output.count("\n") == 1
    assert not (tmp_path / "ours").exists()
    code, output = convert(str(tmp_path), str(tmp_path / "ours"), "--config", str(tmp_path / "shape.json"))
    assert code == 0, output
    digest = json.loads((tmp_path / "ours" / "digest.json").read_text())["weights"]
    assert digest in output
    code, output = convert(str(tmp_path / "ours"), str(tmp_path / "back"), "--back")
    assert code == 0, output
    assert digest in output
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == [
        "consolidated.00-of-01.safetensors",
        "model_args.json",
    ]


def test_cost_of_configs_and_released_models() -> None:
    def cost(*arguments: str) -> Any:
        return CliRunner().invoke(cli.app, ["cost", *arguments])

    released = json.loads(cost("2B_GQA", "--json").output)
    assert [round(row["relative"], 2) for row in released["scales"]] == [1.0, 0.36, 0.06]
    assert released["schedules"][1]["name"] == "f16F64R512-MultiScale"
    assert released["schedules"][1]["relative"] == pytest.approx(0.34, abs=0.02)
    demo = json.loads(cost("demo", "--json", "-o", "finetune.tasks.0.batch_size=4").output)
    tasks = {(row["stage"], row["task"]): row for row in demo["tasks"]}
    assert tasks["finetune", "video-1x2"]["samples"] == 4
    assert tasks["train@3", "video-2x4"]["tokens"] * 8 == tasks["train@3", "video-1x2"]["tokens"]
    assert [(row["stage"], row["optimizer"]) for row in demo["updates"]] == [
        ("train@2", "muon"),
        ("train@3", "muon"),
        ("finetune", "muon"),
    ]
    assert 0.3 < demo["updates"][0]["flops"] / tasks["train@2", "video-1x2"]["step_flops"] < 0.5
    assert "1,467,344 parameters" in cost("demo").output
    for arguments, text in (
        (["2B_GQA", "--size", "670x384"], "near it: 640x384, 672x384"),
        (["2B_GQA", "-o", "a=b"], "no settings to override"),
        (["nosuch"], "no config is named 'nosuch'"),
    ):
        failed = cost(*arguments)
        assert failed.exit_code == 1
        assert text in failed.output


def test_help_and_plan_import_nothing_heavy(tmp_path: Path) -> None:
    for arguments in (["--help"], ["plan", "nosuch"], ["plan", "demo", "--store", str(tmp_path)]):
        code = (
            "import sys; sys.argv[1:] = sys.argv[1:]; from pipelines.cli import main\n"
            "try: main()\nexcept SystemExit: pass\n"
            f"print('HEAVY', sorted({HEAVY!r} & set(sys.modules)))"
        )
        found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert found.stdout.splitlines()[-1] == "HEAVY []", arguments


COUNTED = """
import sys
calls = 0
def count(frame, event, argument):
    global calls
    calls += event == "call"
sys.setprofile(count)
from pipelines.cli import main
try:
    main()
finally:
    sys.setprofile(None)
    print(calls, file=sys.stderr)
"""


def test_a_plan_of_the_demo_is_made_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNTED, "plan", "demo", "--json", "--store", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    # Calls of Python functions, which no other work on the machine changes: a second or two.
    assert 1_000_000 < int(done.stderr.split()[-1]) < 3_500_000
