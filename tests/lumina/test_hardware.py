"""GPUs are found by what people type and by what drivers say."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lumina.hardware import GPUS, gpu_named, gpu_of_device, parse_cluster


def test_a_cluster_is_a_count_and_a_gpu() -> None:
    cluster = parse_cluster("32xh100")
    assert (cluster.count, cluster.gpu.name, cluster.name) == (32, "H100", "32xH100")
    assert cluster.gpu.peak_flops == pytest.approx(989.4e12)
    assert cluster.gpu.memory_bytes == 80_000_000_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("H100", r"cluster 'H100': expected COUNTxGPU, such as 32xH100; the GPUs are A100-40G, A100-80G, H100"),
        ("0xH100", "expected COUNTxGPU"),
        ("32x", "expected COUNTxGPU"),
        ("8xH10", r"cluster '8xH10': no GPU is known as 'H10'; did you mean H100\? there are A100-40G"),
        ("8xA100", r"did you mean A100-40G or A100-80G\?"),
        ("8xTPU", r"no GPU is known as 'TPU'; there are A100-40G"),
    ],
)
def test_what_is_no_cluster_says_what_is(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_cluster(text)


def test_a_device_is_known_by_its_whole_name() -> None:
    assert gpu_of_device("NVIDIA H100 80GB HBM3") == gpu_named("H100")
    assert gpu_of_device("NVIDIA A100-SXM4-40GB") == gpu_named("a100-40g")
    # A slice has a share of the peak, a laptop's chip another one.
    assert gpu_of_device("NVIDIA H100 80GB HBM3 MIG 1g.10gb") is None
    assert gpu_of_device("NVIDIA GeForce RTX 4090 Laptop GPU") is None


def test_names_are_told_apart() -> None:
    for names in ([gpu.name.lower() for gpu in GPUS], [name for gpu in GPUS for name in gpu.device_names]):
        assert len(set(names)) == len(names)
    # Half the numbers of a sheet are for sparse matrices; none of these GPUs has more than 2.5 PFLOP/s without.
    assert all(1e14 < gpu.peak_flops < 2.6e15 and 2e10 < gpu.memory_bytes < 2e11 for gpu in GPUS)


def test_a_plan_may_read_it() -> None:
    code = "import sys, lumina.hardware; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
