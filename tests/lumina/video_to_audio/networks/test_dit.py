"""The video-to-audio network: who sees what, when, and in which batch."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from lumina.models.blocks import Block
from lumina.models.patches import patchify
from lumina.models.rope import rotate
from lumina.video_to_audio.config import V2A_MODELS, SoundSamplerConfig, VideoToAudioConfig
from lumina.video_to_audio.networks.dit import Media, VideoToAudioDiT
from lumina.video_to_audio.sampling import sample
from tests.lumina.reference_numbers import draw, fill

TINY = VideoToAudioConfig(
    dim=32, n_layers=2, n_heads=4, n_kv_heads=2, multiple_of=32, latent_rows=4, in_channels=2, visual_dim=6, text_dim=5,
    sync_dim=3,
)  # fmt: skip
STEPS = 24


@pytest.fixture(scope="module")
def model() -> VideoToAudioDiT:
    return filled(TINY)


def filled(config: VideoToAudioConfig) -> VideoToAudioDiT:
    """A network with no zero in it."""
    found = VideoToAudioDiT(config).eval().requires_grad_(False)
    fill(found)
    for name, parameter in found.named_parameters():
        if name.endswith("attention.gate"):
            parameter.fill_(0.7)
    return found


def media(item: int, sync_segments: int = 2, words: int = 3) -> Media:
    """Features of a clip."""
    return Media(
        draw(f"visual.{item}", 7 + item, 6), draw(f"text.{item}", words, 5), draw(f"sync.{item}", 8 * sync_segments, 3)
    )


def latents(item: int, steps: int = STEPS) -> Tensor:
    return draw(f"latents.{item}", 2, steps, 4)


T = torch.tensor([0.3, 0.8])


def test_it_starts_as_zero_and_names_are_as_specified() -> None:
    model = VideoToAudioDiT(TINY)
    assert not model(latents(0)[None], T[:1], [media(0)]).any()
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert shapes["null_text"] == [77, 5]
    assert shapes["sync_pos_emb"] == [1, 1, 8, 3]
    assert shapes["latent_std"] == [1, 2, 1, 1]
    assert shapes["layers.1.attention.wk_y.weight"] == [16, 32]
    assert shapes["layers.1.adaLN_modulation.1.weight"] == [128, 32]
    assert shapes["final_layer.linear.weight"] == [4, 32]
    heads = {name.split(".")[0] for name in shapes}
    assert heads == {
        "x_embedder", "vis_embedder", "text_embedder", "cond_mlp", "t_embedder", "sync_pos_emb", "sync_embedder",
        "null_vis", "null_sync", "null_text", "layers", "final_layer", "latent_mean", "latent_std",
    }  # fmt: skip
    again = VideoToAudioDiT(TINY).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_published_sizes() -> None:
    for name, millions in {"tiny": 1.1, "S": 113, "M": 213, "L": 496}.items():
        with torch.device("meta"):
            layers = VideoToAudioDiT(V2A_MODELS[name]).layers
        count = sum(parameter.numel() for parameter in layers.parameters())
        assert count / 1e6 == pytest.approx(millions, rel=0.1)


@pytest.mark.parametrize("steps", [(STEPS, STEPS), (STEPS, 17)])
def test_a_batch_equals_its_items_alone(model: VideoToAudioDiT, steps: tuple[int, int]) -> None:
    x = [latents(item, count) for item, count in enumerate(steps)]
    clips = [media(0), media(1, sync_segments=3, words=5)]
    together = model(x, T, clips)
    for item, latent in enumerate(x):
        [alone] = model([latent], T[item : item + 1], clips[item : item + 1])
        assert alone.shape == latent.shape
        torch.testing.assert_close(together[item], alone, rtol=1e-4, atol=1e-4)


def test_a_tensor_a_list_and_encoded_media_agree(model: VideoToAudioDiT) -> None:
    x, clips = [latents(0), latents(1)], [media(0), media(1)]
    stacked = model(torch.stack(x), T, model.encode(clips))
    assert torch.equal(torch.stack(model(x, T, clips)), stacked)


def test_order_of_what_is_seen_changes_nothing_and_of_sync_does(model: VideoToAudioDiT) -> None:
    clip = media(0)
    assert clip.visual is not None
    assert clip.sync is not None
    base = model(latents(0)[None], T[:1], [clip])
    turned = model(latents(0)[None], T[:1], [Media(clip.visual.flip(0), clip.text, clip.sync)])
    torch.testing.assert_close(turned, base, rtol=1e-4, atol=1e-4)
    other = model(latents(0)[None], T[:1], [Media(clip.visual, clip.text, clip.sync.flip(0))])
    assert not torch.allclose(other, base, atol=1e-2)


def test_without_the_gate_only_pooling_sees(model: VideoToAudioDiT) -> None:
    closed = filled(TINY)
    for block in closed.layers:
        assert isinstance(block, Block)
        block.attention.gate.zero_()
    # Twice the same tokens have the same mean, and as a branch's keys other weights beside the text.
    one, two = media(0), media(0)
    assert two.visual is not None
    doubled = Media(two.visual.repeat(2, 1), two.text, two.sync)
    x = latents(0)[None]
    torch.testing.assert_close(closed(x, T[:1], [one]), closed(x, T[:1], [doubled]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model(x, T[:1], [one]), model(x, T[:1], [doubled]), atol=1e-4)
    changed = Media(two.visual + draw("other", 7, 6), two.text, two.sync)
    assert not torch.allclose(closed(x, T[:1], [one]), closed(x, T[:1], [changed]), atol=1e-3)


@pytest.mark.parametrize("grid", ["uniform", "time"])
def test_sync_conditions_the_steps_near_it_alone(grid: str) -> None:
    model = filled(VideoToAudioConfig(**{**TINY.model_dump(), "sync_grid": grid}))
    clip = media(0, sync_segments=5)
    assert clip.sync is not None
    changed = clip.sync.clone()
    changed[-1] += 3
    steps = [48]
    one, two = (
        model.condition(T[:1], model.encode([Media(clip.visual, clip.text, s)]), steps) for s in (clip.sync, changed)
    )
    assert one.shape == (1, 48, 32)
    moved = (one - two).abs().amax(-1)[0] > 1e-6
    assert moved[-1]
    # Convolutions of 7 and 3 reach four tokens.
    first = 48 - 48 * 5 // (40 if grid == "uniform" else 24)
    assert not moved[: first - 1].any()
    assert moved[first + 1 :].all()


def test_tokens_of_one_time_are_averaged_on_the_time_grid() -> None:
    model = filled(VideoToAudioConfig(**{**TINY.model_dump(), "sync_grid": "time"}))
    model.sync_pos_emb.zero_()
    # Tokens 4..7 of a segment are tokens 0..3 of the next: the same features at the same times.
    track = draw("track", 12, 3)
    overlapping = torch.cat([track[:8], track[4:]])
    [sync] = model.encode([Media(sync=overlapping)]).sync
    torch.testing.assert_close(sync, model.sync_embedder(track.t()[None])[0].t().reshape(24, 32))
    [even] = filled(TINY).encode([Media(sync=overlapping)]).sync
    assert (len(sync), len(even)) == (24, 16)


def test_on_the_time_grid_a_step_has_its_own_frame_whatever_is_left_behind_the_last_segment() -> None:
    model = filled(VideoToAudioConfig(**{**TINY.model_dump(), "sync_grid": "time"}))
    known = model.encode([media(0, sync_segments=2)])
    exact, longer = (model.condition(T[:1], known, [steps])[0] for steps in (24, 28))
    # The two frames of a token are told apart.
    assert not torch.allclose(exact[0::2], exact[1::2], atol=1e-3)
    torch.testing.assert_close(longer[:24], exact)
    torch.testing.assert_close(longer[24:], exact[23:].expand(4, -1))


def test_a_condition_per_step_equals_one_per_clip_when_it_is_constant(model: VideoToAudioDiT) -> None:
    tokens = patchify(latents(0)[None, ..., None], (1, 2, 1), TINY)
    known, block = model.encode([media(0)]), model.layers[0]
    hidden, constant = draw("hidden", 1, 48, 32), draw("condition", 1, 32)
    inside = (tokens, known.keys[0], known.values[0], known.segments)
    once = block(hidden, constant, *inside)
    torch.testing.assert_close(block(hidden, constant[:, None].expand(-1, STEPS, -1), *inside), once)
    # Rows of one step have its condition, and no other's.
    varied = constant[:, None].repeat(1, STEPS, 1)
    varied[:, 5] += 1
    spread = tokens.expand(varied)
    assert ((spread - constant).abs().amax(-1) > 0).nonzero()[:, 1].tolist() == [10, 11]


def test_positions_are_of_time_and_frequency() -> None:
    tokens = patchify(latents(0)[None, ..., None], (1, 2, 1), TINY)
    turn = tokens.rotation.view(STEPS, 2, 1, 4, 2)
    q, k = draw("q", 1, 8), draw("k", 1, 8)

    def product(a: tuple[int, int], b: tuple[int, int]) -> Tensor:
        return (rotate(q[None], turn[a][None]) * rotate(k[None], turn[b][None])).sum()

    torch.testing.assert_close(product((3, 0), (7, 1)), product((13, 0), (17, 1)), rtol=1e-4, atol=1e-5)
    assert not torch.isclose(product((3, 0), (7, 1)), product((3, 0), (8, 1)))
    assert not torch.isclose(product((3, 0), (7, 1)), product((3, 1), (7, 1)))


def test_what_is_missing_is_the_null_features(model: VideoToAudioDiT) -> None:
    x = latents(0)[None]
    null = Media(model.null_vis, model.null_text, model.null_sync.expand(8, -1))
    assert torch.equal(model(x, T[:1], [Media()]), model(x, T[:1], [null]))


def test_sampling_guides_away_from_nothing(model: VideoToAudioDiT) -> None:
    noise, clips = torch.stack([latents(2), latents(3)]), [media(0), media(1)]
    config = SoundSamplerConfig(steps=3, guidance=((0.0, 2.0), (0.5, 0.0)))
    found = sample(model, noise, clips, config)
    state = noise.clone()
    for t, weight in ((0.0, 2.0), (1 / 3, 2.0), (2 / 3, 0.0)):
        time = torch.full((2,), t)
        known, nothing = model(state, time, clips), model(state, time, [Media(), Media()])
        state = state + (known + weight * (known - nothing)) / 3
    torch.testing.assert_close(found, state, rtol=1e-3, atol=1e-3)
    scaled = filled(TINY)
    scaled.latent_mean.fill_(0.5)
    scaled.latent_std.fill_(2.0)
    torch.testing.assert_close(sample(scaled, noise, clips, config), 2 * found + 0.5)
    torch.testing.assert_close(scaled.standardise(scaled.restore(noise)), noise)
    with pytest.raises(ValueError, match="2 noises and the media of 1 clips"):
        sample(model, noise, clips[:1])


def test_gradients_reach_every_weight_and_recomputing_changes_none() -> None:
    grads: list[dict[str, Tensor]] = []
    for mode in ("none", "full"):
        model = filled(TINY).requires_grad_(True)
        model.checkpoint_blocks(mode)  # type: ignore[arg-type]
        out = model(torch.stack([latents(0), latents(1)]), T, [media(0), Media()])
        out.square().mean().backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        assert len(grads[-1]) == len(list(model.parameters()))
        assert all(grad.any() for grad in grads[-1].values())
    assert all(torch.equal(grad, grads[1][name]) for name, grad in grads[0].items())


def test_bad_inputs_are_named(model: VideoToAudioDiT) -> None:
    with pytest.raises(ValueError, match=r"visual features 0 must have shape \[n, 6\], n >= 1, got \[3, 5\]"):
        model.encode([Media(visual=torch.zeros(3, 5))])
    with pytest.raises(ValueError, match="sync features 0 must be 8 for each segment of 16 frames, got 9"):
        model.encode([Media(sync=torch.zeros(9, 3))])
    with pytest.raises(ValueError, match=r"a latent must have shape \[2, T, 4\], got \[2, 8, 6\]"):
        model(torch.zeros(1, 2, 8, 6), T[:1], [Media()])
    with pytest.raises(ValueError, match="1 latents, 1 times and the media of 2 clips"):
        model(torch.zeros(1, 2, 8, 4), T[:1], [Media(), Media()])
    odd = VideoToAudioDiT(VideoToAudioConfig(**{**TINY.model_dump(), "patch": (2, 2)}))
    with pytest.raises(ValueError, match="not a multiple of the patch size"):
        odd(torch.zeros(1, 2, 7, 4), T[:1], [Media()])
    for wrong, message in (
        ({"n_heads": 16}, "multiple of 4"),
        ({"n_kv_heads": 3}, "multiple of n_kv_heads"),
        ({"patch": (1, 3)}, "must divide 4"),
    ):
        with pytest.raises(ValidationError, match=message):
            VideoToAudioConfig(**{**TINY.model_dump(), **wrong})
