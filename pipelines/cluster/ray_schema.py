"""The one door to the parts of Ray that validate a cluster file. They are private, and may move with any version."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import re
from pathlib import Path
from typing import Any

from pipelines.errors import PipelineError

_ABORTED = re.compile(r"^.* -- |\x1b\[\d+m")
"""What stands before Ray's words, and the colours in them."""


def ray_version() -> str:
    """The version of Ray that is installed here, and so the one that runs are made for."""
    import importlib.metadata

    return importlib.metadata.version("ray")


def launcher_schema() -> dict[str, Any]:
    """Ray's JSON schema of a cluster launcher's file.

    Raises:
        PipelineError: this version of Ray keeps it elsewhere.
    """
    try:
        import ray.autoscaler

        path = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ImportError, OSError, ValueError) as error:
        raise _moved("ray/autoscaler/ray-schema.json", error) from error
    return found


def prepare(data: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """What `ray up` makes of a file before it asks the cloud: the file with Ray's defaults.

    Returns:
        The prepared file, and what Ray says against it; the file as it is where Ray cannot even prepare it.

    Raises:
        PipelineError: this version of Ray has no such validators.
    """
    try:
        from ray.autoscaler._private.util import prepare_config, validate_config
    except ImportError as error:
        raise _moved("prepare_config and validate_config of ray.autoscaler._private.util", error) from error
    prepared = copy.deepcopy(data)
    told = io.StringIO()
    logging.getLogger("ray.autoscaler").setLevel(logging.WARNING)
    try:
        # It prints its errors, and raises one that says nothing.
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            prepared = prepare_config(prepared)
            validate_config(prepared)
    except Exception as error:  # noqa: BLE001  (whatever it raises is its verdict)
        words = (
            _ABORTED.sub("", " ".join(told.getvalue().split()))
            or str(error).strip().splitlines()[0]
            or type(error).__name__
        )
        return prepared, words
    return prepared, None


def _moved(what: str, error: Exception) -> PipelineError:
    return PipelineError(
        f"Ray {ray_version()} does not have {what} ({error}): `lumina cluster check` was made for the Ray of "
        "constraints.txt; install that one"
    )
