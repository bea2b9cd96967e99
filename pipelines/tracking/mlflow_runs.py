"""MLflow runs of the two experiments: found by their tags, written to in batches, and ended, also for drivers that were
killed."""

from __future__ import annotations

import logging
import os
import shlex
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from pipelines.engine.store.lease import is_here, process_start, this_machine
from pipelines.tracking.mlflow_client import TrackerRefusedError, first_touch
from pipelines.tracking.uri import without_password

PIPELINES = "lumina-video/pipelines"
EVALS = "lumina-video/evals"
_TAG_CHARS = 5000


class MlflowRuns:
    """The runs of a tracking store.

    Args:
        uri: tracking URI.
        artifacts: where experiments that this makes keep artifacts, for a local database.

    Raises:
        TrackerRefusedError: an experiment was deleted.
    """

    def __init__(self, uri: str, artifacts: Path) -> None:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Events wait in a journal, and are tried again from there: MLflow's own patience would only hide an outage.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
        self.uri = uri
        with first_touch(uri):
            self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            self.pipelines, self.evals = (self._experiment(name, artifacts) for name in (PIPELINES, EVALS))

    def _experiment(self, name: str, artifacts: Path) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            self._check_active(found)
            return str(found.experiment_id)
        location = (artifacts / name.rpartition("/")[2]).as_uri() if self.uri.startswith("sqlite:") else None
        return str(self.client.create_experiment(name, artifact_location=location))

    def _check_active(self, experiment: Experiment) -> None:
        if experiment.lifecycle_stage == "deleted":
            restore = self.restore("experiments", experiment.experiment_id)
            raise TrackerRefusedError(f"experiment {experiment.name} was deleted; `{restore}` brings it back")

    def restore(self, kind: str, number: str) -> str:
        """The command that brings back what somebody deleted."""
        option = f"--{kind.removesuffix('s')}-id"
        return f"MLFLOW_TRACKING_URI={shlex.quote(without_password(self.uri))} mlflow {kind} restore {option} {number}"

    def deleted(self, runs: Iterable[str]) -> list[str]:
        """Which of some runs were deleted.

        Raises:
            TrackerRefusedError: a whole experiment was.
        """
        for experiment in (self.pipelines, self.evals):
            self._check_active(self.client.get_experiment(experiment))
        return [run for run in runs if self.client.get_run(run).info.lifecycle_stage == "deleted"]

    def find(self, experiment: str, **tags: str) -> list[Run]:
        """Runs with these tags, the newest first; keys without their `lumina.`."""
        wanted = " and ".join(f"tags.`lumina.{key}` = '{value}'" for key, value in tags.items())
        return list(self.client.search_runs([experiment], wanted))

    def is_gone(self, run: str) -> bool:
        """Whether there is no such run: another database came back."""
        try:
            self.client.get_run(run)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return True
        return False

    def log(
        self,
        run: str,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write to a run; the client sends no more at once than MLflow takes."""
        every = [Param(key, value) for key, value in (params or {}).items()]
        labels = [RunTag(key, value[:_TAG_CHARS]) for key, value in (tags or {}).items()]
        self.client.log_batch(run, metrics, every, labels)

    def close_orphans(self, but: str) -> None:
        """Mark the pipeline runs of killed drivers of this host as killed: nobody else will.

        Args:
            but: id of a pipeline run to leave: its driver may have left events, which know better how it ended.
        """
        host = f"tags.`lumina.host` = '{socket.gethostname()}'"
        for run in self.client.search_runs([self.pipelines], f"attributes.status = 'RUNNING' and {host}"):
            tags = run.data.tags
            # In a container of the same name, pids are others.
            here = tags.get("lumina.machine") == this_machine() and tags["lumina.run"] != but
            if here and process_start(int(tags["lumina.pid"])) != tags["lumina.process_start"]:
                self.kill_all(run.info.run_id)

    def close_attempts(self, attempts: Sequence[Run]) -> None:
        """Mark earlier attempts that still seem to run as killed: whoever begins one holds the lease of the stage.

        A driver that lost its lease on another host is most likely dead, and its runs are marked, too. Should it live,
        they take their true state when they end.
        """
        for run in attempts:
            if run.info.status != "RUNNING":
                continue
            parent = self.client.get_run(run.data.tags["mlflow.parentRunId"])
            tags = parent.data.tags
            if parent.info.lifecycle_stage == "deleted" or is_here(tags["lumina.host"], tags.get("lumina.machine", "")):
                self._kill(run.info.run_id)
            else:
                self.kill_all(parent.info.run_id)

    def kill_all(self, parent: str, at_ms: int | None = None) -> None:
        """End a pipeline run, and its stages that run, as KILLED."""
        child = f"attributes.status = 'RUNNING' and tags.`mlflow.parentRunId` = '{parent}'"
        for run in self.client.search_runs([self.pipelines], child):
            self._kill(run.info.run_id, at_ms)
        self._kill(parent, at_ms)

    def _kill(self, run: str, at_ms: int | None = None) -> None:
        self.client.set_tag(run, "lumina.state", "killed")
        self.client.set_terminated(run, "KILLED", at_ms)
