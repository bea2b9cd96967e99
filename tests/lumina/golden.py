"""Reading the released model's fixtures: arrays, definitions, regenerated weights, tolerances."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lumina.models.config import NextDiTConfig
from lumina.models.next_dit import MultiScaleNextDiT

# Relative L2 and maximum error over rms, from section 3 of the fixtures' README.
TOLERANCE = {
    "fp32": (2e-5, 2e-4),
    "grad": (1e-4, 2e-3),
    "sum": (1e-4, 1e-3),
    "bf16": (3e-2, 2.5e-1),
    "flow": (6e-5, 2e-3),
    "table": (2e-6, 1e-5),
}


def read(folder: Path, stem: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Arrays and definitions of one fixture."""
    return load_file(folder / f"{stem}.safetensors"), json.loads((folder / f"{stem}.json").read_text())


def weights(folder: Path, definitions: dict[str, Any]) -> dict[str, Tensor]:
    """The regenerated weights of a fixture."""
    spec = importlib.util.spec_from_file_location("golden_fill", folder / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    filled: dict[str, Tensor] = module.fill(definitions["manifest"], definitions["seed"], definitions.get("mult"))
    assert module.digest(filled) == definitions["weights_sha256"], "this torch build draws other fixture weights"
    return filled


def model(folder: Path, definitions: dict[str, Any], dtype: torch.dtype = torch.float32) -> MultiScaleNextDiT:
    """The fixture's model with its regenerated weights."""
    result = MultiScaleNextDiT(NextDiTConfig.from_released(definitions["cfg"])).eval()
    result.load_state_dict(weights(folder, definitions), strict=True)
    return result.to(dtype)


def relative_error(got: Tensor, want: Tensor) -> float:
    """Relative L2 error."""
    got, want = got.detach().double(), want.detach().double()
    return (torch.linalg.norm(got - want) / torch.linalg.norm(want)).item()


def assert_close(name: str, got: Tensor, want: Tensor, kind: str = "fp32") -> None:
    """Compare within the fixture's tolerance of this kind of number."""
    assert got.shape == want.shape, name
    relative, largest = TOLERANCE[kind]
    difference = (got.detach().double() - want.detach().double()).abs().max()
    rms = want.double().square().mean().sqrt()
    assert relative_error(got, want) <= relative, f"{name}: relative L2 {relative_error(got, want):.2e}"
    assert difference <= largest * rms, f"{name}: maximum {difference / rms:.2e} of the rms"


def unpadded(features: Tensor, mask: Tensor) -> list[Tensor]:
    """Caption features [N, L, Y] without the masked positions."""
    return [row[keep.bool()] for row, keep in zip(features, mask, strict=True)]


def freeze(value: Any) -> Any:
    """Lists to tuples, all the way down."""
    return tuple(freeze(item) for item in value) if isinstance(value, list) else value
