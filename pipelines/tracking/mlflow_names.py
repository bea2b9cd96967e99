"""MLflow names and values: parameters, metrics and digests as it takes them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from lumina.formats import short_digest

_NOT_A_KEY = re.compile(r"[^a-zA-Z0-9_\-./ ]")
_NOT_A_NAME = re.compile(r"[^\w/ :.\-]")
_KEY_CHARS = 120
"""Of a series of images: its name is part of a file's, with a step, a time and a random number."""
_PARAM_CHARS, _DIGEST_CHARS = 6000, 32


def safe_name(name: str) -> str:
    """A parameter or metric name that MLflow accepts."""
    return _NOT_A_NAME.sub("_", name)


def image_key(name: str) -> str:
    """The key of a series of images as MLflow accepts it. What it cuts off or takes out, a digest makes up for."""
    key = _NOT_A_KEY.sub("_", name)
    if len(key) <= _KEY_CHARS and key == name:
        return key
    return f"{key[:_KEY_CHARS]} {hashlib.sha256(name.encode()).hexdigest()[:6]}"


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mapping -> dotted parameter names that MLflow accepts, values as text of at most 6000 characters."""
    flat: dict[str, str] = {}
    for key, child in value.items():
        name = f"{prefix}{key}"
        if isinstance(child, Mapping):
            flat |= flatten(child, f"{name}.")
        else:
            text = child if isinstance(child, str) else json.dumps(child, ensure_ascii=False)
            flat[safe_name(name)] = text if len(text) <= _PARAM_CHARS else f"{text[: _PARAM_CHARS - 1]}…"
    return flat


def dataset_digest(digest: str) -> str:
    """What MLflow has of a digest, to search for by `dataset.digest`: the first 32 hex digits; it takes 36 at most."""
    return short_digest(digest, _DIGEST_CHARS)
