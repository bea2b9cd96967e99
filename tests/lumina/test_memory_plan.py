"""Memory plans: what waits on the CPU before frames are cut into tiles, and that no frame changes for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lumina import clip_frames, generate
from lumina.evaluation_cost import Generation, memory_need
from lumina.flow_matching.schedules import PRESETS
from lumina.generate import TextToVideo
from lumina.hardware import USABLE
from lumina.memory_plan import MemoryNeed, plan_memory
from lumina.models.config import RELEASED_MODELS
from lumina.offload import OffloadSetting
from lumina.vae_cost import TEXT_PARAMETERS, VAE_PARAMETERS
from tests.lumina import tiny

NEED = MemoryNeed(transformer=40, text_encoder=50, vae=4, sampling=20, decoding=200, decoding_tiled=30)


@pytest.mark.parametrize(
    ("free", "tiling", "offload", "chosen"),
    [
        (None, None, "auto", (False, "none")),
        (None, True, "model", (True, "model")),
        (294, None, "auto", (False, "none")),
        (260, None, "auto", (False, "text")),
        (210, None, "auto", (False, "model")),
        (200, None, "auto", (True, "none")),
        (100, None, "auto", (True, "text")),
        (80, None, "auto", (True, "model")),
        (1, None, "auto", (True, "model")),
        (200, False, "auto", (False, "model")),
        (200, None, "none", (True, "none")),
        (1, None, "text", (True, "text")),
        (1, False, "none", (False, "none")),
        (294, True, "auto", (True, "none")),
    ],
)
def test_whole_frames_come_before_networks_that_stay(
    free: int | None, tiling: bool | None, offload: OffloadSetting, chosen: tuple[bool, str]
) -> None:
    bytes_free = None if free is None else round(free / USABLE) + 1
    assert plan_memory(NEED, bytes_free, tiling, offload) == chosen


@pytest.mark.parametrize(
    ("gigabytes", "chosen"),
    [(80, (False, "none")), (44, (False, "model")), (24, (True, "none")), (16, (True, "text")), (14, (True, "model"))],
)
def test_the_released_model_on_the_gpus_that_people_have(gigabytes: int, chosen: tuple[bool, str]) -> None:
    need = memory_need(
        RELEASED_MODELS["2B_GQA"],
        PRESETS["f24F96R960-MultiScale"],
        Generation(1248, 704, 96, 1, 2),
        transformer=2 * 1_771_364_672,
        text_encoder=2 * TEXT_PARAMETERS,
        vae=2 * VAE_PARAMETERS,
    )
    assert plan_memory(need, gigabytes * 10**9) == chosen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    tiny.text_to_video().save_pretrained(path)
    return path


def test_networks_wait_on_the_cpu_and_frames_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An index is another device by name, and the same one to torch.
    whole = TextToVideo.from_pretrained(folder, "cpu:0").memory_plan()
    assert str(whole) == "cpu:0, float32, frames decoded whole, all networks stay there"
    want = TextToVideo.from_pretrained(folder)("x").frames
    moves: list[tuple[str, str]] = []
    move = torch.nn.Module.to

    def spy(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        moves.append((type(module).__name__, str(args[0])))
        return move(module, *args, **kwargs)

    names = ("Gemma2Model", "MultiScaleNextDiT", "AutoencoderKLCogVideoX")
    waiting: dict[OffloadSetting, list[tuple[str, str]]] = {
        "none": [(name, "cpu:0") for name in (*names[1:], *names)],
        "text": [(names[0], "cpu:0"), (names[0], "cpu"), *((name, "cpu:0") for name in names[1:])],
        "model": [(name, "cpu") for name in names[1:]] + [(name, to) for name in names for to in ("cpu:0", "cpu")],
    }
    for offload, expected in waiting.items():
        model = TextToVideo.from_pretrained(folder, "cpu:0", offload=offload)
        moves.clear()
        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.Module, "to", spy)
            np.testing.assert_array_equal(model("x").frames, want)
        assert moves == expected


def test_memory_that_is_free_decides_at_loading_and_at_each_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiled: list[bool] = []
    decode = generate.VideoAutoencoder.decode

    def watch(vae: generate.VideoAutoencoder, latents: torch.Tensor) -> torch.Tensor:
        tiled.append(vae.vae.use_tiling)
        return decode(vae, latents)

    monkeypatch.setattr(generate.VideoAutoencoder, "decode", watch)
    want = TextToVideo.from_pretrained(folder)("x").frames

    def memory(free: int) -> Callable[[torch.device], int]:
        return lambda _device: free

    for free, chosen in ((10**12, "none"), (1, "model")):
        monkeypatch.setattr(clip_frames, "free_bytes", memory(free))
        model = TextToVideo.from_pretrained(folder)
        plan = model.memory_plan(height=512, width=512)
        assert (plan.tiling, plan.offload) == (free == 1, chosen)
        model = replace(model, tiling=plan.tiling)
        # A frame of one tile is the same.
        np.testing.assert_array_equal(model("x").frames, want)
        assert not model.vae.vae.use_tiling
    assert tiled == [False, False, True]
    monkeypatch.setattr(clip_frames, "free_bytes", memory(1))
    assert generate._home({}, torch.device("cuda"), torch.float32, tiny.text_to_video().defaults, None, "none") == {}
    folders = {name: folder / name for name in ("transformer", "vae", "text_encoder")}
    loaded = generate._home(folders, torch.device("cuda"), torch.bfloat16, tiny.text_to_video().defaults, None, "auto")
    assert set(loaded.values()) == {"cpu"}
    monkeypatch.setattr(clip_frames, "free_bytes", memory(10**12))
    loaded = generate._home(folders, torch.device("cuda"), torch.bfloat16, tiny.text_to_video().defaults, None, "auto")
    assert set(loaded.values()) == {torch.device("cuda")}
