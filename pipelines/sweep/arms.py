"""Arms of a sweep: a grid over repeated overrides, or named arms of a file, each with every seed.

A seed is that of training: `train.*.seed` and those of fine-tuning. Data, prompts and noises of evaluation stay, so
that curation is shared, and runs differ by what training is subject to.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from curation.texts import TextError, decode
from pipelines.base_config import BaseConfig
from pipelines.config import PipelineConfig, load_config
from pipelines.errors import PipelineError
from pipelines.load import ConfigError
from pipelines.sound_config import SoundPipelineConfig
from pipelines.sweep.values import grid_values
from pipelines.yaml_text import YamlLimitError, load_yaml

_COLUMN = "name"
_NAME_CHARS = 80


@dataclass(frozen=True)
class Arm:
    """One setting that is compared."""

    name: str
    """In tables: `lr=1e-3`, or what the file calls it."""
    overrides: tuple[str, ...]
    """What it changes of the config, as `lumina run -o` takes it."""


@dataclass(frozen=True)
class SweepRun:
    """One arm with one seed: a run as any other."""

    arm: str
    seed: int | None
    """None where the config's own are taken."""
    changes: tuple[str, ...]
    """What the arm changes."""
    name: str
    """Of the run, under which the store has it."""
    overrides: tuple[str, ...]
    """All that its config differs by, but for its name."""
    settings: BaseConfig

    @property
    def title(self) -> str:
        """The arm, with its seed where there is one."""
        return self.arm if self.seed is None else f"{self.arm}, seed {self.seed}"


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep, arm by arm."""

    name: str
    config: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    runs: tuple[SweepRun, ...]


def read_sweep(
    config: str,
    overrides: Sequence[str] = (),
    arms_file: Path | None = None,
    seeds: Sequence[int] = (),
    name: str | None = None,
    store: str | None = None,
) -> Sweep:
    """The runs of a sweep, each with a config that was checked.

    Args:
        config: path or name of the config that all arms change.
        overrides: `key=value` for all arms, `key=a,b` for an arm of each; several of these make a grid.
        arms_file: YAML or CSV with named arms; with a grid, each of them is crossed with it.
        seeds: of training; none takes the config's own.
        name: of the sweep; None is `<config's name>-sweep`.
        store: in place of the config's.

    Raises:
        PipelineError: an override, the file or the config of an arm cannot be used; all arms at fault are named.
    """
    common, grid = _grid(overrides)
    arms = _crossed(_read_arms(arms_file) if arms_file else [Arm("", ())], grid)
    common += [f"store={store}"] if store else []
    if len(arms) * max(1, len(seeds)) == 1:
        raise PipelineError(
            "a sweep of one run is `lumina run`: give a key several values (-o train.2.lr=1e-3,2e-3), --arms or --seeds"
        )
    _check_names(arms)
    settings = _settings(config, common, arms)
    base = next(iter(settings.values()))
    _check_shared(settings)
    name = name or f"{base.name}-sweep"
    taken: dict[str, str] = {}
    runs = []
    for arm in arms:
        keys = _seed_keys(settings[arm.name])
        _check_seeds(arm, [*common, *arm.overrides], keys, seeds)
        for seed in seeds or (None,):
            run = _run_name(name, arm.name, seed, taken)
            seeded = [] if seed is None else [f"{key}={seed}" for key in keys]
            every = (*common, *arm.overrides, *seeded)
            runs.append(
                SweepRun(arm.name, seed, arm.overrides, run, every, _load(config, [*every, f"name={run}"], arm.name))
            )
    return Sweep(name, config, tuple(arms), tuple(seeds), tuple(runs))


def read_seeds(text: str | None) -> tuple[int, ...]:
    """The numbers of `0,1,2`.

    Raises:
        PipelineError: one is no whole number from 0, or is there twice.
    """
    words = [] if text is None else [word.strip() for word in text.split(",")]
    if bad := [word for word in words if not (word.isascii() and word.isdigit())]:
        raise PipelineError(f"--seeds {text}: {bad[0]!r} is no whole number from 0; expected e.g. --seeds 0,1")
    seeds = tuple(map(int, words))
    if len(set(seeds)) < len(seeds):
        raise PipelineError(f"--seeds {text}: a seed is there twice, which would be the same run")
    return seeds


def _grid(overrides: Sequence[str]) -> tuple[list[str], list[list[Arm]]]:
    """Overrides of one value, which are every arm's, and the dimensions of the grid."""
    common, several = [], {}
    for override in overrides:
        key, values = grid_values(override)
        if key in several:
            raise PipelineError(f"-o {override}: {key} is given twice; list all its values in one -o {key}=a,b,c")
        if len(values) == 1:
            common.append(f"{key}={values[0]}")
        else:
            several[key] = values
    return common, [
        [Arm(f"{_short(key, several)}={value}", (f"{key}={value}",)) for value in values]
        for key, values in several.items()
    ]


