"""LoRA adapters beside a model: clips equal those of merged weights, and one line on an adapter that does not fit."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumina.adapter_files import CONFIG_FILE, TENSORS_FILE
from lumina.adapters import add_adapter, load_adapted, read_adapter
from lumina.checkpoints import save_model
from lumina.generate import TextToVideo
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.training.stage import LoraConfig
from lumina.training.weights.lora import merge, save_adapter
from tests.lumina import tiny

CONFIG = LoraConfig(rank=3, alpha=6.0, targets=("wq", "wo", "w2"))
LAYERS = {"wq": "layers.0.attention.wq", "wo": "layers.0.attention.wo", "w2": "layers.0.feed_forward.w2"}


@pytest.fixture(scope="module")
def base() -> TextToVideo:
    return tiny.text_to_video()


@pytest.fixture(scope="module")
def saved(base: TextToVideo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "model"
    base.save_pretrained(folder)
    return folder


def matrices(weights: Mapping[str, Tensor], rank: int = CONFIG.rank) -> dict[str, Tensor]:
    """An adapter's tensors under the names of peft's files."""
    rng = torch.Generator().manual_seed(2)
    found = {}
    for layer in LAYERS.values():
        rows, columns = weights[f"{layer}.weight"].shape
        for side, shape in (("A", (rank, columns)), ("B", (rows, rank))):
            found[f"base_model.model.{layer}.lora_{side}.weight"] = torch.randn(shape, generator=rng) / 4
    return found


def trained(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same under the names that training gives them."""
    return {
        name.removeprefix("base_model.model.").replace(".weight", ".default.weight"): value
        for name, value in tensors.items()
    }


def write(folder: Path, tensors: Mapping[str, Tensor], **settings: Any) -> Path:
    """An adapter as the format is documented, with no more than its own settings."""
    folder.mkdir()
    plain = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["wq", "wo", "w2"]}
    content = {name: value for name, value in (plain | settings).items() if value is not None}
    (folder / CONFIG_FILE).write_text(json.dumps(content))
    save_file(dict(tensors), folder / TENSORS_FILE)
    return folder


def frames(model: TextToVideo) -> np.ndarray:
    return model("a red circle").frames


def clip() -> tuple[Any, ...]:
    """What the transformer is called with."""
    rng = torch.Generator().manual_seed(3)
    x, text = torch.randn(1, 16, 2, 8, 8, generator=rng), [torch.randn(5, 24, generator=rng)]
    return x, torch.tensor([0.4]), text, torch.tensor([-1.0]), (1, 2, 2)


def test_clips_are_those_of_merged_weights(base: TextToVideo, saved: Path, tmp_path: Path) -> None:
    weights = base.transformer.state_dict()
    tensors = matrices(weights)
    adapter = write(tmp_path / "adapter", tensors)
    merged = MultiScaleNextDiT(base.transformer.config)
    merged.load_state_dict(merge(weights, trained(tensors), CONFIG))
    plain, want = frames(base), frames(replace(base, transformer=merged.eval()))
    assert not np.array_equal(plain, want)
    np.testing.assert_array_equal(frames(TextToVideo.from_pretrained(saved, adapter=adapter)), want)
    off = TextToVideo.from_pretrained(saved, adapter=adapter, adapter_scale=0.0)
    np.testing.assert_array_equal(frames(off), plain)
    half = TextToVideo.from_pretrained(saved, dtype=torch.bfloat16, adapter=adapter)
    name = f"{LAYERS['wq']}.weight"
    assert torch.equal(half.transformer.state_dict()[name], merged.state_dict()[name].bfloat16())


def test_it_computes_what_peft_does_at_every_scale(base: TextToVideo, saved: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    save_adapter(trained(matrices(base.transformer.state_dict())), CONFIG, tmp_path / "adapter")
    inputs = clip()
    theirs = PeftModel.from_pretrained(tiny.text_to_video().transformer, str(tmp_path / "adapter"))
    for scale in (1.0, 0.25, -2.0):
        for module in theirs.modules():
            if isinstance(module, LoraLayer):
                module.set_scale("default", scale)
        ours = load_adapted(saved / "transformer", tmp_path / "adapter", scale, "cpu", torch.float32)
        with torch.no_grad():
            torch.testing.assert_close(ours(*inputs), theirs(*inputs))


def test_diffusers_loads_it_with_its_alpha(base: TextToVideo, tmp_path: Path) -> None:
    from diffusers.loaders.peft import PeftAdapterMixin

    class Loading(PeftAdapterMixin, MultiScaleNextDiT):  # type: ignore[misc]
        """What a transformer of diffusers can do besides."""

    weights = base.transformer.state_dict()
    tensors = trained(matrices(weights))
    save_adapter(tensors, CONFIG, tmp_path / "adapter")
    theirs, merged = Loading(base.transformer.config), MultiScaleNextDiT(base.transformer.config)
    theirs.load_state_dict(weights)
    theirs.load_lora_adapter(tmp_path / "adapter", prefix="base_model.model", weight_name=TENSORS_FILE)
    merged.load_state_dict(merge(weights, tensors, CONFIG))
    inputs = clip()
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(*inputs), merged.eval()(*inputs))
    with safe_open(tmp_path / "adapter" / TENSORS_FILE, "pt") as file:
        # The library writes two entries in another order in every process.
        assert len(file.metadata()) == 1


