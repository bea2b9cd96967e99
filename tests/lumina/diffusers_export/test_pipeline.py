"""The diffusers pipeline: the frames of TextToVideo, without our code, and what users of diffusers expect."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lumina.diffusers_export.layout import write_diffusers
from lumina.diffusers_export.pipeline import LuminaVideoPipeline
from lumina.diffusers_export.scheduler import LuminaVideoScheduler
from lumina.diffusers_export.transformer import LuminaVideoTransformer
from lumina.generate import TextToVideo
from lumina.training.stage import LoraConfig
from lumina.training.weights.lora import add_adapters, save_adapter
from tests.lumina import tiny

PROMPTS, SEEDS = ["a red circle", "two blue squares"], [3, 5]
STRANGER = """
import sys
for name in ("lumina", "curation", "jobs", "pipelines"):
    sys.modules[name] = None
import numpy as np, torch
from diffusers import DiffusionPipeline
folder, out = sys.argv[1:]
try:
    DiffusionPipeline.from_pretrained(folder)
except ValueError as error:
    assert "trust_remote_code=True" in str(error)
for more in ({}, {"custom_pipeline": folder}):
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, torch_dtype=torch.float32, **more)
    pipe.set_progress_bar_config(disable=True)
    np.save(out, pipe(["a red circle", "two blue squares"], seed=[3, 5], output_type="np").frames)
assert sys.modules["lumina"] is None
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model"
    tiny.text_to_video().save_pretrained(path)
    write_diffusers(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> TextToVideo:
    """Out of the files: last bits of products depend on where in memory the weights lie."""
    return TextToVideo.from_pretrained(folder)


@pytest.fixture
def pipe(model: TextToVideo, folder: Path) -> LuminaVideoPipeline:
    """The same classes, out of our modules."""
    made = LuminaVideoPipeline(
        LuminaVideoTransformer.from_pretrained(folder / "transformer"),
        model.vae.vae,
        model.text_encoder.model,
        model.text_encoder.tokenizer,
        LuminaVideoScheduler.from_pretrained(folder / "scheduler"),
        {source: prompt.text for source, prompt in model.system_prompts.items()},
        default_source="clean",
        num_frames=8,
        width=64,
        height=32,
    )
    made.set_progress_bar_config(disable=True)
    return made


def shades(frames: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.round(np.asarray(frames) * 255).astype(np.uint8)


def test_somebody_without_our_code_gets_our_frames(model: TextToVideo, folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", STRANGER, str(folder), str(tmp_path / "frames.npy")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(shades(np.load(tmp_path / "frames.npy")), model(PROMPTS, seeds=SEEDS).frames)
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".py", ".md", ".jinja"}


def test_what_is_asked_for_is_what_text_to_video_gives(model: TextToVideo, pipe: LuminaVideoPipeline) -> None:
    asked: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"source": "web", "negative_prompt": "blue"}, {"source": "web", "negative_prompt": "blue"}),
        ({"motion": 1.0, "num_frames": 1}, {"motion": 1.0, "num_frames": 1}),
        (
            {"num_inference_steps": 2, "guidance_scale": 3.0},
            {"sampler": tiny.SAMPLER.model_copy(update={"steps": 2, "guidance": ((0.0, 2.0),)})},
        ),
    ]
    for given, wanted in asked:
        np.testing.assert_array_equal(shades(pipe("x", output_type="np", **given).frames), model("x", **wanted).frames)
    together = shades(pipe(["x", "y"], num_videos_per_prompt=2, seed=7, output_type="np").frames).astype(int)
    for number, (prompt, seed) in enumerate([("x", 7), ("x", 8), ("y", 7), ("y", 8)]):
        assert np.abs(together[number] - model(prompt, seed=seed).frames[0]).max() <= 1


