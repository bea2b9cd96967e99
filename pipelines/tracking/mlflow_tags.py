"""MLflow tags of a pipeline run that has ended: read back, and added to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pipelines.tracking.mlflow_client import TrackerAwayError, answering

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def read_tags(uri: str, run: str, others: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
    """Tags of MLflow runs by their id: all stage runs of a pipeline run, and `others`; absent ones are left out.

    Args:
        uri: tracking URI.
        run: id of the pipeline run.
        others: ids of MLflow runs.

    Raises:
        TrackerAwayError: it cannot be asked.
    """
    with answering(uri) as client:
        from mlflow.exceptions import MlflowException

        stages = _runs_of(client, run, "tags.`lumina.kind` != 'pipeline'")
        found: dict[str, Mapping[str, str]] = {one.info.run_id: one.data.tags for one in stages}
        for other in sorted(set(others) - set(found)):
            try:
                found[other] = client.get_run(other).data.tags
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
    return found


def tag_pipeline_run(uri: str, run: str, tags: Mapping[str, str]) -> None:
    """Set tags on the parent run of a pipeline run.

    Args:
        uri: tracking URI.
        run: id of the pipeline run.
        tags: name -> value; values are cut to what MLflow takes.

    Raises:
        TrackerAwayError: it cannot be asked, or has no such run.
    """
    with answering(uri) as client:
        found = _runs_of(client, run, "tags.`lumina.kind` = 'pipeline'")
        for one in found:
            for key, value in tags.items():
                client.set_tag(one.info.run_id, key, value[:5000])
        if not found:
            raise TrackerAwayError(f"{uri} has no pipeline run {run}")


def _runs_of(client: MlflowClient, run: str, kind: str) -> list[Run]:
    """The MLflow runs of a pipeline run that are of a kind."""
    from pipelines.tracking.mlflow_runs import PIPELINES

    experiment = client.get_experiment_by_name(PIPELINES)
    wanted = f"tags.`lumina.run` = '{run}' and {kind}"
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id], wanted))
