"""Submission to a Ray cluster over HTTP: one job per piece of work and attempt.

The same work has the same name, so submitting it again attaches to the job that runs, reports the one that ended well,
and starts the next attempt after one that did not: what that one had done is in the store.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jobs import tokens

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

State = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED"]
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_PENDING_NOTE_S = 60.0
_BEGUN = "Running entrypoint for job"
"""What Ray writes into a job's log as it starts its command."""
_POLL_S = 1.0
_AWAY_S = 300.0
_STOP_PENDING_S = 5.0


class SubmissionError(RuntimeError):
    """The cluster cannot be reached, or refuses; the message says what to do."""


@dataclass(frozen=True)
class Work:
    """What is submitted."""

    name: str
    """Same work, same name: `lumina-<run>-<fingerprint>`."""
    package: Path
    """Directory that becomes the job's working directory."""
    command: str
    """What the job runs there, for a shell."""
    environment: Mapping[str, str]
    """Environment variables; they can be read by everybody who sees the cluster's pages."""
    metadata: Mapping[str, str]
    cpus: float = 1
    """That the driver takes; it never takes a GPU."""
    resources: Mapping[str, float] | None = None
    """Custom resources that the driver takes, to choose its node."""


@dataclass(frozen=True)
class Job:
    """One attempt at some work."""

    id: str
    state: State
    message: str
    started_s: float | None
    """Seconds since the epoch."""
    ended_s: float | None
    metadata: Mapping[str, str]

    @property
    def name(self) -> str:
        """The work's name."""
        return self.id.rpartition("-a")[0]

    @property
    def attempt(self) -> int:
        """Counted from 1."""
        return int(self.id.rpartition("-a")[2])


@dataclass(frozen=True)
class Submitted:
    """What came of a submission."""

    job: Job
    action: Literal["started", "attached", "reported"]


def connect(address: str) -> JobSubmissionClient:
    """A client for the cluster whose dashboard is at `address`, e.g. `http://head:8265`.

    Raises:
        SubmissionError: nothing answers there, or the cluster wants another token than the user has.
    """
    try:
        # Before Ray is imported, and reads it.
        tokens.show_to_clusters(os.environ)
    except tokens.TokenError as error:
        raise SubmissionError(str(error)) from error
    from ray.job_submission import JobSubmissionClient

    if not address.startswith(("http://", "https://")):
        raise SubmissionError(
            f"--address {address}: expected the address of Ray's dashboard, such as http://head-node:8265"
        )
    # They tell of each connection and upload otherwise, at a level of their own.
    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except Exception as error:
        raise _explained(address, error) from error


def _explained(address: str, error: Exception) -> SubmissionError:
    if "auth" in type(error).__name__.lower() or "token" in str(error).lower():
        return SubmissionError(f"{address} {tokens.refusal(os.environ)}")
    text = str(error).strip().splitlines()
    return SubmissionError(
        f"{address} does not answer as a Ray cluster ({type(error).__name__}: {text[0] if text else ''}); is its "
        "dashboard reachable from here, e.g. by `ray dashboard` or `kubectl port-forward`?"
    )


def jobs(client: JobSubmissionClient) -> list[Job]:
    """All jobs that were submitted by this module, the newest first."""
    found = [_job(one) for one in client.list_jobs() if re.fullmatch(r"lumina-.+-a\d+", one.submission_id or "")]
    return sorted(found, key=lambda job: (job.started_s or 0.0, job.id), reverse=True)


def find(client: JobSubmissionClient, name: str) -> Job:
    """A job by its id, or the newest attempt at the work of that name, or of that run.

    Raises:
        SubmissionError: there is none.
    """
    known = jobs(client)
    for job in known:
        if name in (job.id, job.name, job.metadata.get("run")):
            return job
    listed = ", ".join(job.id for job in known[:5]) or "none"
    raise SubmissionError(f"the cluster knows no job {name!r}; the newest are: {listed}")


def look(client: JobSubmissionClient, job: str) -> Job:
    """How the job with this id stands now; unlike `find` it has the cluster list no other jobs.

    Raises:
        SubmissionError: the cluster knows none, or no longer: its head was started anew.
    """
    try:
        return _job(client.get_job_info(job))
    except RuntimeError as error:
        if "status code 404" not in str(error):
            raise
        raise SubmissionError(f"the cluster knows no job {job!r}; `lumina jobs list` shows those it has") from error


def _job(found: JobDetails) -> Job:
    return Job(
        str(found.submission_id),
        found.status.value,
        (found.message or "").strip(),
        found.start_time and found.start_time / 1000,
        found.end_time and found.end_time / 1000,
        dict(found.metadata or {}),
    )


def submit(client: JobSubmissionClient, work: Work, again: bool = False) -> Submitted:
    """Start the work, or find the attempt that is at it already.

    Args:
        client: see `connect`.
        work: what is to be done.
        again: start another attempt even if one ended well.

    Raises:
        SubmissionError: the cluster refuses it.
    """
    while True:
        attempts = [job for job in jobs(client) if job.name == work.name]
        newest = max(attempts, key=lambda job: job.attempt, default=None)
        if newest is not None and newest.state not in ENDED:
            return Submitted(newest, "attached")
        if newest is not None and newest.state == "SUCCEEDED" and not again:
            return Submitted(newest, "reported")
        name = f"{work.name}-a{(newest.attempt if newest else 0) + 1}"
        try:
            client.submit_job(
                submission_id=name,
                entrypoint=work.command,
                runtime_env={"working_dir": str(work.package), "env_vars": dict(work.environment)},
                metadata={**work.metadata, "job_submission_id": name},
                entrypoint_num_cpus=work.cpus,
                entrypoint_resources=dict(work.resources or {}),
            )
        except Exception as error:
            # Somebody was quicker, or the answer was lost on its way: what the cluster holds decides.
            if any(job.id == name for job in jobs(client)):
                if "already exists" in str(error):
                    continue
            else:
                raise SubmissionError(f"the cluster refuses the job: {str(error).strip().splitlines()[-1]}") from error
        return Submitted(look(client, name), "started")