def test_only_the_adapted_layers_change_and_by_the_factor(base: TextToVideo, tmp_path: Path) -> None:
    weights = base.transformer.state_dict()
    kept = {name: value.clone() for name, value in weights.items()}
    tensors = matrices(weights)
    adapter = read_adapter(write(tmp_path / "plain", tensors), weights)
    stable = read_adapter(write(tmp_path / "stable", tensors, use_rslora=True), weights)
    assert adapter.factor == 2.0
    assert stable.factor == pytest.approx(6 / 3**0.5)
    added = add_adapter(weights, adapter, 0.5)
    names = {f"{layer}.weight" for layer in LAYERS.values()}
    for name, value in weights.items():
        assert torch.equal(value, kept[name])
        assert torch.equal(added[name], value) == (name not in names)
    down, up = adapter.pairs[LAYERS["w2"]]
    name = f"{LAYERS['w2']}.weight"
    torch.testing.assert_close(added[name], weights[name] + up @ down)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": r"layers\.\d+\.(attention\.w[qo]|feed_forward\.w2)"},
        {"target_modules": ["attention.wq", "wo", "layers.0.feed_forward.w2", "w1"], "exclude_modules": ["w1"]},
        {"target_modules": ["wq", "wo", "w2"], "layers_to_transform": [0], "lora_dropout": 0.1, "task_type": "X"},
        {
            "init_lora_weights": "gaussian",
            "bias": "none",
            "peft_version": "0.18",
            "rank_pattern": {},
            "use_dora": False,
        },
    ],
)
def test_settings_that_name_the_same_adapter(base: TextToVideo, tmp_path: Path, settings: dict[str, Any]) -> None:
    weights = base.transformer.state_dict()
    adapter = read_adapter(write(tmp_path / "adapter", matrices(weights), **settings), weights)
    assert set(adapter.pairs) == set(LAYERS.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "LOHA"}, r"is of no LoRA adapter: peft_type should be 'LORA', got 'LOHA'"),
        ({"r": 0}, "r should be a whole number from 1 on, got 0"),
        ({"r": None}, "r should be a whole number from 1 on, got None"),
        ({"r": 4}, r"6 of another shape.*lora_A.weight \[3, \d+\]: should be \[4, "),
        ({"lora_alpha": "much"}, "lora_alpha should be a finite number, got 'much'"),
        ({"lora_alpha": 10**400}, "lora_alpha should be a finite number, got '10000"),
        ({"lora_alpha": float("nan")}, "lora_alpha should be a finite number, got 'nan'"),
        ({"use_dora": True}, "use_dora is 'True', and only plain LoRA is read: merge this adapter"),
        ({"alpha_pattern": {"wq": 2}}, "alpha_pattern is .*only plain LoRA is read"),
        ({"bias": "all"}, "bias is 'all', and only plain LoRA is read"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', and only plain LoRA is read"),
        ({"new_kind_of_layer": 7}, "new_kind_of_layer is '7', and only plain LoRA is read"),
        ({"target_modules": ["wq", "to_q"]}, r"no linear layer to_q, which target_modules names; its blocks have .*wq"),
        ({"target_modules": "("}, "is no regular expression"),
        ({"target_modules": None}, "target_modules should be a list of names, got 'None'"),
        ({"target_modules": ["wq", "wo"]}, r"2 unexpected.*feed_forward\.w2\.lora_A\.weight.*: unexpected"),
        ({"target_modules": ["wq", "wo", "w2", "wk"]}, r"2 missing.*attention\.wk\.lora_A\.weight .*: missing"),
    ],
)
def test_settings_that_do_not_fit(
    base: TextToVideo, saved: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "adapter"
    write(folder, matrices(base.transformer.state_dict()), **({"peft_type": "LORA"} | settings))
    with pytest.raises(ValueError, match=message) as error:
        TextToVideo.from_pretrained(saved, adapter=folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_do_not_fit(base: TextToVideo, saved: Path, tmp_path: Path) -> None:
    tensors = matrices(base.transformer.state_dict())
    whole = write(tmp_path / "whole", tensors)
    transformer = saved / "transformer"

    def refused(folder: Path, kind: type[Exception], message: str, scale: float = 1.0) -> None:
        with pytest.raises(kind, match=message) as error:
            load_adapted(transformer, folder, scale, "cpu", None)
        assert "\n" not in str(error.value)

    refused(tmp_path / "none", FileNotFoundError, "none is no folder")
    refused(saved, FileNotFoundError, r"does not hold an adapter: no adapter_config\.json")
    lacking = shutil.copytree(whole, tmp_path / "lacking")
    (lacking / TENSORS_FILE).unlink()
    refused(lacking, FileNotFoundError, r"does not hold an adapter: no adapter_model\.safetensors")
    (lacking / "adapter_model.bin").write_bytes(pickle.dumps(Path("never")))
    refused(lacking, ValueError, r"adapter_model\.bin is a pickle, which is never read: save the adapter as adapter_mo")
    (lacking / TENSORS_FILE).write_bytes(pickle.dumps(Path("never")))
    refused(lacking, ValueError, r"adapter_model\.safetensors is damaged")
    (lacking / CONFIG_FILE).write_text("{")
    refused(lacking, ValueError, "no JSON")
    other = {name.replace("layers.0", "blocks.7"): value for name, value in tensors.items()}
    refused(write(tmp_path / "other", other), ValueError, r"6 missing, 6 unexpected; the network has 6")
    wider = {name: value.repeat(2, 1) if "lora_B" in name else value for name, value in tensors.items()}
    refused(write(tmp_path / "wider", wider), ValueError, r"3 of another shape.*\[64, 3\]: should be \[32, 3\]")
    inner = {name.replace("model.layers", "model.transformer.layers"): value for name, value in tensors.items()}
    refused(
        write(tmp_path / "inner", inner), ValueError, r"all 6 names begin with 'transformer\.', which the network's"
    )
    refused(whole, ValueError, "the scale of an adapter must be a finite number, got nan", float("nan"))


@pytest.mark.parametrize("prefix", ["", "base_model.model._orig_mod.", "base_model.model.module."])
def test_prefixes_of_wrappers_are_taken_off(base: TextToVideo, tmp_path: Path, prefix: str) -> None:
    weights = base.transformer.state_dict()
    tensors = matrices(weights)
    renamed = {name.replace("base_model.model.", prefix): value for name, value in tensors.items()}
    plain, wrapped = (
        read_adapter(write(tmp_path / name, found), weights) for name, found in (("a", tensors), ("b", renamed))
    )
    assert plain.pairs.keys() == wrapped.pairs.keys()
    for layer, pair in plain.pairs.items():
        assert all(torch.equal(*both) for both in zip(pair, wrapped.pairs[layer], strict=True))


def test_an_adapter_of_another_network_is_refused_before_its_weights_are_read(
    base: TextToVideo, tmp_path: Path
) -> None:
    adapter = write(tmp_path / "adapter", matrices(base.transformer.state_dict()))
    save_model(tiny.dit_without_zeros(0.1), tmp_path / "deeper")
    (tmp_path / "deeper" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"6 missing, .*6 of another shape.*layers\.1"):
        load_adapted(tmp_path / "deeper", adapter, 1.0, "cpu", None)


def test_an_adapter_is_not_added_where_it_is_merged(base: TextToVideo, saved: Path, tmp_path: Path) -> None:
    tensors = trained(matrices(base.transformer.state_dict()))
    merged = MultiScaleNextDiT(base.transformer.config)
    merged.load_state_dict(merge(base.transformer.state_dict(), tensors, CONFIG))
    # The export copies the transformer of the last stage, whose folder the adapter knows by the digest alone.
    replace(base, transformer=merged).save_pretrained(tmp_path / "export")
    digest = json.loads((tmp_path / "export" / "transformer" / "digest.json").read_text())["weights"]
    save_adapter(tensors, CONFIG, tmp_path / "adapter", digest)
    with pytest.raises(ValueError, match="adapter merged already: leave it out, or take the weights that it was"):
        TextToVideo.from_pretrained(tmp_path / "export", adapter=tmp_path / "adapter")
    for folder, scale in ((saved, 1.0), (tmp_path / "export", -1.0)):
        TextToVideo.from_pretrained(folder, adapter=tmp_path / "adapter", adapter_scale=scale)
    (tmp_path / "adapter" / "merged.json").write_text("[]")
    with pytest.raises(ValueError, match=r"merged\.json is damaged"):
        TextToVideo.from_pretrained(saved, adapter=tmp_path / "adapter")


def test_what_training_saves_is_read(base: TextToVideo, tmp_path: Path) -> None:
    weights = base.transformer.state_dict()
    tensors = matrices(weights)
    save_adapter(trained(tensors), CONFIG, tmp_path / "adapter")
    assert load_file(tmp_path / "adapter" / TENSORS_FILE).keys() == tensors.keys()
    merged, added = merge(weights, trained(tensors), CONFIG), read_adapter(tmp_path / "adapter", weights)
    for name, value in add_adapter(weights, added, 1.0).items():
        assert torch.equal(value, merged[name])
