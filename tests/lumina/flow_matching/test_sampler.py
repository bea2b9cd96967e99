"""The sampler: released guidance and trajectories, batch independence, exact savings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lumina.flow_matching.sampler import guided_velocity, integrate, sample, time_grid
from lumina.flow_matching.schedules import SamplerConfig, value_at
from lumina.models.next_dit import MultiScaleNextDiT
from tests.lumina import golden as fixtures
from tests.lumina.tiny import TINY, dit_without_zeros

COARSE_TO_FINE = SamplerConfig(
    steps=6,
    time_shift=4.0,
    patches=((0.0, (2, 4, 4)), (0.1, (2, 2, 2)), (0.4, (1, 2, 2))),
    guidance=((0.0, 2.0), (0.4, 0.0)),
    norm_cap=1.5,
)


def schedule(value: Any) -> tuple[tuple[float, Any], ...]:
    """A released time-aware value as ours."""
    first, *rest = value if isinstance(value, list) else [value]
    return ((0.0, first), *((start, later) for start, later in rest))


def released_patch(text: str) -> tuple[int, int, int]:
    """ "2x4" is (2, 4, 4)."""
    temporal, spatial = map(int, text.split("x"))
    return temporal, spatial, spatial


@pytest.fixture(scope="module")
def tiny() -> MultiScaleNextDiT:
    return dit_without_zeros(0.05).eval()


def inputs(n: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Noise, text and negative text of n items."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(n, 4, 4, 8, 8, generator=generator)
    text = [torch.randn(5 + i, 24, generator=generator) for i in range(n)]
    return noise, text, [torch.randn(3, 24, generator=generator)] * n


def test_a_batch_equals_its_items_alone(tiny: MultiScaleNextDiT) -> None:
    noise, text, negative = inputs(3)
    calls: list[tuple[int, int]] = []
    together = sample(tiny, noise, text, negative, COARSE_TO_FINE, progress=lambda i, n: calls.append((i, n)))
    assert calls == [(i, 6) for i in range(1, 7)]
    for i in range(3):
        alone = sample(tiny, noise[i : i + 1], text[i : i + 1], negative[:1], COARSE_TO_FINE)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_unguided_steps_run_single(tiny: MultiScaleNextDiT) -> None:
    noise, text, negative = inputs(2)
    rows: list[int] = []
    handle = tiny.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    sample(tiny, noise, text, negative, COARSE_TO_FINE)
    handle.remove()
    seen = time_grid(6, 4.0)[:-1].tolist()
    assert rows == [4 if t < 0.4 else 2 for t in seen]
    free = COARSE_TO_FINE.model_copy(update={"guidance": ((0.0, 0.0),)})
    assert sample(tiny, noise, text, [], free).shape == noise.shape


def test_own_motion_replaces_the_schedule(tiny: MultiScaleNextDiT) -> None:
    noise, text, negative = inputs(2)
    plain = sample(tiny, noise, text, negative, COARSE_TO_FINE)
    torch.testing.assert_close(plain, sample(tiny, noise, text, negative, COARSE_TO_FINE, motion=[6.0, 6.0]))
    assert not torch.allclose(plain, sample(tiny, noise, text, negative, COARSE_TO_FINE, motion=[0.0, 0.0]))


def seen_by(model: MultiScaleNextDiT, noise: Tensor, config: SamplerConfig, **options: Any) -> list[dict[str, Any]]:
    """What the model is given in every step, as plain numbers."""
    _, text, negative = inputs(len(noise))
    calls: list[dict[str, Any]] = []
    names = ("x", "t", "text", "motion", "patch")

    def note(_: Any, args: Any) -> None:
        call = dict(zip(names, args, strict=False))
        call |= {"t": call["t"].tolist(), "motion": call["motion"].tolist(), "prompts": call["text"].segments.lengths}
        calls.append(call)

    handle = model.register_forward_pre_hook(note)
    sample(model, noise, text, negative, config, **options)
    handle.remove()
    return calls


@pytest.mark.parametrize(
    ("negative", "early", "late"),
    [
        (((0.0, 2.0), (0.05, "positive")), [2.0, 2.0], [4.0, 8.0]),  # Table 3: 2-[.05-X]
        (((0.0, 2.0), (0.05, 6.0)), [2.0, 2.0], [6.0, 6.0]),
        (((0.0, -1.0), (0.05, "positive")), [-1.0, -1.0], [4.0, 8.0]),
        (((0.0, "positive"),), [4.0, 8.0], [4.0, 8.0]),
    ],
)
def test_the_negative_score_follows_the_positive_one_after_its_threshold(
    tiny: MultiScaleNextDiT, negative: Any, early: list[float], late: list[float]
) -> None:
    config = SamplerConfig(steps=6, time_shift=8.0, guidance=((0.0, 2.0),), negative_motion=negative)
    calls = seen_by(tiny, inputs(2)[0], config, motion=[4.0, 8.0])
    ends = [call["motion"][2:] for call in calls]
    before = sum(call["t"][0] < 0.05 for call in calls)
    assert 0 < before < 6
    assert ends == [early] * before + [late] * (6 - before)
    assert all(call["motion"][:2] == [4.0, 8.0] for call in calls)
    # Negative prompts stand behind the positive ones.
    assert all(call["prompts"] == (5, 6, 3, 3) for call in calls)
    scheduled = config.model_copy(update={"motion": ((0.0, 1.0), (0.05, 7.0))})
    [first, *_, last] = seen_by(tiny, inputs(2)[0], scheduled)
    expected = [1.0 if negative == ((0.0, "positive"),) else early[0], 7.0 if late == [4.0, 8.0] else 6.0]
    assert first["motion"] == [1.0, 1.0, expected[0], expected[0]]
    assert last["motion"] == [7.0, 7.0, expected[1], expected[1]]


def test_the_model_sees_times_in_its_own_type_or_in_float32() -> None:
    half, noise = dit_without_zeros(0.05).eval().to(torch.bfloat16), inputs(1)[0]
    grid = time_grid(6, 4.0)[:-1]
    rounded = grid.to(torch.bfloat16)
    # Between the fourth time and what it is rounded to.
    start = float(grid[3] + rounded[3].float()) / 2
    config = COARSE_TO_FINE.model_copy(update={"patches": ((0.0, (2, 2, 2)), (start, (1, 2, 2)))})
    calls = seen_by(half, noise, config)
    assert [call["t"][0] for call in calls] == rounded.tolist() != grid.tolist()
    assert [call["patch"] for call in calls] == [(1, 2, 2) if t >= start else (2, 2, 2) for t in rounded.tolist()]
    exact = config.model_copy(update={"time_dtype": "float32"})
    assert [call["t"][0] for call in seen_by(half, noise, exact)] == grid.tolist()


@pytest.mark.parametrize(("cap", "want"), [(None, (2.0, 7.0)), (1.5, (2.0, 4.5)), (2.0, (2.0, 6.0))])
def test_guidance_goes_away_from_the_negative_side_and_each_item_has_its_own_cap(
    tiny: MultiScaleNextDiT, cap: float | None, want: tuple[float, float]
) -> None:
    noise, text, negative = inputs(2)
    # Item 0 has the same velocity on both sides, item 1 has 3 and 1.
    sides = torch.tensor([2.0, 3.0, 2.0, 1.0]).view(4, 1, 1, 1, 1)

    def model(x: Tensor, *_: Any) -> Tensor:
        assert torch.equal(x, noise.repeat(2, 1, 1, 1, 1))
        return sides.expand(x.shape)

    condition = tiny.encode_text([*text, *negative])
    motion = torch.zeros(4)
    got = guided_velocity(model, noise, torch.tensor(0.5), condition, motion, (1, 2, 2), [2.0], cap)  # type: ignore[arg-type]
    torch.testing.assert_close(got, torch.tensor(want).view(2, 1, 1, 1, 1).expand(noise.shape))


def test_chosen_prompts_come_in_the_order_that_was_asked_for(tiny: MultiScaleNextDiT) -> None:
    _, text, negative = inputs(3)
    prompts = [*text, negative[0]]
    all_of_them = tiny.encode_text(prompts)
    for chosen in ([0, 1, 2, 3], [0, 1], [3, 1], [2], [1, 3, 0, 2]):
        got, alone = all_of_them.select(chosen), tiny.encode_text([prompts[item] for item in chosen])
        assert got.segments.lengths == alone.segments.lengths
        torch.testing.assert_close(got.pooled, alone.pooled)
        for ours, theirs in zip((*got.keys, *got.values), (*alone.keys, *alone.values), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_an_image_is_sampled_at_the_scale_that_images_train_at(tiny: MultiScaleNextDiT) -> None:
    image = torch.randn(2, 4, 1, 6, 10, generator=torch.Generator().manual_seed(0))
    assert {call["patch"] for call in seen_by(tiny, image, COARSE_TO_FINE)} == {(1, 2, 2)}
    assert {call["patch"] for call in seen_by(tiny, inputs(2)[0], COARSE_TO_FINE)} == {(1, 2, 2), (2, 2, 2), (2, 4, 4)}
    coarse = dit_without_zeros(0.05, TINY.model_copy(update={"patch_sizes": ((2, 2, 2),)}))
    with pytest.raises(ValueError, match=r"no patch size \(1, 2, 2\); it has \(2, 2, 2\)"):
        seen_by(coarse, image, SamplerConfig(patches=((0.0, (2, 2, 2)),)))


def test_bad_inputs_are_named(tiny: MultiScaleNextDiT) -> None:
    noise, text, negative = inputs(2)
    with pytest.raises(ValueError, match="2 noises, 1 prompts"):
        sample(tiny, noise, text[:1], negative, COARSE_TO_FINE)
    with pytest.raises(ValueError, match="negative prompt"):
        sample(tiny, noise, text, negative[:1], COARSE_TO_FINE)
    with pytest.raises(ValueError, match="no patch size"):
        sample(tiny, noise, text, negative, SamplerConfig(patches=((0.0, (4, 4, 4)),)))


def test_released_guidance(golden: Path) -> None:
    arrays, definitions = fixtures.read(golden, "B_cfg")
    models = {
        name: fixtures.model(golden, definitions, dtype)
        for name, dtype in {"float32": torch.float32, "bfloat16": torch.bfloat16}.items()
    }
    for case, definition in definitions["cases"].items():
        tag = "4" if case.startswith("two_") else ""
        n, weights = definition["n_pos"], [schedule(value) for value in definition["cfg_scale"]]
        rows = n * (1 + len(weights))
        model = models[definition["dtype"]]
        t = torch.tensor(definition["t"]).to(model.dtype)
        seen = t.item()
        assert seen == definition["t_seen"]
        text = fixtures.unpadded(arrays[f"cap_feats{tag}"][:rows].to(model.dtype), arrays[f"cap_mask{tag}"][:rows])
        motion = torch.tensor([value_at(schedule(value), seen) for value in definition["motion"]]).to(model.dtype)
        with torch.no_grad():
            got = guided_velocity(
                model,
                arrays[f"x{tag}"][:n].to(model.dtype),
                t,
                model.encode_text(text),
                motion,
                released_patch(value_at(schedule(definition["patch_comb"]), seen)),
                [value_at(weight, seen) for weight in weights],
                definition["renorm"] if definition["renorm"] > 0 else None,
            )
        kind = "fp32" if definition["dtype"] == "float32" else "bf16"
        fixtures.assert_close(case, got, arrays[f"{case}.out"][:n], kind)


def test_released_grids_and_analytic_fields(golden: Path) -> None:
    arrays, _ = fixtures.read(golden, "C_sampler")
    for name, want in arrays.items():
        if name.startswith("grid_") and not name.endswith(".bf16"):
            _, points, shift = name.split("_")
            got = time_grid(int(points) - 1, None if shift == "None" else float(shift))
            fixtures.assert_close(name, got, want, "table")
    grid = time_grid(9, 8.0)
    got = integrate(lambda x, t: torch.cos(3 * t) - t * x, arrays["analytic.z"], grid)
    fixtures.assert_close("analytic", got, arrays["analytic.traj"][-1], "table")
    got = integrate(lambda x, t: 0.5 * x + t.to(x.dtype), arrays["analytic_bf16.z"], grid)
    fixtures.assert_close("analytic bf16", got, arrays["analytic_bf16.traj"][-1], "table")


def test_released_trajectories(golden: Path) -> None:
    arrays, definitions = fixtures.read(golden, "C_sampler")
    model = fixtures.model(golden, definitions)
    text = fixtures.unpadded(arrays["model.cap_feats"], arrays["model.cap_mask"])
    plain = SamplerConfig(steps=9, time_shift=8.0, guidance=((0.0, 0.0),))
    got = sample(model, arrays["model.z"], text, [], plain, motion=arrays["model.motion"].tolist())
    fixtures.assert_close("model", got, arrays["model.traj"][-1])
    for case in ("generate_cfg12", "generate_cfg1.5"):
        definition = definitions["cases"][case]
        config = SamplerConfig(
            steps=definition["steps"] - 1,
            time_shift=definition["shift"],
            patches=tuple((start, released_patch(text)) for start, text in schedule(definition["patch_comb"])),
            guidance=schedule(definition["cfg_scale"][0]),
            norm_cap=definition["renorm_cfg"] if definition["renorm_cfg"] > 0 else None,
            motion=schedule(definition["motion_score"][0]),
            negative_motion=schedule(definition["motion_score"][1]),
        )
        got = sample(model, arrays["generate.z1"], text[:1], text[1:], config)
        fixtures.assert_close(case, got, arrays[f"{case}.sample"])


def test_step_caching_reuses_the_blocks_and_starts_anew_at_every_switch(
    tiny: MultiScaleNextDiT, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise, text, negative = inputs(2)
    exact = sample(tiny, noise, text, negative, COARSE_TO_FINE)
    runs: list[int] = []
    forward = type(tiny.layers[0]).forward

    def counted(block: torch.nn.Module, x: Tensor, *rest: Any) -> Tensor:
        if block is tiny.layers[0]:
            runs.append(len(x))
        return forward(block, x, *rest)

    monkeypatch.setattr(type(tiny.layers[0]), "forward", counted)

    def cached(threshold: float) -> Tensor:
        runs.clear()
        settings = COARSE_TO_FINE.model_copy(update={"cache_threshold": threshold})
        return sample(tiny, noise, text, negative, settings)

    assert torch.equal(cached(1e-9), exact)
    assert len(runs) == 6
    reused = cached(1e9)
    # Once at each of three scales; guidance ends where the finest one begins.
    assert runs == [4, 4, 2]
    assert not torch.equal(reused, exact)
    alone = sample(tiny, noise[:1], text[:1], negative[:1], COARSE_TO_FINE.model_copy(update={"cache_threshold": 1e9}))
    torch.testing.assert_close(alone, reused[:1], rtol=1e-4, atol=1e-4)
