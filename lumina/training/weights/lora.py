"""Low-rank adapters (LoRA) on the blocks' linear layers, by the library peft: added, merged, and saved in its format.

Tensors of adapters go by the names that `named_parameters` gives them once they are in a model:
`layers.0.attention.wq.lora_A.default.weight` [rank, in] and `...lora_B.default.weight` [out, rank].
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lumina.adapter_files import CONFIG_FILE, MERGED_FILE, NAME_PREFIX, TENSORS_FILE
from lumina.checkpoints import write_whole
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.training.stage import LoraConfig

_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"


def add_adapters(model: MultiScaleNextDiT, config: LoraConfig, rng: torch.Generator) -> None:
    """Put an adapter beside every target of every block, in place, and freeze all else.

    The adapters are float32, the one matrix drawn from `rng` (of the CPU) and the other zero, so that the model
    computes what it did before. The global random numbers stay where they are.
    Raises ValueError if the model has adapters already.
    """
    if any(name.endswith(_DOWN) for name, _ in model.named_parameters()):
        raise ValueError("the model has adapters already: merge them first, and start from what `merge` returns")
    from peft import inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(_peft_config(config), model)
    for name, parameter in model.named_parameters():
        adapter = name.endswith((_DOWN, _UP))
        parameter.requires_grad_(adapter)
        if adapter:
            value = torch.zeros(parameter.shape)
            if name.endswith(_DOWN):
                nn.init.kaiming_uniform_(value, a=math.sqrt(5), generator=rng)
            parameter.data = value.to(parameter.device)


def merge(base: Mapping[str, Tensor], adapters: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """Add adapters to the weights that they were trained beside.

    Args:
        base: weights under the released names.
        adapters: the two matrices of every target of every block.
        config: the adapters' rank, alpha and targets.

    Returns:
        All of base, in float32 and in memory of their own: W + alpha / rank * B A where there is an adapter.

    Raises ValueError that lists every tensor of `adapters` that is missing, unexpected or of another shape.
    """
    targets = _targets(base, config)
    _check(adapters, {name: (*base[f"{name}.weight"].shape,) for name in targets}, config)
    merged = {name: value.detach().to(torch.float32, copy=True) for name, value in base.items()}
    for name in targets:
        down, up = adapters[name + _DOWN].detach().float(), adapters[name + _UP].detach().float()
        weight = merged[f"{name}.weight"]
        weight += (up @ down * (config.alpha / config.rank)).to(weight.device)
    return merged


def save_adapter(
    adapters: Mapping[str, Tensor], config: LoraConfig, directory: Path, merged: str | None = None
) -> None:
    """Write adapters as peft does (`PeftModel.from_pretrained` reads it) to a directory that must not exist yet.

    `merged` is the digest of the weights that have them, so that nothing adds them there once more.
    All of it appears at once, or nothing. Raises ValueError as `merge`, FileExistsError if the directory exists.
    """
    _check(adapters, dict.fromkeys(_targets(adapters, config), (None, None)), config)
    tensors = {
        NAME_PREFIX + name.replace(".default.", "."): value.detach().contiguous().cpu()
        for name, value in adapters.items()
    }
    # What peft itself would write has the targets in another order in every process.
    content = json.dumps(_peft_config(config, inference=True).to_dict(), indent=2, sort_keys=True, default=sorted)
    settings = {"r": config.rank, "lora_alpha": config.alpha, "target_modules": sorted(config.targets)}
    header = json.dumps({NAME_PREFIX + name: value for name, value in settings.items()}, sort_keys=True)
    with write_whole(directory) as part:
        # diffusers reads no other file, and would take alpha for the rank. Two entries would come in any order.
        save_file(tensors, part / TENSORS_FILE, metadata={"lora_adapter_metadata": header})
        (part / CONFIG_FILE).write_text(content + "\n")
        if merged is not None:
            (part / MERGED_FILE).write_text(json.dumps({"weights": merged}) + "\n")


def _peft_config(config: LoraConfig, inference: bool = False) -> Any:
    # It takes seconds, and only stages with adapters need it.
    from peft import LoraConfig as PeftConfig

    return PeftConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=list(config.targets), inference_mode=inference
    )


def _targets(names: Iterable[str], config: LoraConfig) -> list[str]:
    """Names of the layers with an adapter, in all blocks that the names of tensors speak of."""
    blocks = sorted({int(name.split(".")[1]) for name in names if name.startswith("layers.")})
    parts = {"q": "attention", "k": "attention", "v": "attention", "o": "attention"}
    return [
        f"layers.{block}.{parts.get(target[1], 'feed_forward')}.{target}"
        for block in blocks
        for target in sorted(set(config.targets))
    ]


def _check(adapters: Mapping[str, Tensor], targets: Mapping[str, Sequence[int | None]], config: LoraConfig) -> None:
    """Raise one ValueError about all tensors that do not fit; `targets` gives the layers' (out, in), None is any."""
    wanted: dict[str, tuple[int | None, int | None]] = {}
    for name, (outputs, inputs) in targets.items():
        wanted[name + _DOWN] = (config.rank, inputs)
        wanted[name + _UP] = (outputs, config.rank)
    problems = [f"{name}: missing" for name in wanted if name not in adapters]
    for name, value in adapters.items():
        if name not in wanted:
            problems.append(f"{name} {list(value.shape)}: unexpected")
            continue
        size = ["any" if number is None else number for number in wanted[name]]
        if value.ndim != 2 or any(want not in ("any", got) for want, got in zip(size, value.shape, strict=True)):
            problems.append(f"{name} {list(value.shape)}: should be [{size[0]}, {size[1]}]")
    if problems or not wanted:
        raise ValueError(
            f"these are not the adapters of rank {config.rank} of {', '.join(config.targets)} in every block, "
            f"{len(problems)} tensors:\n  " + "\n  ".join(problems)
        )