def test_forms_of_frames(pipe: LuminaVideoPipeline) -> None:
    [clip] = pipe("x").frames
    assert [image.size for image in clip] == [(64, 32)] * 8
    wanted = np.stack([np.asarray(image) for image in clip])
    np.testing.assert_array_equal(shades(pipe("x", output_type="np", return_dict=False)[0][0]), wanted)
    np.testing.assert_array_equal(shades(pipe("x", output_type="pt").frames[0].permute(0, 2, 3, 1)), wanted)
    assert pipe("x", output_type="latent").frames.shape == (1, 16, 2, 4, 8)
    assert pipe("x").fps == 8


def test_generators_and_latents_give_the_noise(pipe: LuminaVideoPipeline) -> None:
    def latents(**given: Any) -> torch.Tensor:
        return pipe(["x", "y"], output_type="latent", **given).frames

    one = latents(generator=torch.Generator().manual_seed(1))
    assert torch.equal(one, latents(generator=torch.Generator().manual_seed(1)))
    each = latents(generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)])
    swapped = latents(generator=[torch.Generator().manual_seed(seed) for seed in (1, 3)])
    assert torch.allclose(each[0], swapped[0], atol=1e-5)
    assert not torch.allclose(each[1], swapped[1], atol=1e-2)
    noise = torch.randn(2, 16, 2, 4, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(one, latents(latents=noise))


def test_callbacks_see_each_step_change_it_and_stop(pipe: LuminaVideoPipeline) -> None:
    seen: list[tuple[int, float]] = []

    def watch(asked: Any, number: int, t: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append((number, float(t)))
        asked._interrupt = number == 1
        return {"latents": torch.full_like(tensors["latents"], number)}

    made = pipe("x", output_type="latent", callback_on_step_end=watch).frames
    assert [number for number, _ in seen] == [0, 1]
    assert seen[0][1] == 0 < seen[1][1] < 1
    assert made.eq(1).all()


def test_offloading_brings_each_network_to_the_device_in_turn(
    pipe: LuminaVideoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = pipe("x", output_type="latent").frames
    moved: list[tuple[str, str]] = []
    move = torch.nn.Module.to

    def spy(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        moved.append((type(module).__name__, str(args[0]) if args else ""))
        return move(module, *args, **kwargs)

    # An index is another device to accelerate, and the same one to torch.
    pipe.enable_model_cpu_offload(device="cpu")
    monkeypatch.setattr(torch.nn.Module, "to", spy)
    made = pipe("x").frames
    assert [name for name, device in moved if device == "cpu:0"][:1] == ["Gemma2Model"]
    assert [name for name, device in moved if device == "cpu:0" and "Lumina" in name]
    assert "AutoencoderKLCogVideoX" in [name for name, device in moved if device == "cpu:0"]
    assert len(made[0]) == 8
    assert torch.equal(pipe("x", output_type="latent").frames, wanted)
    with pytest.raises(NotImplementedError, match="take enable_model_cpu_offload"):
        pipe.enable_sequential_cpu_offload()


def test_adapters_of_peft_are_added_and_taken_out(
    model: TextToVideo, pipe: LuminaVideoPipeline, folder: Path, tmp_path: Path
) -> None:
    adapted = tiny.text_to_video().transformer
    config = LoraConfig(rank=2, targets=("wq", "w2"))
    add_adapters(adapted, config, torch.Generator().manual_seed(0))
    adapters = {name: value.data + 0.1 for name, value in adapted.named_parameters() if value.requires_grad}
    save_adapter(adapters, config, tmp_path / "adapter")
    plain = shades(pipe("x", output_type="np").frames)
    pipe.load_lora_weights(tmp_path / "adapter", adapter_weight=0.5)
    half = TextToVideo.from_pretrained(folder, adapter=tmp_path / "adapter", adapter_scale=0.5)("x").frames
    np.testing.assert_array_equal(shades(pipe("x", output_type="np").frames), half)
    pipe.set_adapters("default", 1.0)
    full = TextToVideo.from_pretrained(folder, adapter=tmp_path / "adapter")("x").frames
    np.testing.assert_array_equal(shades(pipe("x", output_type="np").frames), full)
    assert not np.array_equal(full, half)
    pipe.load_lora_weights(tmp_path / "adapter", "more")
    pipe.set_adapters([])
    assert pipe.get_active_adapters() == []
    np.testing.assert_array_equal(shades(pipe("x", output_type="np").frames), plain)
    pipe.set_adapters(["more"], [0.5])
    assert pipe.get_active_adapters() == ["more"]
    np.testing.assert_array_equal(shades(pipe("x", output_type="np").frames), half)
    pipe.unload_lora_weights()
    weights = model.transformer.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in pipe.transformer.state_dict().items())
    with pytest.raises(ValueError, match="no adapter 'more' is loaded; there are none"):
        pipe.set_adapters("more")
    with pytest.raises(FileNotFoundError, match=r"holds? an adapter: no adapter_config\.json"):
        pipe.load_lora_weights(folder)


def test_tiling_is_that_of_our_own_program(model: TextToVideo, pipe: LuminaVideoPipeline) -> None:
    pipe.enable_vae_tiling()
    assert (pipe.vae.use_tiling, pipe.vae.tile_sample_min_height, pipe.vae.tile_sample_min_width) == (True, 240, 360)
    pipe.disable_vae_tiling()
    assert not pipe.vae.use_tiling


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"output_type": "gif"}, "output_type must be 'pil', 'np', 'pt' or 'latent', got 'gif'"),
        ({"width": 72}, "near it: 64x32, 96x32"),
        ({"num_frames": 12}, "multiple of 8 for this sampler, got 12: take 8 or 16"),
        ({"source": "film"}, "no system prompt for source 'film'; there are clean, web"),
        ({"seed": 1, "generator": torch.Generator()}, "all give the noise: leave out all but one"),
        ({"seed": [1, 2]}, "seed: need one value, or one for each of 1, got 2"),
        ({"generator": [torch.Generator()] * 2}, "need a generator for each of 1 videos, got 2"),
        ({"latents": torch.zeros(1, 2)}, r"latents must have shape \[1, 16, 2, 4, 8\], got \[1, 2\]"),
        ({"callback_on_step_end_tensor_inputs": ["prompt"]}, "there is latents, got prompt"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt from 1 on"),
    ],
)
def test_bad_input_is_one_line(pipe: LuminaVideoPipeline, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as failed:
        pipe("x", **given)
    assert "\n" not in str(failed.value)


def test_the_scheduler_is_changed_as_others_are(pipe: LuminaVideoPipeline, model: TextToVideo) -> None:
    pipe.scheduler = LuminaVideoScheduler.from_config(pipe.scheduler.config, steps=3, time_shift=2.0)
    assert pipe.scheduler.timesteps.tolist() == pytest.approx([0, 0.2, 0.5])
    sampler = tiny.SAMPLER.model_copy(update={"steps": 3, "time_shift": 2.0})
    made = shades(pipe("x", output_type="np").frames)
    np.testing.assert_array_equal(made, model("x", sampler=sampler).frames)
    with pytest.raises(NotImplementedError, match="copy the directory"):
        pipe.save_pretrained("elsewhere")


def test_tensors_of_another_network_are_one_line(model: TextToVideo, folder: Path, tmp_path: Path) -> None:
    from lumina.checkpoints import save_model
    from lumina.models.config import NextDiTConfig

    save_model(
        tiny.dit_without_zeros(0.1, NextDiTConfig(dim=32, n_layers=1, n_heads=2, cap_feat_dim=8)), tmp_path / "a"
    )
    (tmp_path / "a" / "model.safetensors").replace(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "transformer" / "config.json").read_bytes())
    assert LuminaVideoTransformer.from_pretrained(folder / "transformer", torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="does not fit its model config, 9 tensors") as failed:
        LuminaVideoTransformer.from_pretrained(tmp_path)
    assert "\n" not in str(failed.value)
