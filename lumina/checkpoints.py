"""Save and load transformer weights: a directory with `config.json` and `model.safetensors`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumina.models.config import NextDiTConfig
from lumina.models.next_dit import MultiScaleNextDiT

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def save_model(model: MultiScaleNextDiT, directory: Path) -> None:
    """Write a model; see `save_weights`."""
    save_weights(model.config, model.state_dict(), directory)


def save_weights(config: NextDiTConfig, weights: Mapping[str, Tensor], directory: Path) -> None:
    """Write a config and its weights to a directory that must not exist yet: all of it appears at once, or nothing.

    Raises ValueError if the weights are not those of the config, FileExistsError if the directory exists.
    """
    check_weights(config, weights, str(directory))
    if directory.exists():
        raise FileExistsError(f"{directory} exists: choose another directory or remove it")
    directory.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        part.chmod(0o755)
        tensors = {name: value.detach().contiguous().cpu() for name, value in weights.items()}
        save_file(tensors, part / WEIGHTS_FILE)
        (part / CONFIG_FILE).write_text(json.dumps(config.model_dump(mode="json"), indent=1) + "\n")
        os.rename(part, directory)
    except BaseException:
        shutil.rmtree(part)
        raise


def load_config(directory: Path) -> NextDiTConfig:
    """Read the config of a saved model. Raises FileNotFoundError if the directory holds none."""
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no {CONFIG_FILE}: it is not a saved transformer")
    return NextDiTConfig.model_validate_json(path.read_text())


def load_weights(directory: Path) -> dict[str, Tensor]:
    """Read the weights of a saved model to the CPU, checked against its config.

    Raises FileNotFoundError if a file is missing, ValueError if it is damaged or the tensors are not the config's.
    """
    config = load_config(directory)
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no {WEIGHTS_FILE}: it is not a complete saved transformer")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): restore the file") from error
    check_weights(config, weights, str(path))
    return weights


def load_model(
    directory: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> MultiScaleNextDiT:
    """Load a model in evaluation mode; dtype None keeps the stored one. Raises as `load_weights`."""
    with torch.device("meta"):
        model = MultiScaleNextDiT(load_config(directory))
    model.load_state_dict(load_weights(directory), strict=True, assign=True)
    return model.to(device=device, dtype=dtype).eval()


def check_weights(config: NextDiTConfig, weights: Mapping[str, Tensor], place: str) -> None:
    """Raise one ValueError that lists every missing, unexpected or wrongly shaped tensor."""
    with torch.device("meta"):
        wanted = {name: list(value.shape) for name, value in MultiScaleNextDiT(config).state_dict().items()}
    problems = [f"{name} {shape}: missing" for name, shape in wanted.items() if name not in weights]
    for name, value in weights.items():
        if name not in wanted:
            problems.append(f"{name} {list(value.shape)}: unexpected")
        elif list(value.shape) != wanted[name]:
            problems.append(f"{name} {list(value.shape)}: should be {wanted[name]}")
    if problems:
        raise ValueError(f"{place} does not fit its model config, {len(problems)} tensors:\n  " + "\n  ".join(problems))


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
