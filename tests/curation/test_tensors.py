from __future__ import annotations

import pytest
import torch

from curation.tensors import DType, pack, unpack


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_tensors_come_back(dtype: DType) -> None:
    tensor = torch.linspace(-3, 3, 24).view(2, 3, 4).transpose(0, 2)
    packed = pack(tensor, dtype)
    assert packed.shape == [4, 3, 2]
    assert len(packed.data) == 24 * (2 if dtype == "bfloat16" else 4)
    assert torch.equal(unpack(packed.data, packed.shape, packed.dtype), tensor.to(getattr(torch, dtype)))


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(ValueError, match="got 'int8'"):
        unpack(b"", [0], "int8")
