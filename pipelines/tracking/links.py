"""Links to the pages of a run in MLflow's web page."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from pipelines.terminal import command_line

_LOCAL_UI = "http://127.0.0.1:5000"


@dataclass
class Found:
    """Ids that MLflow gave to a pipeline run and what belongs to it, as they become known."""

    pipelines: str = ""
    evals: str = ""
    """The two experiments."""
    parent: str = ""
    stages: dict[str, str] = field(default_factory=dict)
    evaluations: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Stage and evaluation by id: stages that run side by side end in any order."""
    shown: str = ""
    """The last of them that has clips or sounds beside its figures."""
    model: tuple[str, str] | None = None
    """Name and version of the checkpoint that was registered last."""


@dataclass(frozen=True)
class Links:
    """Where to look at what was tracked; an address is empty where there is nothing to see."""

    uri: str
    ui_command: str
    """Starts the web page for a local database; empty for a server that runs anyway."""
    pipeline_url: str
    compare_url: str
    """The evaluations of this run side by side, by name, where there are at least two."""
    model_url: str
    """The registered checkpoint that was made last."""
    clips_url: str
    """Files of the last evaluation that has any to play: its clips and a sheet of them, or its sounds."""
    buffer: Path | None
    """File with the events that are not written yet."""


def links(uri: str, found: Found, buffer: Path | None) -> Links:
    """Pages of a run.

    Args:
        uri: tracking URI.
        found: what MLflow has of it.
        buffer: see `Links`.
    """
    local = uri.startswith("sqlite:")
    base = f"{_LOCAL_UI if local else uri.rstrip('/')}/#"
    pipeline = compare = model = clips = ""
    if found.parent:
        pipeline = f"{base}/experiments/{found.pipelines}/runs/{found.parent}"
    if len(found.evaluations) > 1:
        # Experiment ids must be strings in this page's address.
        ids = sorted(found.evaluations, key=lambda run_id: found.evaluations[run_id])
        runs = quote(json.dumps(ids, separators=(",", ":")))
        compare = f"{base}/compare-runs?runs={runs}&experiments={quote(json.dumps([found.evals]))}"
    if found.model is not None:
        model = "{}/models/{}/versions/{}".format(base, quote(found.model[0], safe=""), found.model[1])
    if found.shown:
        clips = f"{base}/experiments/{found.evals}/runs/{found.shown}/artifacts"
    command = command_line(["mlflow", "ui", "--backend-store-uri", uri]) if local else ""
    return Links(uri, command, pipeline, compare, model, clips, buffer)
