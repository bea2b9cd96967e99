"""Links to the pages of a run in MLflow's web page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipelines.terminal import command_line

_LOCAL_UI = "http://127.0.0.1:5000"


@dataclass(frozen=True)
class Links:
    """Where to look at what was tracked; an address is empty where there is nothing to see."""

    uri: str
    ui_command: str
    """Starts the web page for a local database; empty for a server that runs anyway."""
    pipeline_url: str
    compare_url: str
    """The evaluations of this run side by side, where there are at least two."""
    model_url: str
    """The registered checkpoint that was made last."""
    clips_url: str
    """Files of the last evaluation: clips that play there, and a sheet of them."""
    buffer: Path | None
    """File with the events that are not written yet."""


def links(uri: str, found: Mapping[str, Any], buffer: Path | None) -> Links:
    """Pages of a run.

    Args:
        uri: tracking URI.
        found: what `MlflowWriter` learnt.
        buffer: see `Links`.
    """
    local = uri.startswith("sqlite:")
    base = f"{_LOCAL_UI if local else uri.rstrip('/')}/#"
    evaluations, experiment = found.get("evaluations", []), str(found.get("evals_experiment", ""))
    pipeline = compare = model = clips = ""
    if "parent" in found:
        pipeline = f"{base}/experiments/{found['pipelines_experiment']}/runs/{found['parent']}"
    if len(evaluations) > 1:
        # Experiment ids must be strings in this page's address.
        runs = quote(json.dumps(evaluations, separators=(",", ":")))
        compare = f"{base}/compare-runs?runs={runs}&experiments={quote(json.dumps([experiment]))}"
    if "model" in found:
        name, version = found["model"]
        model = f"{base}/models/{quote(name, safe='')}/versions/{version}"
    if evaluations:
        clips = f"{base}/experiments/{experiment}/runs/{evaluations[-1]}/artifacts"
    command = command_line(["mlflow", "ui", "--backend-store-uri", uri]) if local else ""
    return Links(uri, command, pipeline, compare, model, clips, buffer)
