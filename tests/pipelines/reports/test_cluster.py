"""`lumina cost --cluster`: a plan that fits, settings that make one fit, and errors that say what was expected."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from lumina.hardware import parse_cluster
from pipelines import cli
from pipelines.config import PipelineConfig, load_config
from pipelines.reports.cluster import on_cluster
from pipelines.reports.cost import task_loads

FORGETFUL = "runtime.activation_checkpointing=none"


@pytest.fixture
def cost(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(cli.app, ["cost", *arguments])

    return call


def test_the_paper_s_run_fits_the_paper_s_cluster(cost: Any) -> None:
    shown = cost("paper", "--cluster", "32xH100")
    assert shown.exit_code == 0, shown.output
    assert "All stages fit." in shown.output
    assert "video-1x2 (86,400)" in shown.output
    assert max(map(len, shown.output.splitlines())) <= 100
    made = json.loads(cost("paper", "--cluster", "32xH100", "--json").output)["cluster"]
    stages = {stage["stage"]: stage for stage in made["stages"]}
    assert list(stages) == ["train@1", "train@2", "train@3", "train@4", "finetune@3", "finetune"]
    assert (made["cluster"]["count"], made["utilisation"], made["overrides"]) == (32, 0.3, [])
    assert all(
        stage["fits"] and stage["memory"]["total"] <= made["cluster"]["usable_bytes"] for stage in stages.values()
    )
    assert stages["train@4"]["checkpointing"] == "attention"
    assert 0 < stages["train@4"]["repeated"] < 0.25 / 3
    assert made["gpu_hours"] == pytest.approx(sum(stage["gpu_hours"] for stage in stages.values()))
    twice = json.loads(cost("paper", "--cluster", "32xH100", "--utilisation", "0.15", "--json").output)["cluster"]
    # Exchange takes as long as before.
    hours = [[stage["gpu_hours"] for stage in one["stages"]] for one in (made, twice)]
    assert hours[1][3] == pytest.approx(2 * hours[0][3], rel=0.01)
    assert hours[0][0] < hours[1][0] < 1.5 * hours[0][0]


def test_what_does_not_fit_is_told_with_settings_that_do(cost: Any) -> None:
    arguments = ["paper", "-o", FORGETFUL, "-o", "train.2.tasks.1.micro_batch_size=8"]
    shown = cost(*arguments, "--cluster", "32xH100").output
    words = " ".join(shown.split())
    assert "train@4 needs 271 GB per GPU of 80 GB: video-1x2 has 86,400 tokens in one pass." in words
    assert "-o 'runtime.activation_checkpointing={train@4: attention, finetune: attention}'" in shown
    assert "-o train.2.tasks.1.micro_batch_size=4" in shown
    made = json.loads(cost(*arguments, "--cluster", "32xH100", "--json").output)["cluster"]
    again = [word for override in made["overrides"] for word in ("-o", override)]
    assert "All stages fit." in cost(*arguments, *again, "--cluster", "32xH100").output


@pytest.mark.parametrize("cluster", ["8xA100-40G", "64xH200", "32xA100-80G", "8xB200"])
def test_settings_that_are_named_always_fit(cluster: str) -> None:
    gpus, workers = parse_cluster(cluster), f"runtime.train_workers={parse_cluster(cluster).count}"
    first = on_cluster(paper(workers, FORGETFUL), gpus, 0.4, 256)
    second = on_cluster(paper(workers, FORGETFUL, *first.overrides), gpus, 0.4, 256)
    assert first.overrides
    assert second.overrides == ()
    assert all(stage.fits for stage in second.stages)


def test_what_cannot_fit_says_what_would_help(cost: Any) -> None:
    words = " ".join(cost("paper", "--cluster", "32xL4").output.split())
    assert "train@4 needs 49.5 GB per GPU of 24 GB" in words
    assert "It cannot fit: even with everything computed again and one clip at a time it takes 31.1 GB." in words
    assert "Take smaller latents, or GPUs with more memory." in words
    assert "All stages fit" not in words


def paper(*overrides: str) -> PipelineConfig:
    return load_config("paper", overrides, needs_clips=False)


def test_a_worker_is_loaded_with_the_largest_clips() -> None:
    config = paper()
    image, fine, middle, coarse = task_loads(config, config.train["4"], 256)
    # On GPUs text features are kept in bfloat16, too.
    text = 256 * 2304 * 2
    assert image.size == (1, 120, 120)
    assert image.read_bytes == 120 * 120 * 16 * 2 + text
    assert fine.size == middle.size == coarse.size == (24, 120, 120)
    # The first latent is read with the others, and left out.
    assert fine.read_bytes == 25 * 120 * 120 * 16 * 2 + text
    assert image.unlike
    assert fine.unlike
    demo = load_config("demo")
    assert not any(load.unlike for load in task_loads(demo, demo.train["3"], 256))
    odd = paper("latents.videos-960.num_frames=89", "latents.videos-960.dtype=float32")
    assert [load.size[0] for load in task_loads(odd, odd.train["4"], 256)] == [1, 22, 22, 22]
    assert task_loads(odd, odd.train["4"], 256)[1].read_bytes == 23 * 120 * 120 * 16 * 4 + text


def test_adapters_and_ratios_count(cost: Any) -> None:
    whole = on_cluster(paper(), parse_cluster("32xH100"), 0.4, 256).stages[-1]
    lora = on_cluster(paper("finetune.lora={rank: 16}"), parse_cluster("32xH100"), 0.4, 256).stages[-1]
    rare = on_cluster(paper("finetune.tasks.1.ratio=0.25"), parse_cluster("32xH100"), 0.4, 256).stages[-1]
    assert lora.trained < whole.trained / 100
    assert lora.memory.total < whole.memory.total
    assert lora.gpu_hours < whole.gpu_hours
    assert rare.memory == whole.memory
    assert rare.gpu_hours < 0.5 * whole.gpu_hours
    assert "128 in 25% of steps" in cost("paper", "--cluster", "32xH100", "-o", "finetune.tasks.1.ratio=0.25").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paper", "--cluster", "H100"], "cluster 'H100': expected COUNTxGPU, such as 32xH100"),
        (["paper", "--cluster", "8xH1000"], "did you mean H100?"),
        (["paper", "--cluster", "200xH100"], "task image has batch_size 128, but runtime.train_workers is 200"),
        (["paper", "--cluster", "8xH100", "--utilisation", "40"], "--utilisation 40: expected a share of the peak"),
        (["paper", "--storage", "5"], "--storage 5: it is about the GPUs of --cluster, which names none"),
        (["paper", "--network", "5"], "--network 5: it is about the GPUs of --cluster, which names none"),
        (["paper", "--utilisation", "0.4"], "--utilisation 0.4: expected a share of the peak of --cluster"),
        (["2B_GQA", "--cluster", "8xH100"], "2B_GQA is a model, which names no training"),
    ],
)
def test_mistakes_are_one_line(cost: Any, arguments: list[str], message: str) -> None:
    failed = cost(*arguments)
    assert failed.exit_code == 1
    assert failed.output.startswith("error: ")
    assert message in failed.output


def test_float32_is_slower_than_the_peak(cost: Any) -> None:
    words = " ".join(cost("demo", "--cluster", "2xRTX4090").output.split())
    assert "train@1, train@2, train@3, finetune: float32 is slower than the peak" in words


def test_what_the_hours_leave_out_is_said(cost: Any) -> None:
    slow = ["paper", "-o", "runtime.checkpoint_every=1000", "-o", "encode_text.dtype=float32", "--cluster", "32xH100"]
    words = " ".join(cost(*slow).output.split())
    assert "train@2 reads 2.65 GB in every step of 1.16 s: slower than 2.28 GB/s, the storage is what it" in words
    assert "train@1 writes a checkpoint of 28.3 GB, 14.2 s, every 6 min 05 s: 4% of its time." in words
    assert "train@4 writes a checkpoint every 29 h 39 min, which is what a lost node costs at most" in words
    assert "train@1 waits longer for gradients and weights of other workers than it computes" in words
    assert "encode_latents@videos-960 2.63 s 21.9 GB" in words
    assert re.search(r"evaluate, a system prompt 2,448 3 min \d\d s 40 GB 49\.2 GB", words)
    fast = ["--storage", "20", "--network", "400", "-o", "runtime.checkpoint_every=null"]
    quick = cost(*slow, *fast, "--json")
    made = json.loads(quick.output)["cluster"]
    assert made["warnings"] == []
    assert made["links"] == {"network": 400e9, "storage": 20e9}
    first = made["stages"][0]["waiting"]
    assert first["checkpoint_s"] == pytest.approx(28.3 / 32 / 0.5, rel=0.01)  # of one worker
    assert first["checkpoint_every_s"] == 60
    assert first["read_s"] == pytest.approx(612e6 / 20e9, rel=0.01)


def test_an_evaluation_that_does_not_fit_is_told(cost: Any) -> None:
    words = " ".join(cost("paper", "-o", "evaluate.dtype=float32", "--cluster", "32xH100").output.split())
    assert "evaluate needs 98.4 GB of 80 GB, most of it for decoding: evaluate.batch_size=1, evalu" in words
