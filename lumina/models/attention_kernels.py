"""Attention kernels of GPUs: FlashAttention 2, FlashAttention 3 or cuDNN, chosen for all attention of a process.

torch chooses among its own by what it knows of the GPU and the shapes. A kernel that is named is the only one for items
of equal length, so that nothing falls back to a slower one unseen; items of unlike lengths go through torch's packed
kernel, which is FlashAttention 2, or 3 where that is active.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F

from lumina.models import attention
from lumina.models.config import AttentionKernel, BlockShape

_PROBE_TOKENS = 64


class AttentionKernelError(ValueError):
    """A kernel was asked for that this machine does not have, or that the network cannot use."""


def use_kernel(
    kernel: AttentionKernel,
    config: BlockShape,
    device: torch.device | str,
    dtype: torch.dtype,
    training: bool = False,
) -> None:
    """Choose the kernel of this process's attention on GPUs; `auto` leaves it to torch, as it is before any call.

    Args:
        kernel: `fa2` and `cudnn` are part of torch; `fa3` needs a wheel of its own, and a GPU of compute capability 9.
        config: the network, whose heads a small call is made with at once.
        device: where it runs.
        dtype: type in which it computes.
        training: whether it needs gradients.

    Raises AttentionKernelError, in one line, where the kernel cannot be had: nothing has changed then.
    """
    if kernel == "auto":
        _allow(flash=True, cudnn=True, others=True)
        return
    device = torch.device(device)
    if device.type != attention.GPU:
        raise AttentionKernelError(
            f"attention {kernel} is a kernel of GPUs, and the network runs on the {device.type}: take attention auto"
        )
    if dtype not in (torch.bfloat16, torch.float16):
        raise AttentionKernelError(
            f"attention {kernel} takes bfloat16, and the network computes in {str(dtype).removeprefix('torch.')}: "
            "change its type, or take attention auto"
        )
    try:
        _allow(flash=kernel != "cudnn", cudnn=kernel == "cudnn", others=False)
        if kernel == "fa3":
            torch.nn.attention.activate_flash_attention_impl("FA3")
        _probe(config, device, dtype, training)
    except ModuleNotFoundError as error:
        _allow(flash=True, cudnn=True, others=True)
        raise AttentionKernelError(
            f"attention {kernel}: there is no module {error.name}: install FlashAttention 3 for this torch and CUDA, "
            "or take attention fa2 or auto"
        ) from error
    except (RuntimeError, ValueError) as error:
        _allow(flash=True, cudnn=True, others=True)
        reason = str(error).strip().splitlines()[0]
        raise AttentionKernelError(
            f"attention {kernel}: this GPU and torch {torch.__version__} have no such kernel for heads of "
            f"{config.head_dim}{' with gradients' if training else ''} ({reason}): take attention auto"
        ) from error


def _allow(*, flash: bool, cudnn: bool, others: bool) -> None:
    """Let torch take these kernels and no others; its own FlashAttention is version 2."""
    if torch.nn.attention.current_flash_attention_impl() is not None:
        torch.nn.attention.restore_flash_attention_impl()
    torch.backends.cuda.enable_flash_sdp(flash)
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    torch.backends.cuda.enable_mem_efficient_sdp(others)
    torch.backends.cuda.enable_math_sdp(others)


def _probe(config: BlockShape, device: torch.device, dtype: torch.dtype, training: bool) -> None:
    """Attend once with the network's heads; RuntimeError where no allowed kernel can."""
    q, k, v = (
        torch.zeros(1, heads, _PROBE_TOKENS, config.head_dim, device=device, dtype=dtype, requires_grad=training)
        for heads in (config.n_heads, config.kv_heads, config.kv_heads)
    )
    with warnings.catch_warnings():
        # Why each kernel that is not allowed cannot be taken.
        warnings.simplefilter("ignore")
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=config.n_heads != config.kv_heads)
        if training:
            out.sum().backward()
