"""Read and write the released checkpoint layout: one `consolidated` file, and arguments that are never unpickled.

The released directory holds `consolidated.00-of-01.safetensors` (or `.pth`), its averaged weights as
`consolidated_ema.00-of-01.*`, and `model_args.pth`, a pickled object. Loading that would run code from the file, so the
arguments come from a preset or a JSON file instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from lumina.checkpoints import CONFIG_FILE, check_weights, tensors_of, write_whole
from lumina.files import read_json
from lumina.models.config import RELEASED_MODELS, NextDiTConfig
from lumina.tensor_files import fitting, read_tensors

ARGUMENTS_FILE = "model_args.json"
_MODEL_PREFIX = "MultiScaleNextDiT_"
_ENTRY = "model"
"""Under which training scripts save the weights beside their optimizer's."""


def weights_file(source: Path, ema: bool) -> Path:
    """Find the weights in a released directory; a file stands for itself.

    Raises FileNotFoundError naming what was looked for, ValueError if the weights are split over several files.
    """
    if source.is_file():
        return source
    stem = "consolidated_ema" if ema else "consolidated"
    names = [f"{stem}.00-of-01.{ending}" for ending in ("safetensors", "pth")]
    for name in names:
        if (source / name).is_file():
            return source / name
    split = sorted(path.name for path in source.glob(f"{stem}.00-of-*"))
    if split:
        raise ValueError(
            f"{source} holds {split[0]}: weights split over several files cannot be read, merge them first"
        )
    raise FileNotFoundError(f"{source} holds no {' or '.join(names)}")


def read_released(source: Path, config: NextDiTConfig, *, ema: bool = False) -> dict[str, Tensor]:
    """Read the weights of a released directory or file to the CPU, under their plain names.

    Raises:
        FileNotFoundError: there are none.
        ValueError: the file is damaged or holds more than tensors, or its tensors are not those of `config`.
    """
    path = weights_file(source, ema)
    return fitting(tensors_of(config), read_tensors(path, _ENTRY), str(path))


def write_released(config: NextDiTConfig, weights: Mapping[str, Tensor], directory: Path, *, ema: bool = False) -> None:
    """Write weights under the released names to a directory that must not exist yet, with `model_args.json`.

    Raises ValueError if the weights are not those of the config, FileExistsError if the directory exists.
    """
    check_weights(config, weights, str(directory))
    stem = "consolidated_ema" if ema else "consolidated"
    with write_whole(directory) as part:
        tensors = {name: value.detach().contiguous().cpu() for name, value in weights.items()}
        save_file(tensors, part / f"{stem}.00-of-01.safetensors")
        text = json.dumps(released_arguments(config), indent=1) + "\n"
        (part / ARGUMENTS_FILE).write_text(text, encoding="utf-8")


def released_arguments(config: NextDiTConfig) -> dict[str, Any]:
    """Arguments of the released constructor; `NextDiTConfig.from_released` reads them."""
    values = config.model_dump(mode="json")
    patches = values.pop("patch_sizes")
    return {
        "all_patch_size": [patch[1] for patch in patches],
        "all_f_patch_size": [patch[0] for patch in patches],
        **values,
    }


def find_config(source: Path, preset: str | None, arguments: Path | None) -> NextDiTConfig:
    """Find the shape of a released checkpoint.

    Args:
        source: the checkpoint; a `model_args.json` or `config.json` beside its weights serves when nothing is named.
        preset: a name from `RELEASED_MODELS`.
        arguments: a JSON file: our config, the released constructor's arguments, or the released training arguments.

    Raises ValueError or FileNotFoundError, saying what to give.
    """
    if preset is not None and arguments is not None:
        raise ValueError("give a preset or a JSON file of arguments, not both")
    if preset is not None:
        return _preset(preset)
    folder = source if source.is_dir() else source.parent
    found = [path for path in (folder / ARGUMENTS_FILE, folder / CONFIG_FILE) if path.is_file()]
    path = arguments or next(iter(found), None)
    if path is None:
        raise ValueError(
            f"{source} does not tell its model's shape (model_args.pth is never unpickled): give --preset, one of "
            f"{', '.join(RELEASED_MODELS)}, or --config with a JSON file"
        )
    values = read_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object with the model's arguments")
    try:
        if "all_patch_size" in values:
            return NextDiTConfig.from_released(values)
        return _from_training(values) if "model" in values else NextDiTConfig.model_validate(values)
    except KeyError as error:
        raise ValueError(f"{path} tells no shape of a transformer: it has no {error.args[0]}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"{path} tells no shape of a transformer: {where}: {first['msg']}") from error


def _preset(name: str) -> NextDiTConfig:
    if name not in RELEASED_MODELS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(RELEASED_MODELS)}")
    return RELEASED_MODELS[name]


def _from_training(values: Mapping[str, Any]) -> NextDiTConfig:
    """From the arguments of the released training script, which name the model and list its scales."""
    base = _preset(str(values["model"]).removeprefix(_MODEL_PREFIX)).model_dump()
    patches = tuple(zip(values["f_patch_sizes"], values["patch_sizes"], values["patch_sizes"], strict=True))
    taken = {name: values[name] for name in ("qk_norm", "rope_theta", "t_scale", "motion_scale") if name in values}
    return NextDiTConfig.model_validate(base | taken | {"patch_sizes": patches})
