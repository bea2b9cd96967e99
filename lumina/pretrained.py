"""Where pretrained weights lie: a local directory or a model of the hub, with one clear error when they do not.

A checkpoint is data: what asks for code of its own is refused, and nothing but `hf:` ever fetches anything.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.files import read_json
from lumina.hub import PREFIX, hub_model, no_folder
from lumina.links import check_links
from lumina.tensor_names import misfit

_IGNORED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "*.py", "*.pkl")
"""Of a repository, what nothing here reads."""


@dataclass(frozen=True)
class Place:
    """Where to load from, and what."""

    folder: Path
    what: str
    """What is loaded, for messages."""

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn a loader's error into one line: a FileNotFoundError for a file, a ValueError for what is in it.

        The loaders' own words about tensors, a line for each, are left out: see `check`.
        """
        loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
        levels = [logger.level for logger in loggers]
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        except OSError as error:
            raise FileNotFoundError(f"cannot load {self.what} from {self.folder}: {_first_line(error)}") from error
        except Exception as error:
            # Tokenizers raise no class of their own, safetensors one of each version.
            raise ValueError(
                f"cannot load {self.what} from {self.folder}: {type(error).__name__}: {_first_line(error)}"
            ) from error
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

    def check(self, names: Collection[str], info: Mapping[str, Any], *, more_is_fine: bool = False) -> None:
        """Check what a loader says of the tensors: it draws those that it does not find at random.

        Args:
            names: of the network's tensors.
            info: what `output_loading_info` gives, with `ignore_mismatched_sizes`.
            more_is_fine: whether a file may hold more than the network, such as the head of a language model.

        Raises ValueError with one line about those that do not fit.
        """
        missing, unexpected = (sorted(info[f"{kind}_keys"]) for kind in ("missing", "unexpected"))
        shapes = sorted(
            f"{name} {list(got)}: should be {list(wanted)}" for name, got, wanted in info["mismatched_keys"]
        )
        if missing or shapes or (unexpected and not more_is_fine):
            raise ValueError(
                misfit(str(self.folder), self.what, names, missing=missing, unexpected=unexpected, misshapen=shapes)
            )


def locate(source: str | Path, what: str, files: Sequence[str]) -> Place:
    """Find pretrained weights.

    Args:
        source: an existing directory; a model of the hub that its cache has, or, after `hf:`, that is fetched.
        what: what is loaded, for messages.
        files: glob patterns that the directory must satisfy.

    Raises FileNotFoundError if the directory lacks a file or there is none, ValueError if it asks for code of its own
    or a link in it leads elsewhere.
    """
    folder = local_folder(source)
    missing = [pattern for pattern in files if not any(folder.glob(pattern))]
    if missing:
        raise FileNotFoundError(f"{folder} does not hold {what}: no {', no '.join(missing)}")
    if Path(source).is_dir():
        check_links(folder)
    refuse_code(folder)
    return Place(folder, what)


def local_folder(source: str | Path) -> Path:
    """The directory that `source` is, or that holds the model of the hub which it names; see `locate`."""
    if Path(source).is_dir():
        return Path(source)
    text = str(source)
    model = hub_model(text)
    snapshot = model.snapshot if model is not None else None
    if snapshot is not None:
        return snapshot
    if model is None or not text.startswith(PREFIX):
        raise FileNotFoundError(no_folder(text))
    from huggingface_hub import snapshot_download

    patterns = [f"{model.folder}/*"] if model.folder else None
    try:
        found = snapshot_download(
            model.name, revision=model.revision, allow_patterns=patterns, ignore_patterns=list(_IGNORED)
        )
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{text} cannot be fetched from the hub: {_first_line(error)}") from error
    return Path(found) / model.folder


def refuse_code(folder: Path) -> None:
    """ValueError if a JSON file of a checkpoint names code that its loader would fetch and run."""
    for path in sorted(folder.glob("*config.json")):
        settings = read_json(path)
        if isinstance(settings, dict) and settings.get("auto_map"):
            raise ValueError(
                f"{path} asks for code of its own (auto_map), which is never run: take a model whose classes "
                "`transformers` has, or remove auto_map if they are these"
            )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")
