"""Assembling: small files in the layouts of the hub become a directory that generates, or one line says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lumina.assemble import RELEASED_PROMPTS, assemble, find_transformer, prompts_of
from lumina.checkpoints import save_model
from lumina.flow_matching.schedules import PRESETS, SamplerConfig
from lumina.generate import TextToVideo
from lumina.generation_config import GenerationConfig, read_settings, released_settings
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.config import RELEASED_MODELS, NextDiTConfig
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.models.text_encoder import TextEncoder
from lumina.system_prompts import SystemPrompt
from pipelines.base_config import ZOO
from tests.lumina import tiny
from tests.lumina.hub_cache import COMMIT, SHAPE, make_cache

SETTINGS = GenerationConfig(num_frames=8, width=32, height=32, sampler=SamplerConfig(steps=1))


@pytest.fixture(scope="module")
def transformer() -> MultiScaleNextDiT:
    return tiny.dit_without_zeros(0.1, SHAPE).eval()


@pytest.fixture
def hub(tmp_path: Path, transformer: MultiScaleNextDiT, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return make_cache(tmp_path, transformer)


@pytest.fixture
def parts() -> dict[str, str]:
    return {"vae": "hf:THUDM/CogVideoX-2b", "text_encoder": "hf:google/gemma-2-2b"}


@pytest.mark.parametrize("repository", ["Lumina-Video-f24R960", "Lumina-Video-old"])
def test_the_released_layouts_become_a_directory_that_generates(
    hub: Path, transformer: MultiScaleNextDiT, parts: dict[str, str], repository: str, tmp_path: Path
) -> None:
    shape = tmp_path / "made" / "config.json"
    found = find_transformer(hub / f"models--Alpha-VLLM--{repository}" / "snapshots" / COMMIT, None, shape)
    for name, by_reference in (("copied", False), ("named", True)):
        made = {"prompts": RELEASED_PROMPTS, "settings": SETTINGS, "by_reference": by_reference}
        assemble(tmp_path / name, transformer=found, **parts, **made)  # type: ignore[arg-type]
    references = json.loads((tmp_path / "named" / "references.json").read_text())
    assert references == {
        "vae": f"hf:THUDM/CogVideoX-2b/vae@{COMMIT}", "text_encoder": f"hf:google/gemma-2-2b@{COMMIT}"
    }  # fmt: skip
    vae, text = VideoAutoencoder.from_pretrained(ZOO / "vae"), TextEncoder.from_pretrained(ZOO / "text_encoder")
    whole = TextToVideo(transformer.bfloat16().float(), vae, text, RELEASED_PROMPTS, SETTINGS)
    want = whole("A red circle.").frames
    assert want.shape == (1, 8, 32, 32, 3)
    named = TextToVideo.from_pretrained(tmp_path / "named")("A red circle.").frames
    np.testing.assert_array_equal(named, want)
    # A copy holds no link, and needs no cache.
    assert not any(path.is_symlink() for path in (tmp_path / "copied").rglob("*"))
    assert not (tmp_path / "copied" / "text_encoder" / ".gitattributes").exists()
    hub.rename(tmp_path / "gone")
    np.testing.assert_array_equal(TextToVideo.from_pretrained(tmp_path / "copied")("A red circle.").frames, want)
    with pytest.raises(FileNotFoundError, match=r"named: .*; fetch it with `hf download .* --revision 0123") as failed:
        TextToVideo.from_pretrained(tmp_path / "named")
    assert "\n" not in str(failed.value)


def test_references_are_ids_of_the_hub_alone(tmp_path: Path, hub: Path) -> None:
    (tmp_path / "generation.json").write_text("{}")
    for content, told in (
        ({"vae": "/etc"}, "vae is '/etc', which is no model of the hub: write hf:owner/name@revision"),
        ({"transformer": "hf:a/b"}, "must hold a JSON object with the hub ids of text_encoder and vae"),
        (["hf:a/b"], "must hold a JSON object"),
    ):
        (tmp_path / "references.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=told):
            TextToVideo.from_pretrained(tmp_path)


def test_a_transformer_is_found_where_commands_leave_it(tmp_path: Path, transformer: MultiScaleNextDiT) -> None:
    save_model(transformer, tmp_path / "ours")
    for name in ("transformer", "transformer_ema"):
        shutil.copytree(tmp_path / "ours", tmp_path / "whole" / name)
        assert (
            find_transformer(tmp_path / "whole" if name == "transformer" else tmp_path / "whole" / name).config == SHAPE
        )
    assert find_transformer(tmp_path / "ours").read().keys() == transformer.state_dict().keys()
    with pytest.raises(ValueError, match="tells its own shape"):
        find_transformer(tmp_path / "ours", "2B_GQA")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no transformer: no model\.safetensors, and .*no consol"):
        find_transformer(tmp_path / "empty", "2B_GQA")


@pytest.mark.parametrize(
    ("shape", "settings", "part", "told"),
    [
        ({"in_channels": 4}, {}, {}, r"the VAE .*vae has 16 latent channels, but the transformer .*ours takes 4: name"),
        ({"cap_feat_dim": 24}, {}, {}, "the text encoder .* has features of width 128, but .* takes 24: name the text"),
        (
            {"patch_sizes": [[1, 2, 2]]},
            {"num_frames": 16, "sampler": PRESETS["f16F64R512-MultiScale"]},
            {},
            r"the settings do not fit the transformer .*: the model has no patch size \(2, 4, 4\); it has \(1, 2, 2\)",
        ),
        ({}, {"width": 40}, {}, "the settings do not fit .*: width and height must be positive multiples of 16"),
        ({}, {"source": "film"}, {}, "no system prompt for source 'film'; there are released"),
        ({}, {}, {"vae": ZOO / "text_encoder"}, "cannot load a CogVideoX VAE|does not fit a CogVideoX VAE|the VAE"),
        ({}, {}, {"vae": ZOO.parent}, r"does not hold a CogVideoX VAE: no config\.json, no \*\.safetensors"),
        ({}, {}, {"text_encoder": ZOO / "vae"}, "does not hold a text encoder: no tokenizer"),
        ({}, {}, {"vae": "/nowhere"}, "/nowhere is no folder; give a path that exists"),
    ],
)
def test_parts_that_are_missing_or_do_not_fit_are_one_line(
    tmp_path: Path,
    shape: dict[str, object],
    settings: dict[str, object],
    part: dict[str, Path],
    told: str,
) -> None:
    save_model(MultiScaleNextDiT(NextDiTConfig.model_validate(SHAPE.model_dump() | shape)), tmp_path / "ours")
    places = {"vae": ZOO / "vae", "text_encoder": ZOO / "text_encoder"} | part
    with pytest.raises((ValueError, FileNotFoundError), match=told) as failed:
        assemble(
            tmp_path / "out",
            transformer=find_transformer(tmp_path / "ours"),
            **places,
            prompts=RELEASED_PROMPTS,
            settings=SETTINGS.model_copy(update=settings),
        )
    assert "\n" not in str(failed.value)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_nothing_half_written_is_left(tmp_path: Path, transformer: MultiScaleNextDiT) -> None:
    save_model(transformer, tmp_path / "ours")
    vae = shutil.copytree(ZOO / "vae", tmp_path / "vae")
    made = {"prompts": RELEASED_PROMPTS, "settings": SETTINGS, "text_encoder": ZOO / "text_encoder", "vae": vae}
    with pytest.raises(ValueError, match="is a model of the hub: they can only be copied"):
        assemble(tmp_path / "out", transformer=find_transformer(tmp_path / "ours"), by_reference=True, **made)  # type: ignore[arg-type]
    secret = tmp_path / "secret"
    secret.write_text("marked")
    (vae / "LICENSE").symlink_to(secret)
    with pytest.raises(ValueError, match="LICENSE is a link that leads out of the folder"):
        assemble(tmp_path / "out", transformer=find_transformer(tmp_path / "ours"), **made)  # type: ignore[arg-type]
    (vae / "LICENSE").unlink()
    file = tmp_path / "ours" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match="is damaged"):
        assemble(tmp_path / "out", transformer=find_transformer(tmp_path / "ours"), **made)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "secret", "vae"]


def test_system_prompts_and_settings_from_files(tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"web": "You see web videos.", "film": "You see films. <Prompt Start> "}))
    assert [prompt.text for prompt in prompts_of(file).values()] == [
        "You see films. <Prompt Start> ", "You see web videos. <Prompt Start> "
    ]  # fmt: skip
    tiny.text_to_video().save_pretrained(tmp_path / "export")
    assert prompts_of(tmp_path / "export")["web"] == SystemPrompt("web", "web clips. <Prompt Start> ")
    assert read_settings(tmp_path / "export" / "generation.json").sampler == tiny.SAMPLER
    for content in ([], {}, {"web": ""}, {"web": 3}, [{"source": "web"}], "web"):
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="holds no system prompts: expected a JSON object such as"):
            prompts_of(file)
    for content, told in (
        ({"steps": 3}, "steps: Extra inputs"),
        ([], "the whole: Input should be"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"holds no settings of generation: {told}"):
            read_settings(file)


@pytest.mark.parametrize("name", PRESETS)
def test_released_settings_fit_the_released_model(name: str) -> None:
    from lumina.latents import latent_shape

    made = released_settings(name)
    assert f"f{made.fps:g}F{made.num_frames}R" in name
    assert latent_shape(RELEASED_MODELS["2B_GQA"], made.num_frames, made.width, made.height, made.sampler)