def wait_until_started(client: JobSubmissionClient, job: Job, note: Callable[[str], None]) -> Job:
    """Wait until a job's command runs or the job has ended; `note` is told once what it waits for when that takes a
    minute, and of a job that is called running for a minute without a command.
    """
    begun, told = time.monotonic(), False
    running: float | None = None
    while True:
        found = look(client, job.id)
        if found.state in ENDED or (found.state == "RUNNING" and _has_begun(client, job)):
            return found
        if found.state == "RUNNING":
            running = running or time.monotonic()
            if time.monotonic() - running > _PENDING_NOTE_S:
                # Ray's JobSupervisor has been seen to hang between the two.
                note(
                    f"{job.id} is called running, but Ray has not started its command: if its log stays empty, "
                    f"`lumina jobs stop {job.id}`, and submit again"
                )
                return found
        elif not told and time.monotonic() - begun > _PENDING_NOTE_S:
            note(waits_for(client, found))
            told = True
        time.sleep(_POLL_S)


def _has_begun(client: JobSubmissionClient, job: Job) -> bool:
    try:
        return _BEGUN in client.get_job_logs(job.id)
    except (OSError, RuntimeError):
        # `follow` has the patience for a cluster that is away, and tells of it.
        return True


def waits_for(client: JobSubmissionClient, job: Job) -> str:
    """What a pending job waits for: the resources that no node has, else the cluster's own words."""
    wanted = {"CPU": float(job.metadata.get("cpus", 1))}
    wanted |= {
        key.removeprefix("resource."): float(value)
        for key, value in job.metadata.items()
        if key.startswith("resource.")
    }
    nodes = _nodes(client)
    for name, amount in wanted.items():
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if most < amount:
            return (
                f"{job.id} waits for {amount:g} {name} on one node; the most that any of {len(nodes)} nodes has is "
                f"{most:g}"
            )
    return f"{job.id} waits: {job.message or 'the cluster does not say for what'}"


def _nodes(client: JobSubmissionClient) -> Sequence[Mapping[str, float]]:
    from ray.util.state import list_nodes

    found = list_nodes(address=client.get_address(), detail=True, filters=[("state", "=", "ALIVE")])
    return [dict(node.resources_total or {}) for node in found]


def follow(client: JobSubmissionClient, job: Job, write: Callable[[str], None]) -> Job:
    """Hand on the log of a job, from its start until it ends; a connection that breaks is made anew.

    Returns:
        The job as it ended.

    Raises:
        SubmissionError: the cluster stays away for minutes, or comes back without the job.
    """
    import aiohttp

    log = _Log(write)
    last_heard = time.monotonic()
    while True:
        try:
            asyncio.run(log.tail(client, job.id))
            found = look(client, job.id)
            if found.state in ENDED:
                # What came between the last part and the end.
                log.take(client.get_job_logs(job.id), 0)
                return found
            last_heard = time.monotonic()
        except SubmissionError:
            raise
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            if time.monotonic() - last_heard > _AWAY_S:
                raise SubmissionError(
                    f"the cluster does not answer any more ({error}); the job goes on without you, "
                    f"`lumina jobs logs {job.id}` follows it again"
                ) from error
        time.sleep(_POLL_S)


@dataclass
class _Log:
    """Hands on each character of a log once, however often it is read from its start."""

    write: Callable[[str], None]
    seen: int = 0

    async def tail(self, client: JobSubmissionClient, job: str) -> None:
        at = 0
        async for part in client.tail_job_logs(job):
            self.take(part, at)
            at += len(part)

    def take(self, part: str, at: int) -> None:
        """Take a part that begins at character `at`."""
        new = part[max(0, self.seen - at) :]
        if new:
            self.write(new)
            self.seen = at + len(part)


def stop(client: JobSubmissionClient, job: Job, timeout_s: float) -> Job:
    """Ask a job to end, and wait for it: stages give their leases back, and what is done stays.

    Raises:
        SubmissionError: it has not ended in time. Ray ends a job that waits for resources only once it gets them, or
            when it has waited for a quarter of an hour.
    """
    client.stop_job(job.id)
    deadline = time.monotonic() + timeout_s
    while (found := look(client, job.id)).state not in ENDED:
        waiting = found.state == "PENDING" and time.monotonic() > deadline - timeout_s + _STOP_PENDING_S
        if waiting:
            raise SubmissionError(
                f"{waits_for(client, found)}. It is told to end, and will when it gets that; else Ray gives it up "
                "after RAY_JOB_START_TIMEOUT_SECONDS (900)"
            )
        if time.monotonic() > deadline:
            raise SubmissionError(f"{job.id} is still {found.state} after {timeout_s:g} s; `lumina jobs status` tells")
        time.sleep(_POLL_S)
    return found
