"""The choice of a kernel of GPUs, on kernels of the CPU: it is the only one, and what cannot be had is one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import attention as torch_attention
from torch.nn.attention import _registry

from lumina.models import attention, attention_kernels
from lumina.models.attention_kernels import AttentionKernelError, use_kernel
from lumina.models.config import AttentionKernel
from tests.lumina.tiny import TINY

HALF = torch.bfloat16


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take the CPU for a GPU, and leave torch as it was."""
    monkeypatch.setattr(attention, "GPU", "cpu")
    monkeypatch.setattr(_registry, "_FLASH_ATTENTION_IMPLS", dict(_registry._FLASH_ATTENTION_IMPLS))
    yield
    use_kernel("auto", TINY, "cpu", HALF)
    assert allowed() == {"flash", "cudnn", "efficient", "math"}


def allowed() -> set[str]:
    """Kernels that torch may take."""
    cuda = torch.backends.cuda
    found = {
        "flash": cuda.flash_sdp_enabled(),
        "cudnn": cuda.cudnn_sdp_enabled(),
        "efficient": cuda.mem_efficient_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
    }
    return {name for name, on in found.items() if on}


class Activated:
    """A FlashAttention 3 for tests."""

    def __init__(self) -> None:
        self.removed = False

    def remove(self) -> None:
        """Put torch's own back."""
        self.removed = True


def test_a_named_kernel_is_the_only_one() -> None:
    use_kernel("fa2", TINY, "cpu", HALF, training=True)
    assert allowed() == {"flash"}
    assert torch_attention.current_flash_attention_impl() is None
    handle = Activated()
    torch_attention.register_flash_attention_impl("FA3", register_fn=lambda: handle)
    use_kernel("fa3", TINY, "cpu", HALF, training=True)
    assert allowed() == {"flash"}
    assert torch_attention.current_flash_attention_impl() == "FA3"
    use_kernel("fa2", TINY, "cpu", HALF)
    assert handle.removed
    assert torch_attention.current_flash_attention_impl() is None
    use_kernel("fa3", TINY, "cpu", HALF)
    use_kernel("auto", TINY, "cpu", torch.float32)
    assert torch_attention.current_flash_attention_impl() is None


@pytest.mark.parametrize("training", [False, True])
def test_it_is_tried_with_the_network_s_heads(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[Any, ...]] = []
    attend = attention_kernels.F.scaled_dot_product_attention

    def noted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        shapes = (*q.shape[1::2], *k.shape[1::2], *v.shape[1::2])
        tried.append((shapes, q.dtype, q.requires_grad, options, allowed()))
        return attend(q, k, v, **options)

    monkeypatch.setattr(attention_kernels.F, "scaled_dot_product_attention", noted)
    use_kernel("fa2", TINY, "cpu", HALF, training=training)
    assert tried == [((4, 16, 2, 16, 2, 16), HALF, training, {"enable_gqa": True}, {"flash"})]


@pytest.mark.parametrize(
    ("kernel", "device", "dtype", "message"),
    [
        ("fa2", "meta", HALF, "attention fa2 is a kernel of GPUs, and the network runs on the meta: take .*auto"),
        ("cudnn", "cpu", torch.float32, "attention cudnn takes bfloat16, and the network computes in float32: change"),
        ("fa3", "cpu", HALF, "attention fa3: there is no module flash_attn_interface: install FlashAttention 3 .*fa2"),
        ("cudnn", "cpu", HALF, r"attention cudnn: this GPU and torch .* no such kernel for heads of 16 \(.*auto$"),
    ],
)
def test_what_cannot_be_had_is_one_line(kernel: AttentionKernel, device: str, dtype: torch.dtype, message: str) -> None:
    with pytest.raises(AttentionKernelError, match=message) as caught:
        use_kernel(kernel, TINY, device, dtype)
    assert "\n" not in str(caught.value)
    assert allowed() == {"flash", "cudnn", "efficient", "math"}


def test_a_kernel_that_fails_on_this_gpu_is_one_line() -> None:
    def broken() -> None:
        raise RuntimeError("FA3 requires compute capability 9.0\nand more")

    torch_attention.register_flash_attention_impl("FA3", register_fn=broken)  # type: ignore[arg-type]
    with pytest.raises(AttentionKernelError, match=r"with gradients \(FA3 requires compute capability 9.0\): take"):
        use_kernel("fa3", TINY, "cpu", HALF, training=True)