def _short(key: str, keys: Mapping[str, object]) -> str:
    """The end of a key, as long as it has to be to tell it from the others."""
    parts = key.split(".")
    ends = (".".join(parts[at:]) for at in range(len(parts) - 1, -1, -1))
    # A number alone says nothing.
    return next(
        (end for end in ends if not end.isdigit() and sum(f".{other}".endswith(f".{end}") for other in keys) == 1),
        key,
    )


def _crossed(named: Sequence[Arm], grid: Sequence[Sequence[Arm]]) -> list[Arm]:
    return [
        Arm(", ".join(one.name for one in picked if one.name) or "config", sum((one.overrides for one in picked), ()))
        for picked in itertools.product(named, *grid)
    ]


def _read_arms(path: Path) -> list[Arm]:
    try:
        text = decode(path.read_bytes())
    except OSError as error:
        raise PipelineError(f"--arms {path}: {error.strerror or error}; expected a YAML or CSV file") from error
    except TextError as error:
        raise PipelineError(f"--arms {path}, line {error.line}: {error}") from error
    arms = list(_csv_arms(path, text) if path.suffix == ".csv" else _yaml_arms(path, text))
    if not arms:
        raise PipelineError(f"--arms {path}: there is no arm in it; expected name: {{key: value}} for each")
    for arm in arms:
        if not arm.name.strip():
            raise PipelineError(f"--arms {path}: an arm has no name")
    return arms


