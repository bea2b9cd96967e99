"""Low-rank adapters: what they start as, what they add up to, and files that peft itself can read."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lumina.checkpoints import check_weights
from lumina.models.config import Recompute
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.training.stage import LoraConfig
from lumina.training.weights.lora import add_adapters, merge, save_adapter
from tests.lumina.tiny import TINY, dit_without_zeros

ALL = LoraConfig(rank=4, alpha=6.0, targets=("wq", "wk", "wv", "wo", "w1", "w2", "w3"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("adapters reach for the network")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def evaluate(model: MultiScaleNextDiT, dtype: torch.dtype = torch.float32) -> Tensor:
    """What a model makes of three clips, [3, C, F, H, W]."""
    draw = rng()
    x = torch.randn(3, 4, 2, 8, 4, generator=draw).to(dtype)
    text = [torch.randn(length, TINY.cap_feat_dim, generator=draw).to(dtype) for length in (3, 7, 5)]
    return model(x, torch.rand(3, generator=draw), text, torch.tensor([-1.0, 0.0, 4.0]), (1, 2, 2))


def adapted(config: LoraConfig, train: bool = True) -> MultiScaleNextDiT:
    """A network with adapters that are no longer zero, if `train`."""
    model = dit_without_zeros(0.1)
    add_adapters(model, config, rng())
    if train:
        draw = rng()
        with torch.no_grad():
            for parameter in trained(model).values():
                parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
    return model


def trained(model: MultiScaleNextDiT) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def merged_by(model: MultiScaleNextDiT, config: LoraConfig) -> dict[str, Tensor]:
    """The weights that a model with adapters computes with."""
    adapters, state = trained(model), model.state_dict()
    base = {name.replace(".base_layer.", "."): value for name, value in state.items() if name not in adapters}
    return merge(base, adapters, config)


def load(weights: dict[str, Tensor]) -> MultiScaleNextDiT:
    model = MultiScaleNextDiT(TINY)
    model.load_state_dict(weights)
    return model


@pytest.mark.parametrize("config", [ALL, LoraConfig(targets=("wo", "w2"))])
def test_adapters_change_nothing_at_first_and_alone_are_trained(config: LoraConfig) -> None:
    plain = dit_without_zeros(0.1)
    before = torch.random.get_rng_state()
    model = adapted(config, train=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(evaluate(model), evaluate(plain))
    names = {
        f"layers.{block}.{'attention' if target[1] in 'qkvo' else 'feed_forward'}.{target}.lora_{side}.default.weight"
        for block in range(TINY.n_layers)
        for target in config.targets
        for side in "AB"
    }
    assert set(trained(model)) == names
    assert {value.dtype for value in trained(model).values()} == {torch.float32}
    evaluate(model).square().mean().backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == names


def test_adapters_are_drawn_from_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = trained(adapted(ALL, train=False))
    torch.manual_seed(2)
    again = trained(adapted(ALL, train=False))
    other_model = dit_without_zeros(0.1)
    add_adapters(other_model, ALL, torch.Generator().manual_seed(6))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    for name, value in trained(other_model).items():
        assert bool(value.any()) == (".lora_A." in name)
        assert torch.equal(value, first[name]) == (".lora_B." in name)


def test_a_half_precision_model_gets_float32_adapters() -> None:
    model = dit_without_zeros(0.1).bfloat16()
    add_adapters(model, ALL, rng())
    assert all(torch.equal(value, trained(adapted(ALL, train=False))[name]) for name, value in trained(model).items())
    assert evaluate(model, torch.bfloat16).dtype == torch.bfloat16


def test_merged_weights_compute_the_same() -> None:
    model = adapted(ALL)
    want = evaluate(model).detach()
    merged = merged_by(model, ALL)
    check_weights(TINY, merged, "merged")
    torch.testing.assert_close(evaluate(load(merged)), want)
    assert (evaluate(dit_without_zeros(0.1)) - want).abs().max() > 1e-2
    assert torch.equal(evaluate(model), want)


def test_merging_from_tensors_is_merging_the_model() -> None:
    model = adapted(ALL)
    base = {name: value.bfloat16() for name, value in dit_without_zeros(0.1).state_dict().items()}
    kept = {name: value.clone() for name, value in base.items()}
    merged = merge(base, {name: value.bfloat16() for name, value in trained(model).items()}, ALL)
    assert {value.dtype for value in merged.values()} == {torch.float32}
    # As DeepSpeed casts it.
    model.bfloat16()
    whole = merged_by(model, ALL)
    assert merged.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in merged.items())
    assert all(torch.equal(value, kept[name]) for name, value in base.items())
    with torch.no_grad():
        got, want = evaluate(model, torch.bfloat16).float(), evaluate(load(merged))
    assert (got - want).norm() < 0.05 * want.norm()


@settings(max_examples=10)
@given(rank=st.integers(1, 9), alpha=st.floats(0.5, 64), targets=st.permutations(ALL.targets), count=st.integers(1, 7))
def test_any_config_merges_to_what_it_computes(rank: int, alpha: float, targets: list[Any], count: int) -> None:
    config = LoraConfig(rank=rank, alpha=alpha, targets=tuple(targets[:count]))
    model = adapted(config)
    with torch.no_grad():
        torch.testing.assert_close(evaluate(load(merged_by(model, config))), evaluate(model), rtol=1e-3, atol=1e-4)


def test_peft_reads_what_is_saved(tmp_path: Path) -> None:
    from peft import PeftModel

    model = adapted(ALL)
    save_adapter(trained(model), ALL, tmp_path / "adapter")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    content = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (content["peft_type"], content["r"], content["lora_alpha"]) == ("LORA", 4, 6.0)
    assert content["target_modules"] == sorted(ALL.targets)
    loaded = PeftModel.from_pretrained(dit_without_zeros(0.1), str(tmp_path / "adapter"))
    torch.testing.assert_close(evaluate(loaded), evaluate(load(merged_by(model, ALL))))
    assert torch.equal(evaluate(loaded), evaluate(model))
    with pytest.raises(FileExistsError, match="exists"):
        save_adapter(trained(model), ALL, tmp_path / "adapter")


def test_adapters_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    base = dit_without_zeros(0.1).state_dict()
    adapters = dict(trained(adapted(ALL)))
    first = "layers.0.attention.wq.lora_A.default.weight"
    wrong = {name: value for name, value in adapters.items() if name != first} | {
        "layers.0.attention.wq": base["pad_token"]
    }
    wrong["layers.1.feed_forward.w2.lora_B.default.weight"] = torch.zeros(64, 5)
    for refuse in (lambda: merge(base, wrong, ALL), lambda: save_adapter(wrong, ALL, tmp_path / "adapter")):
        with pytest.raises(ValueError, match=r"rank 4 of wq, .*3 tensors") as error:
            refuse()
        for part in (f"{first}: missing", "layers.0.attention.wq [64]: unexpected", "[64, 5]: should be ["):
            assert part in str(error.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="12 tensors"):
        merge(base, adapters, ALL.model_copy(update={"targets": ("wq", "wk", "wv", "wo")}))
    with pytest.raises(ValueError, match="0 tensors"):
        save_adapter({}, ALL, tmp_path / "adapter")


def test_adapters_twice() -> None:
    with pytest.raises(ValueError, match="adapters already"):
        add_adapters(adapted(ALL), ALL, rng())


def gradients(model: MultiScaleNextDiT) -> dict[str, Tensor]:
    evaluate(model, model.dtype).float().square().mean().backward()
    found = {name: value.grad for name, value in trained(model).items() if value.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputing_changes_no_bit(dtype: torch.dtype) -> None:
    model = adapted(ALL).to(dtype)
    want = gradients(model)
    assert set(want) == set(trained(model))
    for mode in get_args(Recompute):
        model.checkpoint_blocks(mode)
        assert all(torch.equal(value, want[name]) for name, value in gradients(model).items())


def test_compiled_blocks_with_adapters_recompute() -> None:
    torch._dynamo.reset()
    config = LoraConfig(rank=4, targets=("wq", "wv", "w2"))
    want = gradients(adapted(config))
    model = adapted(config)
    model.checkpoint_blocks("per-op")
    model.compile_blocks("aot_eager")
    got = gradients(model)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert (got[name] - value).norm() <= 1e-4 * value.norm(), name


def test_peft_is_imported_only_when_it_is_needed() -> None:
    code = "import sys, lumina.training.weights.lora; sys.exit('peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
