"""LuminaVideoTransformer: the transformer as a component of a diffusers pipeline, which loads it from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch

from lumina.checkpoints import load_config, load_weights
from lumina.models.next_dit import MultiScaleNextDiT


class LuminaVideoTransformer(MultiScaleNextDiT):
    """See `MultiScaleNextDiT`. Not a `ModelMixin`: its `config` is a `NextDiTConfig`, and its weights keep the names of
    the released ones."""

    @classmethod
    def from_pretrained(cls, directory: str | Path, torch_dtype: torch.dtype | None = None, **_unused: Any) -> Self:
        """Load `config.json` and safetensors of a folder, for inference; None keeps the stored type.

        Raises FileNotFoundError if a file is missing, ValueError if the tensors are not those of the config.
        """
        folder = Path(directory)
        with torch.device("meta"):
            model = cls(load_config(folder))
        model.load_state_dict(load_weights(folder), strict=True, assign=True)
        return model.to(dtype=torch_dtype).eval().requires_grad_(False)