def _csv_arms(path: Path, text: str) -> Iterator[Arm]:
    """A row an arm: its name, and the value of each key, where an empty cell leaves the config's."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    keys = [key for key in reader.fieldnames or () if key != _COLUMN]
    if _COLUMN not in (reader.fieldnames or ()) or not keys:
        raise PipelineError(f"--arms {path}: expected a column {_COLUMN} and one for each key, such as train.2.lr")
    if len(set(keys)) < len(keys):
        raise PipelineError(f"--arms {path}: a column is there twice: {', '.join(keys)}")
    for row in reader:
        if None in row or None in row.values():
            raise PipelineError(
                f"--arms {path}, line {reader.line_num}: not as many cells as columns; one with commas goes in quotes"
            )
        yield Arm(row[_COLUMN], tuple(f"{key}={row[key]}" for key in keys if row[key]))


def _yaml_arms(path: Path, text: str) -> Iterator[Arm]:
    """`name: {dotted.key: value}`, or a list of mappings with a `name`."""
    try:
        data = load_yaml(text)
        names = _written_names(text)
    except YamlLimitError as error:
        raise PipelineError(f"--arms {path}, line {error.line}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise PipelineError(f"--arms {path}: not valid YAML: {error}") from error
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PipelineError(f"--arms {path}: {twice[0]!r} is there twice; give each arm a name of its own")
    if isinstance(data, list) and all(isinstance(one, dict) and _COLUMN in one for one in data):
        rows = [(one[_COLUMN], {key: value for key, value in one.items() if key != _COLUMN}) for one in data]
    elif isinstance(data, dict):
        rows = list(data.items())
    else:
        raise PipelineError(
            f"--arms {path}: expected name: {{key: value}} for each arm, or a list of {{name: ..., key: ...}}"
        )
    for name, changed in rows:
        if not isinstance(changed, dict):
            raise PipelineError(f"--arms {path}: {name}: expected {{key: value}}, such as {{train.2.lr: 1e-3}}")
        yield Arm(str(name), tuple(f"{key}={_as_override(value)}" for key, value in changed.items()))


def _written_names(text: str) -> list[str]:
    """Keys at the top as they are written: a mapping would keep the last of two."""
    node = yaml.compose(text, yaml.SafeLoader)
    return [str(key.value) for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []


def _as_override(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:  # a date
        return str(value)


def _check_names(arms: Sequence[Arm]) -> None:
    seen = set()
    for arm in arms:
        if arm.name in seen:
            raise PipelineError(f"arm {arm.name!r} is there twice; give each arm a name, and each key a value once")
        seen.add(arm.name)


def _settings(config: str, common: Sequence[str], arms: Sequence[Arm]) -> dict[str, BaseConfig]:
    found, wrong = {}, {}
    for arm in arms:
        try:
            found[arm.name] = load_config(config, [*common, *arm.overrides])
        except ConfigError as error:
            wrong[arm.name] = str(error)
    if wrong and not found and len(set(wrong.values())) == 1:
        raise ConfigError(next(iter(wrong.values())))  # it is no arm's own
    if wrong:
        raise ConfigError("\n".join(f"arm {name}: {said}" for name, said in wrong.items()) + "; nothing was started")
    return found


def _load(config: str, overrides: Sequence[str], arm: str) -> BaseConfig:
    try:
        return load_config(config, overrides)
    except ConfigError as error:
        raise ConfigError(f"arm {arm}: {error}") from error


def _check_shared(settings: Mapping[str, BaseConfig]) -> None:
    """What all runs of a sweep must have in common."""
    (first, one), *others = settings.items()
    for key in ("pipeline", "store", "store_cache", "tracking_uri", "name"):
        for name, other in others:
            if (a := getattr(one, key)) != (b := getattr(other, key)):
                hint = "--name names the sweep, and its runs are named after it" if key == "name" else "give it once"
                raise PipelineError(f"{key} is {a} in arm {first}, and {b} in arm {name}: all arms share one; {hint}")


def _seed_keys(settings: BaseConfig) -> list[str]:
    """The keys of the seeds of training."""
    if isinstance(settings, PipelineConfig):
        return [f"{key}.seed" for key in settings.training()]
    if isinstance(settings, SoundPipelineConfig):
        return [f"train.{name}.seed" for name in settings.train]
    raise TypeError(f"no seeds are known for a {type(settings).__name__}")


def _check_seeds(arm: Arm, overrides: Sequence[str], keys: Sequence[str], seeds: Sequence[int]) -> None:
    for override in overrides if seeds else ():
        if (key := override.partition("=")[0]) in keys:
            raise PipelineError(f"{key} of arm {arm.name} is what --seeds sets: leave one of the two out")


def _run_name(sweep: str, arm: str, seed: int | None, taken: dict[str, str]) -> str:
    """A name that the store takes: another for every arm, and the same whenever the arm is."""
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", arm).strip("-.")
    if slug != arm or len(slug) > _NAME_CHARS:
        slug = f"{slug[:_NAME_CHARS]}-{hashlib.sha256(arm.encode()).hexdigest()[:4]}".lstrip("-")
    name = f"{sweep}.{slug}" + ("" if seed is None else f".s{seed}")
    if taken.setdefault(name, arm) != arm:
        raise PipelineError(f"arms {taken[name]!r} and {arm!r} would both be the run {name}: call one otherwise")
    return name
