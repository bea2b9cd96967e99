"""MLflow run of a sweep: a parent above the pipeline runs of its arms, with its page and what it came to.

It is made by the first of its runs that begins, so that they are nested while the sweep is at work; the sweep itself
writes to it once it has come to its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.engine.store.sweep_record import SweepRecord
from pipelines.tracking.mlflow_client import TrackerAwayError, answering, first_touch

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TAG_CHARS = 5000


def track_sweep(uri: str, store: str, record: SweepRecord, page: str, answer: str) -> tuple[str, ...]:
    """Put the runs of a sweep under one parent, made where there is none; returns those that MLflow does not have.

    Args:
        uri: tracking URI.
        store: where the sweep lies, which tells it from others of its name.
        record: how it stands.
        page: its HTML.
        answer: its headline, which becomes the description.

    Raises:
        TrackerAwayError: it cannot be asked, or takes no artifacts.
    """
    from pipelines.tracking.mlflow_runs import PIPELINES

    with answering(uri) as client:
        with first_touch(uri):
            experiment = client.get_experiment_by_name(PIPELINES)
        if experiment is None:
            raise TrackerAwayError(f"{uri} has no experiment {PIPELINES}")
        number = experiment.experiment_id
        parent = sweep_run(client, number, store, record.name)
        _unite(client, number, parent, _known(client, number, store, record.name)[1:])
        lacking = []
        for run in record.runs:
            found = [] if run.run is None else client.search_runs([number], _pipeline(run.run))
            if run.run is not None and not found:
                lacking.append(run.run)
            tags = {"mlflow.parentRunId": parent, "lumina.sweep": record.name, "lumina.arm": run.arm}
            tags |= {} if run.seed is None else {"lumina.seed": str(run.seed)}
            for one in found:
                for key, value in tags.items():
                    client.set_tag(one.info.run_id, key, value[:_TAG_CHARS])
        client.set_tag(parent, "lumina.config", record.config[:_TAG_CHARS])
        client.set_tag(parent, "mlflow.note.content", answer[:_TAG_CHARS])
        for name, figure in _figures(record).items():
            client.log_metric(parent, name, figure)
        client.log_text(parent, page, "sweep.html")
        client.log_text(parent, record.to_json(), "sweep.json")
        done = all(run.state == "done" for run in record.runs)
        client.set_terminated(parent, "FINISHED" if done else "FAILED")
    return tuple(lacking)


def _pipeline(run: str) -> str:
    return f"tags.`lumina.run` = '{run}' and tags.`lumina.kind` = 'pipeline'"


def sweep_run(client: MlflowClient, experiment: str, store: str, name: str) -> str:
    """Id of the run of a sweep, made where there is none."""
    if known := _known(client, experiment, store, name):
        return known[0]
    tags = {"lumina.kind": "sweep", "lumina.sweep": name, "lumina.store": store, "mlflow.source.name": "lumina sweep"}
    return str(client.create_run(experiment, tags=tags, run_name=f"{name} | sweep").info.run_id)


def _known(client: MlflowClient, experiment: str, store: str, name: str) -> list[str]:
    """The runs of a sweep, the oldest first: of two runs that begin at once, each may make one."""
    # A path may hold what a filter takes for its own.
    wanted = f"tags.`lumina.kind` = 'sweep' and tags.`lumina.sweep` = '{name}'"
    found = client.search_runs([experiment], wanted, order_by=["attributes.start_time ASC", "attributes.run_id ASC"])
    return [str(one.info.run_id) for one in found if one.data.tags.get("lumina.store") == store]


def _unite(client: MlflowClient, experiment: str, parent: str, others: Sequence[str]) -> None:
    """Put what is below other runs of the same sweep below one, and delete those."""
    for other in others:
        for child in client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{other}'"):
            client.set_tag(child.info.run_id, "mlflow.parentRunId", parent)
        client.delete_run(other)


def _figures(record: SweepRecord) -> Mapping[str, float]:
    """What can be plotted of a sweep."""
    found: Mapping[str, Any] = record.comparison or {}
    states = [run.state for run in record.runs]
    figures = {f"sweep/{state}": float(states.count(state)) for state in ("done", "failed")}
    if "arms" in found:
        best = "most_kept" if found["kind"] == "selection" else "best_score"
        figures[f"sweep/{best}"] = float(found["arms"][0]["score"]["value"])
        if found["noise"]:
            figures["sweep/seed_sd"] = float(found["noise"]["sd"])
    return figures
