"""GPUs that models are trained on: what their data sheets promise. Without torch, so that a plan may read it.

Peaks are those of dense bfloat16 matrix products with float32 sums; sheets often print twice as much, for matrices of
which half the numbers are zero. Memory is in bytes of the sheet's 10^9, a little less than the driver finds.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

USABLE = 0.92
"""Share of a GPU's memory that a training worker can fill; the rest is for CUDA, NCCL and gaps between allocations."""


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU."""

    name: str
    """Short name, as `--cluster` takes it."""
    peak_flops: float
    """Dense bfloat16 operations a second."""
    memory_bytes: int
    device_names: tuple[str, ...]
    """What `torch.cuda.get_device_name()` says, in full. A slice (MIG) or a laptop's chip has another name."""


def _gpu(name: str, peak_tflops: float, memory_gb: int, *device_names: str) -> Gpu:
    return Gpu(name, peak_tflops * 1e12, memory_gb * 10**9, device_names)


GPUS = (
    # NVIDIA A100 Tensor Core GPU data sheet: 312 TFLOPS, 40 and 80 GB, SXM and PCIe alike.
    _gpu("A100-40G", 312, 40, "NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
    _gpu("A100-80G", 312, 80, "NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
    # NVIDIA H100 Tensor Core GPU data sheet: 1,979 (SXM), 1,513 (PCIe) and 1,671 (NVL) TFLOPS with sparsity.
    _gpu("H100", 989.4, 80, "NVIDIA H100 80GB HBM3"),
    _gpu("H100-PCIe", 756.4, 80, "NVIDIA H100 PCIe"),
    _gpu("H100-NVL", 835.5, 94, "NVIDIA H100 NVL"),
    # NVIDIA H200 Tensor Core GPU data sheet: 1,979 (SXM) and 1,671 (NVL) TFLOPS with sparsity, 141 GB.
    _gpu("H200", 989.4, 141, "NVIDIA H200"),
    _gpu("H200-NVL", 835.5, 141, "NVIDIA H200 NVL"),
    # NVIDIA HGX B200 data sheet: 36 PFLOPS for eight, with sparsity; 1.44 TB for eight.
    _gpu("B200", 2250, 180, "NVIDIA B200"),
    # NVIDIA L4 and L40S data sheets: 242 TFLOPS with sparsity; 362.05 without.
    _gpu("L4", 121, 24, "NVIDIA L4"),
    _gpu("L40S", 362.05, 48, "NVIDIA L40S"),
    # NVIDIA RTX A6000 data sheet: 309.7 TFLOPS with sparsity.
    _gpu("RTXA6000", 154.8, 48, "NVIDIA RTX A6000"),
    # NVIDIA Ada and Blackwell RTX architecture papers: 165.2 and 209.5 TFLOPS with float32 sums.
    _gpu("RTX4090", 165.2, 24, "NVIDIA GeForce RTX 4090"),
    _gpu("RTX5090", 209.5, 32, "NVIDIA GeForce RTX 5090"),
)
"""All that are known."""


@dataclass(frozen=True)
class Cluster:
    """GPUs of one kind, each with a training worker of its own."""

    count: int
    gpu: Gpu

    @property
    def name(self) -> str:
        """As it is typed: `32xH100`."""
        return f"{self.count}x{self.gpu.name}"

    @property
    def usable_bytes(self) -> int:
        """Of each GPU."""
        return int(USABLE * self.gpu.memory_bytes)


def gpu_named(name: str) -> Gpu:
    """Look up a short name in any case. Raises ValueError that names the nearest ones and all that are known."""
    by_lower = {gpu.name.lower(): gpu for gpu in GPUS}
    lower = name.lower()
    if lower in by_lower:
        return by_lower[lower]
    near = [one for one in by_lower if one.startswith(f"{lower}-")] or difflib.get_close_matches(lower, by_lower, 1)
    hint = f"did you mean {' or '.join(by_lower[one].name for one in near)}? " if near else ""
    raise ValueError(f"no GPU is known as {name!r}; {hint}there are {', '.join(gpu.name for gpu in GPUS)}")


def gpu_of_device(device_name: str) -> Gpu | None:
    """The GPU that calls itself so (`torch.cuda.get_device_name()`), or None if it is none of the known ones."""
    return next((gpu for gpu in GPUS if device_name in gpu.device_names), None)


def parse_cluster(text: str) -> Cluster:
    """Read COUNTxGPU, such as `32xH100`. Raises ValueError that says what was expected and which GPUs are known."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})[xX](\S+)", text)
    if found is None:
        known = ", ".join(gpu.name for gpu in GPUS)
        raise ValueError(f"cluster {text!r}: expected COUNTxGPU, such as 32xH100; the GPUs are {known}")
    try:
        return Cluster(int(found[1]), gpu_named(found[2]))
    except ValueError as error:
        raise ValueError(f"cluster {text!r}: {error}") from error
