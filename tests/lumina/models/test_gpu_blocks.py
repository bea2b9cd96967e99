"""The blocks as they run on GPUs, with kernels of the CPU: items of unlike lengths in bfloat16, compiled or not."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from lumina.models.config import Recompute
from lumina.models.next_dit import MultiScaleNextDiT
from tests.lumina.models.gpu_kernels import gpu_branches
from tests.lumina.models.test_activation_checkpointing import EQUAL, MIXED, Inputs, assert_same_bits, inputs, train
from tests.lumina.tiny import TINY, dit_without_zeros

SHALLOW = TINY.model_copy(update={"n_layers": 1})
LONGER = ([(4, 4, 8, 12), (4, 2, 8, 8), (4, 2, 4, 8)], [9, 2, 6])
SAME = ([(4, 2, 8, 8)] * 3, [5, 5, 5])


def half() -> MultiScaleNextDiT:
    """One block in bfloat16."""
    return dit_without_zeros(0.1, SHALLOW).to(torch.bfloat16)


def batches() -> list[Inputs]:
    """Ragged latents twice, ragged texts of like latents, and nothing ragged."""
    return [inputs(kind, (1, 2, 2), torch.bfloat16) for kind in (MIXED, LONGER, EQUAL, SAME)]


def test_every_kind_of_batch_takes_its_kernel_and_agrees_with_the_cpu() -> None:
    model = half()
    with gpu_branches() as calls:
        got = train(model, batches())
    # Own tokens and caption of ragged items; of like items the caption alone; of all alike none.
    assert calls.forward == [(4, 2)] * 5
    assert calls.backward == 5
    assert calls.batched == [(torch.bfloat16, True, 4, 2)] * 3
    want = train(model, batches())
    for name, value in want.items():
        assert (got[name] - value).float().norm() <= 0.05 * value.float().norm() + 1e-2, name


def test_float32_repeats_key_heads_and_agrees_with_the_cpu() -> None:
    model = dit_without_zeros(0.1, SHALLOW)
    batch = [inputs(kind, (1, 2, 2)) for kind in (MIXED, SAME)]
    want = train(model, batch)
    with gpu_branches() as calls:
        got = train(model, batch)
    assert {(gqa, heads, keys) for _, gqa, heads, keys in calls.batched} == {(False, 4, 4)}
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-5)


# Full recomputation is compiled on the CPU, in test_activation_checkpointing.
@pytest.mark.parametrize("mode", ["none", "per-op", "attention"])
def test_compiled_blocks_have_the_bits_of_plain_ones(mode: Recompute) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    plain, compiled = half(), half()
    compiled.checkpoint_blocks(mode)
    compiled.compile_blocks(counter)
    first, other = batches()[:2]
    with gpu_branches() as calls:
        want = [train(plain, [batch]) for batch in (first, other)]
        once = len(calls.forward)
        assert_same_bits(train(compiled, [first]), want[0])
        warm = counter.frame_count
        # Other lengths take the same graph, and attention is not computed again.
        assert_same_bits(train(compiled, [other]), want[1])
        assert counter.frame_count == warm
        assert len(calls.forward) == 2 * once
        if mode == "none":
            with torch.no_grad():
                assert all(map(torch.equal, compiled(*first), plain(*first)))
