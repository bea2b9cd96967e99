"""Adds tags to the MLflow run of a pipeline run that has ended."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pipelines.tracking.mlflow_reader import REQUEST_S, TrackerAwayError, is_away

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def tag_pipeline_run(uri: str, run: str, tags: Mapping[str, str]) -> None:
    """Set tags on the parent run of a pipeline run.

    Args:
        uri: tracking URI.
        run: id of the pipeline run.
        tags: name -> value; values are cut to what MLflow takes.

    Raises:
        TrackerAwayError: it cannot be asked, or has no such run.
    """
    if reason := is_away(uri):
        raise TrackerAwayError(reason)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_S))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from pipelines.tracking.mlflow_writer import PIPELINES

    try:
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        experiment = client.get_experiment_by_name(PIPELINES)
        wanted = f"tags.`lumina.run` = '{run}' and tags.`lumina.kind` = 'pipeline'"
        found = client.search_runs([experiment.experiment_id], wanted) if experiment else []
        for one in found:
            for key, value in tags.items():
                client.set_tag(one.info.run_id, key, value[:5000])
    except MlflowException as error:
        raise TrackerAwayError(f"{uri}: {str(error).strip().splitlines()[0]}") from error
    if not found:
        raise TrackerAwayError(f"{uri} has no pipeline run {run}")
