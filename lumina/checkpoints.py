"""Save and load transformer weights: a directory with `config.json`, safetensors and a digest.

Weights above `MAX_SHARD_BYTES` are split into shards with an index, as `transformers` and `diffusers` do.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from huggingface_hub import save_torch_state_dict
from pydantic import ValidationError
from torch import Tensor

from lumina.config import Config
from lumina.files import read_json
from lumina.models.config import NextDiTConfig
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.tensor_files import check_tensors, fitting, read_tensors
from lumina.weights_digest import digest

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DIGEST_FILE = "digest.json"
MAX_SHARD_BYTES = 5_000_000_000
_KINDS = {"text-to-video": "cap_feat_dim", "video-to-audio": "sync_dim"}
"""Kinds of networks, and a field that the config of no other has."""

AnyConfig = TypeVar("AnyConfig", bound=Config)


def save_model(model: MultiScaleNextDiT, directory: Path) -> None:
    """Write a model; see `save_weights`."""
    save_weights(model.config, model.state_dict(), directory)


def save_weights(
    config: NextDiTConfig, weights: Mapping[str, Tensor], directory: Path, max_shard_bytes: int = MAX_SHARD_BYTES
) -> str:
    """Write a config and its weights to a directory that must not exist yet; return the weights' `digest`.

    All of it appears at once, or nothing. Raises ValueError if the weights are not those of the config,
    FileExistsError if the directory exists.
    """
    return write_weights(config, tensors_of(config), weights, directory, max_shard_bytes)


def write_weights(
    config: Config,
    wanted: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    directory: Path,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> str:
    """As `save_weights`, of any network: `wanted` are the tensors that it has by its config."""
    check_tensors(wanted, weights, str(directory))
    value = digest({"weights": weights})
    with write_whole(directory) as part:
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in weights.items()}
        pattern = WEIGHTS_FILE.replace(".", "{suffix}.")
        save_torch_state_dict(tensors, part, filename_pattern=pattern, max_shard_size=max_shard_bytes)
        (part / CONFIG_FILE).write_text(json.dumps(config.model_dump(mode="json"), indent=1) + "\n")
        (part / DIGEST_FILE).write_text(json.dumps({"weights": value}) + "\n")
    return value


@contextmanager
def write_whole(directory: Path) -> Iterator[Path]:
    """Give a directory to write into that takes the name `directory` at the end, or vanishes if the block fails.

    Raises FileExistsError if `directory` exists.
    """
    if directory.exists():
        raise FileExistsError(f"{directory} exists: choose another directory or remove it")
    directory.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        part.chmod(0o755)
        yield part
        os.rename(part, directory)
    except BaseException:
        shutil.rmtree(part)
        raise


def load_config(directory: Path) -> NextDiTConfig:
    """Read the config of a saved model. Raises FileNotFoundError if the directory holds none, ValueError if it is of
    something else."""
    return read_config(directory, NextDiTConfig, "text-to-video")


def read_config(directory: Path, kind: type[AnyConfig], name: str) -> AnyConfig:
    """As `load_config`, of a network of any kind, a key of `_KINDS`."""
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no {CONFIG_FILE}: it is not a saved transformer")
    text = path.read_text(encoding="utf-8")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        other = next((found for found, field in _KINDS.items() if found != name and f'"{field}"' in text), None)
        if other:
            raise ValueError(
                f"{directory} holds a {other} transformer, but a {name} one is needed here: give another checkpoint"
            ) from error
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"{path} is no config of a transformer of ours: {where}: {first['msg']}") from error


def load_weights(directory: Path) -> dict[str, Tensor]:
    """Read the weights of a saved model to the CPU, checked against its config.

    Raises FileNotFoundError if a file is missing, ValueError if it is damaged or the tensors are not the config's.
    """
    return read_weights(directory, tensors_of(load_config(directory)))


def read_weights(directory: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As `load_weights`, of any network: `wanted` are the tensors that it has by its config."""
    weights: dict[str, Tensor] = {}
    for path in _weight_files(directory):
        try:
            weights.update(read_tensors(path))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{directory} lacks {path.name}, which its index names: restore the file"
            ) from error
    return fitting(wanted, weights, str(directory))


def _weight_files(directory: Path) -> list[Path]:
    index = directory / INDEX_FILE
    if index.is_file():
        try:
            names = sorted(set(read_json(index)["weight_map"].values()))
            if strange := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
                raise ValueError(f"{strange[0]!r} is no safetensors file beside it")
            return [directory / name for name in names]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index} is damaged ({error}): restore the file") from error
    if not (directory / WEIGHTS_FILE).is_file():
        raise FileNotFoundError(f"{directory} holds no {WEIGHTS_FILE}: it is not a complete saved transformer")
    return [directory / WEIGHTS_FILE]


def load_model(
    directory: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> MultiScaleNextDiT:
    """Load a model in evaluation mode; dtype None keeps the stored one. Raises as `load_weights`."""
    return model_of(load_config(directory), load_weights(directory), device, dtype)


def model_of(
    config: NextDiTConfig, weights: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype | None
) -> MultiScaleNextDiT:
    """A model in evaluation mode, with these weights; dtype None keeps theirs."""
    with torch.device("meta"):
        model = MultiScaleNextDiT(config)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.to(device=device, dtype=dtype).eval()


def check_weights(config: NextDiTConfig, weights: Mapping[str, Tensor], place: str) -> None:
    """Raise one ValueError about missing, unexpected and wrongly shaped tensors."""
    check_tensors(tensors_of(config), weights, place)


def tensors_of(config: NextDiTConfig) -> dict[str, Tensor]:
    """The tensors of a network by name, with shapes and without content."""
    with torch.device("meta"):
        return MultiScaleNextDiT(config).state_dict()
