"""What a video-to-audio config costs: operations, and on a cluster time and memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from lumina.training.muon import orthogonal
from lumina.video_to_audio.networks.dit import VideoToAudioDiT
from pipelines import cli
from pipelines.config import load_config
from pipelines.sound_config import SoundPipelineConfig


def told(*words: str) -> Any:
    done = CliRunner().invoke(cli.app, ["cost", *words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def shown(*words: str) -> str:
    done = CliRunner().invoke(cli.app, ["cost", *words], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    return done.output


def test_operations_are_those_of_the_stages() -> None:
    cost = told("sound")
    assert cost["tokens"] == 200
    assert cost["sampling_flops"] == 2 * 25 * cost["forward_flops"]
    for one in cost["stages"]:
        assert one["flops"] == 3 * cost["forward_flops"] * one["samples"] * one["steps"]
        assert one["cluster"] is None
    assert "train@2" in shown("sound")


def test_muon_multiplies_beside_the_passes() -> None:
    first, second = told("sound")["stages"]
    muon, same = told("sound", "-o", "train.1.optimizer=muon")["stages"]
    config = load_config("sound")
    assert isinstance(config, SoundPipelineConfig)
    network = VideoToAudioDiT(config.model)
    blocks = [one for name, one in network.named_parameters() if "layers." in name and one.ndim == 2]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for one in blocks:
            orthogonal(one)
    assert muon["step_flops"] - first["step_flops"] == counter.get_total_flops() > 0
    assert same == second


def test_a_cluster_tells_time_and_memory() -> None:
    cost, count = told("v2a", "--cluster", "8xH100"), 8
    first, second = (one["cluster"] for one in cost["stages"])
    arithmetic = cost["stages"][0]["step_flops"] / (count * 989.4e12 * 0.3)
    assert arithmetic < first["step_s"] < 1.05 * arithmetic
    assert first["gpu_hours"] == pytest.approx(count * first["step_s"] * 300_000 / 3600)
    assert first["gpu_hours"] == pytest.approx(first["days"] * 24 * count) == pytest.approx(10 * second["gpu_hours"])
    # Mean and deviation [8, 200, 16], visual 64x1024, sync 192x768, text 77x1024, each in bfloat16.
    sample = 2 * (2 * 8 * 200 * 16 + 64 * 1024 + 192 * 768 + 77 * 1024)
    assert first["read_rate"] * first["step_s"] == pytest.approx(512 * sample, rel=1e-3)
    assert (first["pass_samples"], first["fits"], first["waits_for_storage"]) == (16, True, False)
    assert first["memory"]["state"] == 16 * cost["parameters"] / count
    assert first["memory_bytes"] > first["memory"]["activations"] > 10e9
    # A slow network is waited for.
    slow = told("v2a", "--cluster", "8xH100", "--network", "0.1")["stages"][0]["cluster"]
    assert slow["step_s"] > 2 * first["step_s"]


def test_passes_are_bounded_by_samples_or_tokens_and_recomputation_costs_operations() -> None:
    plain = told("v2a", "--cluster", "8xH100")["stages"][0]
    by_tokens = told("v2a", "--cluster", "8xH100", "-o", "train.1.micro_batch_tokens=6400")["stages"][0]["cluster"]
    assert by_tokens["pass_samples"] == 4
    assert by_tokens["memory"]["activations"] == plain["cluster"]["memory"]["activations"] / 4
    full = told("v2a", "--cluster", "8xH100", "-o", "runtime.activation_checkpointing={train@1: full}")["stages"]
    assert full[0]["step_flops"] * 3 == plain["step_flops"] * 4
    assert full[1]["step_flops"] == plain["step_flops"]
    assert full[0]["cluster"]["memory"]["activations"] < plain["cluster"]["memory"]["activations"] / 5


def test_what_does_not_fit_is_told_with_what_to_change() -> None:
    text = shown("v2a", "--cluster", "8xH100", "-o", "train.2.micro_batch_size=64")
    assert "train@2 does not fit: lower train.2.micro_batch_size, or set runtime.activation_checkpointing" in text
    assert "train@1 does not fit" not in text
    assert "train@1 waits for the storage" in shown("v2a", "--cluster", "8xH100", "--storage", "0.1")
