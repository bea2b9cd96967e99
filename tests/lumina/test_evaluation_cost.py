"""An evaluation on one GPU: a tiny network by hand, and the paper's sizes against what is known of them."""

from __future__ import annotations

import pytest

from lumina import cost, vae_cost
from lumina.evaluation_cost import Generation, evaluation_cost
from lumina.flow_matching.schedules import PRESETS, SamplerConfig
from lumina.models.config import RELEASED_MODELS
from tests.lumina.tiny import TINY

FINE = TINY.patch_sizes[0]


def test_a_tiny_network_by_hand() -> None:
    d, k, m = TINY.dim, TINY.kv_heads * TINY.head_dim, TINY.ffn_dim
    plain = SamplerConfig(steps=3, patches=((0.0, FINE),), guidance=((0.0, 0.0),))
    generation = Generation(width=64, height=32, num_frames=16, clips=2, bytes_per_number=4)
    assert generation.latent == (4, 4, 8)
    tokens = 4 * 2 * 4
    found = evaluation_cost(TINY, plain, generation, text_tokens=7)
    assert found.sampling.evaluations == {FINE: 3}
    assert found.weights == 4 * (cost.parameters(TINY) + 2_614_341_888 + 215_583_907)
    live, texts, tables = (
        2 * tokens * max(8 * d + 3 * k, 4 * d + 3 * m),
        2 * 7 * TINY.n_layers * 2 * k,
        tokens * TINY.head_dim,
    )
    assert found.sampling_bytes == 4 * (live + texts + tables)
    assert found.decode_bytes == 4 * 64 * 32 * (22_465 + 3 * 16)
    assert found.decode_flops == 64 * 32 * 16 * 18_538_432
    assert found.text_flops == vae_cost.text_flops(7)
    assert found.flops == found.sampling.flops + found.decode_flops + found.text_flops
    assert found.memory == found.weights + max(found.sampling_bytes, found.decode_bytes)
    guided = evaluation_cost(TINY, plain.model_copy(update={"guidance": ((0.0, 4.0),)}), generation, text_tokens=7)
    assert guided.sampling_bytes == 4 * (2 * live + 2 * texts + tables)
    assert guided.text_flops == 2 * found.text_flops


def test_the_text_encoder_by_hand() -> None:
    # Gemma-2-2b: 26 layers of width 2304, 8 and 4 heads of 256, 9216 wide in between, four norms each.
    layer = 2304 * (8 + 4 + 4 + 8) * 256 + 3 * 2304 * 9216 + 4 * 2304
    assert 256_000 * 2304 + 26 * layer + 2304 == vae_cost.TEXT_PARAMETERS
    weights, scores = vae_cost.TEXT_PARAMETERS - 256_000 * 2304, 26 * 2 * 100 * 100 * 8 * 256
    assert vae_cost.text_flops(100) == 2 * (100 * weights + scores)


def test_float32_and_half_the_memory_of_tiles() -> None:
    size = (1248, 704, 96)
    assert vae_cost.vae_bytes("decode", *size, 2) == pytest.approx(40e9, rel=0.01)
    assert vae_cost.vae_bytes("decode", *size, 4) == 2 * vae_cost.vae_bytes("decode", *size, 2)
    assert vae_cost.vae_bytes("decode", *size, 2, tiled=True) < 5e9
    # A clip of 838,860 pixels or less has convolutions that are computed in one piece.
    whole, split = (vae_cost.vae_bytes("encode", width, 1, 97, 2) / width for width in (838_860, 838_861))
    assert split - whole == pytest.approx(2 * 1920, rel=1e-4)


def test_the_paper_s_clip_is_decoded_in_more_memory_than_it_is_sampled() -> None:
    generation = Generation(1248, 704, 96, clips=1, bytes_per_number=2)
    found = evaluation_cost(RELEASED_MODELS["2B_GQA"], PRESETS["f24F96R960-MultiScale"], generation, 256)
    assert found.decode_bytes > 4 * found.sampling_bytes
    assert found.memory < 0.92 * 80e9 < 2 * found.memory
    assert found.decode_flops / found.flops == pytest.approx(0.025, abs=0.01)
