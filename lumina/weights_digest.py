"""The content digest of weights. Apart from the networks, so that their code counts for no stage that knows none."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping

import torch
from torch import Tensor


def digest(state_dicts: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Digest of named sets of weights: "sha256:<hex>" over sorted (set, name, dtype, shape, bytes).

    It depends on the numbers alone, not on files, order, device or the code that wrote them.
    """
    result = hashlib.sha256()
    for part, weights in sorted(state_dicts.items()):
        for name, value in sorted(weights.items()):
            tensor = value.detach().contiguous().cpu()
            header = json.dumps([part, name, str(tensor.dtype), list(tensor.shape)]).encode()
            result.update(struct.pack("<Q", len(header)) + header)
            result.update(tensor.flatten().view(torch.uint8).numpy().data)
    return f"sha256:{result.hexdigest()}"
