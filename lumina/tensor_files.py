"""Read files of named tensors, and compare them with what a network wants. Nothing in a file is ever run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lumina.tensor_names import misfit, unwrapped


def read_tensors(path: Path, entry: str | None = None) -> dict[str, Tensor]:
    """Read a `.safetensors` file, or a torch file that holds tensors alone, to the CPU.

    Args:
        path: the file.
        entry: key under which a torch file may hold its tensors, instead of at its top.

    Raises FileNotFoundError if there is no such file, ValueError if it is damaged or holds anything else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Only files of the newer, zipped kind can be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        # The rest is torch's advice to read it all the same.
        why = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise ValueError(f"{path} holds more than tensors, and is not read for safety's sake: {why}") from error
    # The last one is what bytes that are no pickle at all may raise.
    except (SafetensorError, RuntimeError, EOFError, LookupError) as error:
        raise ValueError(f"{path} is damaged ({error}): restore the file") from error
    if isinstance(content, Mapping) and entry in content:
        content = content[entry]
    if not _names_tensors(content):
        inside = [str(key) for key, value in content.items() if _names_tensors(value)] if _is_mapping(content) else []
        where = f" at its top, but under {', '.join(map(repr, inside))}: save that alone" if inside else ""
        raise ValueError(f"{path} holds no mapping of names to tensors{where}")
    return {str(name): value for name, value in content.items()}


def _is_mapping(content: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(content, Mapping)


def _names_tensors(content: object) -> bool:
    return _is_mapping(content) and all(isinstance(value, Tensor) for value in content.values())


def fitting(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    """The tensors of a file by the names that a network gives them: wrappers of the network may have left prefixes.

    Raises ValueError as `check_tensors`.
    """
    names = unwrapped(wanted, weights)
    found = {names[name]: value for name, value in weights.items()}
    check_tensors(wanted, found, place)
    return found


def check_tensors(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], place: str) -> None:
    """Raise one ValueError about missing, unexpected and wrongly shaped tensors; `wanted` gives the shapes."""
    check_shapes({name: list(value.shape) for name, value in wanted.items()}, weights, place, "its model config")


def check_shapes(wanted: Mapping[str, list[int]], weights: Mapping[str, Tensor], place: str, network: str) -> None:
    """Raise one ValueError about the tensors in `place` that are missing, unexpected or not shaped as `network`'s."""
    problem = misfit(
        place,
        network,
        wanted,
        missing=[f"{name} {shape}" for name, shape in wanted.items() if name not in weights],
        unexpected=[f"{name} {list(value.shape)}" for name, value in weights.items() if name not in wanted],
        misshapen=[
            f"{name} {list(value.shape)}: should be {wanted[name]}"
            for name, value in weights.items()
            if name in wanted and list(value.shape) != wanted[name]
        ],
    )
    if problem:
        raise ValueError(problem)
