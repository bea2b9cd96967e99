"""Low-rank adapters (LoRA) in the layout of the library peft: read from a directory, and added to a transformer.

The directory holds `adapter_config.json` (`r`, `lora_alpha`, `target_modules`) and `adapter_model.safetensors` with
`base_model.model.<module>.lora_A.weight` [r, in] and `...lora_B.weight` [out, r]. The library itself is not needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina.adapter_files import CONFIG_FILE, MERGED_FILE, NAME_PREFIX, TENSORS_FILE
from lumina.checkpoints import DIGEST_FILE, load_config, load_weights, model_of, tensors_of
from lumina.files import read_json
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.pretrained import locate
from lumina.tensor_files import check_shapes, read_tensors
from lumina.tensor_names import unwrapped

_PICKLE = "adapter_model.bin"
_KNOWN = frozenset({
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout",
    "lora_ga_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "revision",
    "target_modules", "task_type", "use_rslora",
})  # fmt: skip
"""Settings that are read here, or that bear on training alone; another one that is set changes what is computed."""
_PLAIN = {"bias": ("none",), "init_lora_weights": (True, "gaussian", "orthogonal", "eva")}
"""Values of other settings that change nothing either: no biases, and the weights beside the adapter as they were."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """Products of two thin matrices, each to be added to the weight of a linear layer."""

    pairs: Mapping[str, tuple[Tensor, Tensor]]
    """Layer to lora_A [r, in] and lora_B [out, r]."""
    factor: float
    """What the products are multiplied by: lora_alpha / r, or lora_alpha / sqrt(r) with `use_rslora`."""
    merged: str | None = None
    """Digest of the weights that have it merged, where the adapter says so."""


def read_adapter(source: str | Path, wanted: Mapping[str, Tensor]) -> Adapter:
    """Read an adapter of a network.

    Args:
        source: a directory, or a model of the hub, "hf:owner/name".
        wanted: the network's tensors by name; their shapes count.

    Raises FileNotFoundError if a file is missing, ValueError with one line if the adapter is of another kind or
    network, or its files are damaged.
    """
    return adapter_in(locate(source, "an adapter", (CONFIG_FILE,)).folder, wanted)


def adapter_in(folder: Path, wanted: Mapping[str, Tensor]) -> Adapter:
    """Read the adapter of a network that lies in a folder; see `read_adapter`."""
    path = folder / TENSORS_FILE
    if not path.is_file():
        if (folder / _PICKLE).is_file():
            raise ValueError(f"{folder / _PICKLE} is a pickle, which is never read: save the adapter as {TENSORS_FILE}")
        raise FileNotFoundError(f"{folder} does not hold an adapter: no {TENSORS_FILE}")
    settings = _settings(folder / CONFIG_FILE)
    layers = {name.removesuffix(".weight"): value for name, value in wanted.items() if _is_matrix(name, value)}
    targets = _targets(folder / CONFIG_FILE, settings, layers)
    tensors = _plain_names(read_tensors(path), layers)
    _check(path, tensors, {name: layers[name] for name in _adapted(tensors, targets, settings)}, settings["r"])
    pairs = {
        name: (tensors[_name(name, "A")], tensors[_name(name, "B")]) for name in layers if _name(name, "A") in tensors
    }
    rank = settings["r"]
    factor = settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    return Adapter(pairs, factor, _digest(folder / MERGED_FILE))


def add_adapter(weights: Mapping[str, Tensor], adapter: Adapter, scale: float) -> dict[str, Tensor]:
    """W + scale * factor * B A, in float32, where there is an adapter, and the other weights as they are.

    Scale 0 gives `weights`, in their own type.
    """
    added = dict(weights)
    if scale:
        for name, (down, up) in adapter.pairs.items():
            value = weights[f"{name}.weight"]
            added[f"{name}.weight"] = value.float() + up.float() @ down.float() * (adapter.factor * scale)
    return added


def load_adapted(
    directory: Path, adapter: str | Path, scale: float, device: torch.device | str, dtype: torch.dtype | None
) -> MultiScaleNextDiT:
    """Load a saved transformer with an adapter added to its weights, before they are turned into `dtype`.

    Raises as `load_model` and `read_adapter`, and ValueError for a scale that is no finite number, or weights that have
    this adapter merged already.
    """
    if not math.isfinite(scale):
        raise ValueError(f"the scale of an adapter must be a finite number, got {scale}")
    config = load_config(directory)
    # The larger file is read only if the smaller one fits.
    found = read_adapter(adapter, tensors_of(config))
    if scale > 0 and found.merged is not None and found.merged == _digest(directory / DIGEST_FILE):
        raise ValueError(
            f"{directory} has the adapter {adapter} merged already: leave it out, or take the weights that it was "
            "trained beside"
        )
    return model_of(config, add_adapter(load_weights(directory), found, scale), device, dtype)


def _digest(path: Path) -> str | None:
    """The digest of weights in a JSON file; None if there is no such file."""
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("weights"), str):
        raise ValueError(f"{path} is damaged (no digest of weights): restore the file")
    return str(content["weights"])


def _settings(path: Path) -> dict[str, Any]:
    settings = read_json(path)
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        kind = settings.get("peft_type") if isinstance(settings, dict) else type(settings).__name__
        raise ValueError(f"{path} is of no LoRA adapter: peft_type should be 'LORA', got {kind!r}")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"{path}: r should be a whole number from 1 on, got {rank!r}")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) < 1e9:
        raise ValueError(f"{path}: lora_alpha should be a finite number, got {str(alpha)[:60]!r}")
    changes = {
        name: value
        for name, value in settings.items()
        if value and name not in _KNOWN and value not in _PLAIN.get(name, ())
    }
    if changes:
        name, value = next(iter(sorted(changes.items())))
        raise ValueError(
            f"{path}: {name} is {str(value)[:60]!r}, and only plain LoRA is read: merge this adapter into its weights "
            "with peft, and use those"
        )
    return settings


def _targets(path: Path, settings: Mapping[str, Any], layers: Mapping[str, Tensor]) -> set[str]:
    """The layers that `target_modules` names, as peft takes it: names or ends of names, or one regular expression."""
    value = settings.get("target_modules")
    if value == "all-linear":
        return set(layers)
    if isinstance(value, str):
        try:
            found = {name for name in layers if re.fullmatch(value, name)}
        except re.error as error:
            raise ValueError(f"{path}: target_modules {value!r} is no regular expression: {error}") from error
        each = {value: found}
    elif isinstance(value, list) and value and all(isinstance(target, str) for target in value):
        each = {target: {name for name in layers if f".{name}".endswith(f".{target}")} for target in value}
    else:
        raise ValueError(f"{path}: target_modules should be a list of names, got {str(value)[:60]!r}")
    if unknown := sorted(target for target, found in each.items() if not found):
        ends = sorted({name.rpartition(".")[2] for name in layers if name.startswith("layers.0.")} - {"1"})
        raise ValueError(
            f"{path}: the network has no linear layer {', '.join(unknown[:3])}, which target_modules names; its blocks "
            f"have {', '.join(ends)}"
        )
    return set().union(*each.values())


def _adapted(tensors: Mapping[str, Tensor], targets: set[str], settings: Mapping[str, Any]) -> list[str]:
    """The layers that should have tensors: all targets, or if some were left out by number or name, those that have."""
    some = settings.get("layers_to_transform") is not None or settings.get("exclude_modules")
    return sorted(name for name in targets if not some or any(_name(name, side) in tensors for side in "AB"))


def _check(path: Path, tensors: Mapping[str, Tensor], layers: Mapping[str, Tensor], rank: int) -> None:
    wanted: dict[str, list[int]] = {}
    for name, weight in layers.items():
        wanted[_name(name, "A")] = [rank, weight.shape[1]]
        wanted[_name(name, "B")] = [weight.shape[0], rank]
    check_shapes(wanted, tensors, str(path), f"the network and {CONFIG_FILE}")
    if not wanted:
        raise ValueError(f"{path} holds no adapter of any layer of the network")


def _is_matrix(name: str, value: Tensor) -> bool:
    return name.endswith(".weight") and value.ndim == 2


def _name(layer: str, side: str) -> str:
    return f"{layer}.lora_{side}.weight"


def _plain_names(tensors: Mapping[str, Tensor], layers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the prefix of peft, and those of wrappers that the network was trained in."""
    if all(name.startswith(NAME_PREFIX) for name in tensors):
        tensors = {name.removeprefix(NAME_PREFIX): value for name, value in tensors.items()}
    names = unwrapped(layers, tensors)
    return {names[name]: value for name, value in tensors.items()}
