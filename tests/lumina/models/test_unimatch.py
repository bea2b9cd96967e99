"""UniMatch: equality with the released network, its maths, and loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from lumina.models import correspondence
from lumina.models.config import RELEASED_FLOW_MODELS, UniMatchConfig, load_flow_config
from lumina.models.unimatch import UniMatch, window_attention
from tests.lumina import golden as fixtures

NARROW = UniMatchConfig(
    feature_channels=8,
    backbone_channels=(4, 6, 8),
    num_transformer_layers=2,
    ffn_dim_expansion=1,
    attn_splits=(1, 2),
    num_reg_refine=2,
)


def narrow(config: UniMatchConfig = NARROW) -> UniMatch:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return UniMatch(config).eval()


def images(pairs: int = 2, height: int = 32, width: int = 48) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    draw = torch.rand(2 * pairs, 3, height, width, generator=generator) * 255
    return draw[:pairs], draw[pairs:]


def released(definitions: dict[str, Any], case: str) -> UniMatchConfig:
    shape, call = dict(definitions["cases"][case]["cfg"]), definitions["cases"][case]["call"]
    shape = {name: value for name, value in shape.items() if name in UniMatchConfig.model_fields}
    steps = {"num_reg_refine": call["num_reg_refine"]} if "num_reg_refine" in call else {}
    per_scale = {
        "attn_splits": call["attn_splits_list"],
        "corr_radius": call["corr_radius_list"],
        "prop_radius": call["prop_radius_list"],
    }
    return UniMatchConfig.model_validate(shape | per_scale | steps)


@pytest.mark.parametrize("case", ["scale2_refine6", "scale2_refine6_soft", "scale1", "scale2"])
def test_the_released_numbers(golden: Path, case: str) -> None:
    arrays, definitions = fixtures.read(golden, "E_unimatch")
    manifest = definitions["manifest"][case]
    manifest = definitions["manifest"][manifest] if isinstance(manifest, str) else manifest
    model = UniMatch(released(definitions, case)).eval()
    weights = fixtures.weights(golden, definitions["cases"][case] | {"manifest": manifest})
    model.load_state_dict(weights, strict=True)
    frames = arrays["frames"].float()
    with torch.no_grad():
        flow = model(frames[:-1], frames[1:])
    fixtures.assert_close(case, flow, arrays[f"{case}.flow"], "flow")
    assert flow.abs().mean().item() == pytest.approx(definitions["cases"][case]["score"], rel=1e-3)
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == {
        name: shape for name, shape, _ in manifest
    }


def test_the_released_presets_are_the_fixtures_networks(golden: Path) -> None:
    definitions = json.loads((golden / "E_unimatch.json").read_text())
    for name, case in (
        ("gmflow-scale1", "scale1"),
        ("gmflow-scale2", "scale2"),
        ("gmflow-scale2-regrefine6", "scale2_refine6"),
    ):
        assert RELEASED_FLOW_MODELS[name] == released(definitions, case)
    with torch.device("meta"):
        model = UniMatch(RELEASED_FLOW_MODELS["gmflow-scale2-regrefine6"])
    assert sum(parameter.numel() for parameter in model.parameters()) == 7_360_688


def test_a_pair_does_not_depend_on_its_batch() -> None:
    model, (first, second) = narrow(), images(3)
    together = model(first, second)
    assert together.shape == (3, 2, 32, 48)
    for item in range(3):
        torch.testing.assert_close(together[item], model(first[item : item + 1], second[item : item + 1])[0])


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({}, 6),
        ({"reg_refine": False}, 4),
        ({"num_scales": 1, "attn_splits": (2,), "corr_radius": (-1,), "prop_radius": (-1,), "reg_refine": False}, 2),
    ],
)
def test_training_sees_every_step_and_reaches_every_weight(change: dict[str, Any], count: int) -> None:
    model = narrow(NARROW.model_copy(update=change)).train()
    first, second = images()
    found = model.predictions(first, second)
    assert len(found) == count
    assert {tuple(flow.shape) for flow in found} == {(2, 2, 32, 48)}
    torch.stack([flow.abs().mean() for flow in found]).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    with torch.no_grad():
        best = found[-1].detach()
        model.eval()
        torch.testing.assert_close(model(first, second), best)


def test_wrong_sizes_are_named() -> None:
    model, (first, second) = narrow(), images()
    with pytest.raises(ValueError, match=r"sides must be multiples of 8, got 30 x 48"):
        model(first[:, :, :30], second[:, :, :30])
    with pytest.raises(ValueError, match="two batches"):
        model(first, second[:1])
    assert UniMatchConfig().multiple == 32
    with pytest.raises(ValidationError, match="one value per scale"):
        UniMatchConfig(num_scales=1)


def test_saving_and_loading(tmp_path: Path) -> None:
    model, (first, second) = narrow().requires_grad_(False), images()
    model.save_pretrained(tmp_path / "flow")
    again = UniMatch.from_pretrained(tmp_path / "flow")
    assert again.config == NARROW
    assert torch.equal(again(first, second), model(first, second))
    (tmp_path / "flow" / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="is damaged"):
        UniMatch.from_pretrained(tmp_path / "flow")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        UniMatch.from_pretrained(tmp_path / "nowhere")


def test_a_released_file_is_recognised_by_its_name(tmp_path: Path) -> None:
    config = RELEASED_FLOW_MODELS["gmflow-scale1"]
    weights = UniMatch(config).state_dict()
    path = tmp_path / "gmflow-scale1-mixdata-train320x576-4c3a6e9a.pth"
    torch.save({"model": weights}, path)
    assert UniMatch.from_pretrained(path).config == config
    for name, expected in (("gmflow-scale2-regrefine6-mixdata.pth", UniMatchConfig()), ("flow.pth", None)):
        (tmp_path / name).touch()
        if expected is not None:
            assert load_flow_config(tmp_path / name) == expected
            continue
        with pytest.raises(ValueError, match="keep the released name"):
            load_flow_config(tmp_path / name)
    weights["backbone.conv2.bias"] = torch.zeros(7)
    del weights["upsampler.0.bias"]
    torch.save({"model": weights}, path)
    with pytest.raises(ValueError, match="2 tensors") as error:
        UniMatch.from_pretrained(path)
    assert "upsampler.0.bias [256]: missing" in str(error.value)
    assert "backbone.conv2.bias [7]: should be [128]" in str(error.value)


def test_matching_finds_a_shift() -> None:
    generator = torch.Generator().manual_seed(5)
    feature = torch.randn(1, 64, 12, 12, generator=generator) * 3
    moved = feature.roll((2, -1), (2, 3))
    for flow in (correspondence.match_globally(feature, moved), correspondence.match_locally(feature, moved, 3)):
        inner = flow[:, :, 3:-3, 3:-3]
        torch.testing.assert_close(
            inner, torch.tensor([-1.0, 2.0])[None, :, None, None].expand_as(inner), atol=1e-3, rtol=0
        )
    back = correspondence.warp(moved, torch.tensor([-1.0, 2.0])[None, :, None, None].expand(1, 2, 12, 12))
    torch.testing.assert_close(back[..., :10, 1:], feature[..., :10, 1:], atol=1e-4, rtol=1e-4)


def test_the_correlation_at_zero_flow_is_the_window_of_products() -> None:
    generator = torch.Generator().manual_seed(6)
    first, second = torch.randn(2, 1, 16, 6, 7, generator=generator)
    costs = correspondence.local_correlation(first, second, torch.zeros(1, 2, 6, 7), 1)
    assert costs.shape == (1, 9, 6, 7)
    torch.testing.assert_close(costs[0, 4], (first * second).sum(1)[0] / 4)
    right = (first[..., :-1] * second[..., 1:]).sum(1)[0] / 4
    torch.testing.assert_close(costs[0, 5, :, :-1], right)
    assert costs[0, 5, :, -1].abs().max() < 1e-5


def test_shifted_windows_keep_borders_apart() -> None:
    generator = torch.Generator().manual_seed(7)
    q, k, v = torch.randn(3, 1, 8, 8, 4, generator=generator)
    plain, shifted = (window_attention(q, k, v, 2, flag) for flag in (False, True))
    assert not torch.allclose(plain, shifted)
    corner = v.clone()
    corner[:, 0, 0] += 100
    changed = (window_attention(q, k, corner, 2, True) - shifted).abs().sum(-1)[0] > 1e-3
    assert changed[:2, :2].all()  # the shifted window of the corner holds the first two rows and columns
    assert not changed[2:].any()
    assert not changed[:, 2:].any()


def test_convex_upsampling_of_a_constant() -> None:
    flow = torch.tensor([1.5, -2.0])[None, :, None, None].expand(1, 2, 4, 5)
    mask = torch.full((1, 9, 4, 4, 4, 5), -30.0)
    mask[:, 4] = 30.0
    fine = correspondence.upsample_convexly(flow, mask.flatten(1, 3), 4)
    torch.testing.assert_close(fine, 4 * flow[:, :, :1, :1].expand(1, 2, 16, 20))
