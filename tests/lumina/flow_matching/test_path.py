"""The path: released times and losses, and the invariants of the straight line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumina.flow_matching.path import interpolate, losses, shift_time, velocity
from tests.lumina import golden as fixtures


@given(u=st.floats(0.0, 1.0), shift=st.floats(0.1, 50.0))
def test_shift_keeps_order_and_ends(u: float, shift: float) -> None:
    t = shift_time(torch.tensor([0.0, u, 1.0], dtype=torch.float64), shift)
    assert t[0] == 0
    assert t[2].item() == pytest.approx(1.0)
    assert t[0] <= t[1] <= t[2] + 1e-12
    if shift >= 1:
        assert t[1] <= u + 1e-12
    assert shift_time(shift_time(t, 1 / shift), shift)[1].item() == pytest.approx(t[1].item(), abs=1e-9)


def test_path_ends_and_slope() -> None:
    x_0, x_1 = torch.randn(2, 3, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    assert torch.equal(interpolate(x_0, x_1, torch.zeros(3)), x_0)
    assert torch.equal(interpolate(x_0, x_1, torch.ones(3)), x_1)
    step = interpolate(x_0, x_1, torch.full((3,), 0.75)) - interpolate(x_0, x_1, torch.full((3,), 0.25))
    torch.testing.assert_close(step, velocity(x_0, x_1) / 2)


def test_lists_batches_and_masks_agree() -> None:
    prediction, target = torch.randn(2, 3, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    batch, parts = losses(prediction, target), losses(list(prediction), list(target))
    torch.testing.assert_close(batch.total, parts.total)
    keep = torch.zeros(prediction.shape, dtype=torch.bool)
    keep[:, :, :1] = True
    masked, cut = losses(prediction, target, mask=keep), losses(prediction[:, :, :1], target[:, :, :1])
    torch.testing.assert_close(masked.total, cut.total)
    perfect = losses(target, target)
    assert perfect.total.abs().max() < 1e-6
    assert losses(-target, target).direction.min() > 1.999


def test_released_times(golden: Path) -> None:
    arrays, _ = fixtures.read(golden, "D_transport")
    for name, want in arrays.items():
        if name.startswith("shift.t_alpha") and not name.endswith(".bf16"):
            text = name.removeprefix("shift.t_alpha")
            shift = None if text == "None" else float(text)
            fixtures.assert_close(name, shift_time(arrays["shift.u"], shift), want, "table")
    lognormal = shift_time(arrays["shift.normal"].sigmoid(), 2.0)
    fixtures.assert_close("lognorm", lognormal, arrays["shift.t_lognorm_alpha2"], "table")
    uniform = shift_time(0.2 + (0.7 - 0.2) * arrays["shift.u"], 4.0)
    fixtures.assert_close("uniform", uniform, arrays["shift.t_uniform_0.2_0.7_alpha4"], "table")


def test_released_losses(golden: Path) -> None:
    arrays, definitions = fixtures.read(golden, "D_transport")
    for i in (0, 1):
        goal = velocity(arrays[f"given{i}.x0"], arrays[f"given{i}.x1"])
        got = losses([arrays[f"given{i}.out"]], [goal], 1.0)
        fixtures.assert_close("loss", got.total, arrays[f"given{i}.loss"])
        fixtures.assert_close("task", got.task, arrays[f"given{i}.task"])
        assert (got.direction - arrays[f"given{i}.vd"]).abs().max() < 1e-6
    model = fixtures.model(golden, definitions)
    text = fixtures.unpadded(arrays["loss.cap_feats"], arrays["loss.cap_mask"])
    x_0, x_1 = ([arrays[f"loss.{name}.{i}"] for i in range(3)] for name in ("x0", "x1"))
    target = [velocity(a, b) for a, b in zip(x_0, x_1, strict=True)]
    for case, definition in definitions["cases"].items():
        if not case.startswith("loss_"):
            continue
        t = shift_time(arrays["loss.u"], definition["alpha"])
        x_t = [interpolate(a[None], b[None], s[None])[0] for a, b, s in zip(x_0, x_1, t, strict=True)]
        out = model(x_t, t, text, arrays["loss.motion"], fixtures.freeze(definition["patch"]))
        got = losses(out, target, definition["vd_weight"])
        for values, tag in ((got.total, "loss"), (got.task, "task"), (got.direction, "vd")):
            fixtures.assert_close(f"{case}.{tag}", values, arrays[f"{case}.{tag}"])
        if "grad_order" in definition:
            model.zero_grad(set_to_none=True)
            (got.total.sum() / 3).backward()
            gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            norms = torch.stack([gradients[name].double().norm() for name in definition["grad_order"]])
            fixtures.assert_close(f"{case} gradients", norms, arrays[f"{case}.grad_l2"], "sum")


def test_released_image_loss(golden: Path) -> None:
    arrays, definitions = fixtures.read(golden, "D_transport")
    definition = definitions["cases"]["image"]
    text = fixtures.unpadded(arrays["loss.cap_feats"], arrays["loss.cap_mask"])[:1]
    x_0, x_1 = arrays["image.x0"][None], arrays["image.x1"][None]
    t = shift_time(arrays["image.u"], definition["alpha"])
    model = fixtures.model(golden, definitions)
    patch = fixtures.freeze(definition["patch"])
    out = model(interpolate(x_0, x_1, t), t, text, arrays["loss.motion"][:1], patch)
    keep = torch.zeros(x_1.shape, dtype=torch.bool)
    keep[:, :, :1] = True
    got = losses(out, velocity(x_0, x_1), definition["vd_weight"], keep)
    for values, tag in ((got.total, "loss"), (got.task, "task"), (got.direction, "vd")):
        fixtures.assert_close(tag, values, arrays[f"image.{tag}"])
