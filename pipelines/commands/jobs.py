"""`lumina submit` and `lumina jobs`: runs as Ray jobs, which go on when the terminal is closed."""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lumina.formats import duration, short_digest
from pipelines.commands.options import (
    ConfigArgument,
    Json,
    NameOption,
    Overrides,
    RecomputeOption,
    StoreOption,
    UntilOption,
    add_commands,
    all_overrides,
    pairs,
    run_words,
)
from pipelines.errors import PipelineError
from pipelines.terminal import Text, command_line, json_text, make_console, make_table, plain

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from jobs.submit import Job

STOP_TIMEOUT_S = 180.0
"""The shipped clusters give a job two minutes to end by itself."""
_STYLES = {"SUCCEEDED": "green", "FAILED": "bold red", "STOPPED": "yellow", "RUNNING": "cyan", "PENDING": "dim"}

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="URL", help="Ray's dashboard, such as http://head:8265; else RAY_API_SERVER_ADDRESS."
    ),
]
JobArgument = Annotated[
    str | None, typer.Argument(metavar="[JOB]", help="Id of a job, or name of a run; the newest by default.")
]


def submit(
    config: ConfigArgument,
    address: AddressOption = None,
    override: Overrides = None,
    until: UntilOption = None,
    store: StoreOption = None,
    name: NameOption = None,
    recompute: RecomputeOption = None,
    python: Annotated[str, typer.Option(metavar="PATH", help="Interpreter on the cluster.")] = "python",
    cpus: Annotated[float, typer.Option(min=0, help="CPUs that the driver takes; it takes no GPU.")] = 1.0,
    resource: Annotated[
        list[str] | None, typer.Option(metavar="NAME=N", help="Custom resource of the driver's node; may be repeated.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Start another attempt even if one ended well.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the log until the job ends.")] = True,
) -> int:
    """Submit a run to a Ray cluster; submitted again, it attaches to the job that runs or reports the one that is done.

    Exit code: that of the run; 0 with --no-wait once the job is there.
    """
    from jobs.submit import Work, connect
    from jobs.submit import submit as send
    from pipelines.commands.package import make_package
    from pipelines.config import load_config

    overrides = all_overrides(override, name, store)
    settings = load_config(config, overrides)
    where = cluster_address(address)
    words = ["lumina", "submit", config, "--address", where, *(part for one in overrides for part in ("-o", one))]
    told = command_line([*words, *run_words(until, recompute)])
    console = make_console()
    resources = _resources(resource)
    with tempfile.TemporaryDirectory(prefix="lumina-submit-") as folder:
        package = make_package(settings, Path(folder), until, told, python, recompute or [])
        console.print(Text(f"The cluster has to see: {', '.join(package.shared)}", "dim"), soft_wrap=True)
        client = connect(where)
        work = Work(
            package.name,
            package.folder,
            package.command,
            {"MLFLOW_DISABLE_TELEMETRY": "true"},
            {
                **package.metadata,
                "cpus": f"{cpus:g}",
                **{f"resource.{key}": f"{value:g}" for key, value in resources.items()},
            },
            cpus,
            resources,
        )
        found = send(client, work, again)
    verb = {"started": "submitted", "attached": "is at it already", "reported": "has done it"}[found.action]
    console.print(Text(f"{found.job.id} {verb}", "bold"), soft_wrap=True)
    if found.action == "reported":
        console.print(_status_view(found.job))
        console.print(Text("--again starts another attempt; what is in the store is not computed again.", "dim"))
        return 0
    if found.action == "attached" and (lacks := _lacks(found.job, recompute or [])):
        console.print(Text(lacks, "yellow"), soft_wrap=True)
    if not wait:
        console.print("  " + command_line(["lumina", "jobs", "logs", found.job.id, "--address", where]), soft_wrap=True)
        return 0
    return follow_job(client, found.job, where)


def _lacks(job: Job, recompute: list[str]) -> str:
    """What is to be said of a job that was submitted without some of these words; empty if it has them all."""
    unsaid = sorted(set(recompute) - set(job.metadata.get("recompute", "").split()))
    if not unsaid:
        return ""
    return (
        f"It was submitted without {command_line(run_words(None, unsaid))}: what code_drift keeps stays as it is. "
        "Submit this again once the job has ended."
    )


def _resources(given: list[str] | None) -> dict[str, float]:
    found = pairs("--resource", given, "NAME=N, such as head=1")
    try:
        return {name: float(value) for name, value in found.items()}
    except ValueError as error:
        raise PipelineError(f"--resource takes NAME=N, such as head=1: {error}") from error


def cluster_address(given: str | None) -> str:
    """The dashboard that `--address` or the environment names; PipelineError if neither does."""
    found = given or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS", "")
    if not found.startswith("http"):
        raise PipelineError("no cluster is named: give --address http://head:8265, or set RAY_API_SERVER_ADDRESS to it")
    return found.rstrip("/")


def follow_job(client: JobSubmissionClient, job: Job, address: str) -> int:
    """Show a job's log until it ends; Ctrl-C leaves the job alone. Returns the exit code."""
    from jobs.submit import follow, wait_until_started

    console = make_console()
    try:
        started = wait_until_started(client, job, lambda text: console.print(Text(text, "yellow"), soft_wrap=True))
        ended = follow(client, started, lambda text: print(plain(text), end="", flush=True))
    except KeyboardInterrupt:
        console.print(Text("\nThe job goes on without you.", "bold yellow"))
        console.print(
            f"  {command_line(['lumina', 'jobs', 'logs', job.id, '--address', address])}    follows it again",
            soft_wrap=True,
        )
        console.print(
            f"  {command_line(['lumina', 'jobs', 'stop', job.id, '--address', address])}    ends it", soft_wrap=True
        )
        return 130
    console.print(_status_view(ended))
    return 0 if ended.state == "SUCCEEDED" else 1


def _status_view(job: Job) -> Text:
    text = Text(job.id, "bold").append("  ").append(job.state, _STYLES[job.state])
    if job.started_s:
        begun = datetime.fromtimestamp(job.started_s, UTC).isoformat(timespec="seconds")
        text.append(f"  started {begun}", "dim")
        if job.ended_s:
            text.append(f", took {duration(job.ended_s - job.started_s)}", "dim")
    commit = short_digest(job.metadata.get("commit") or "?")
    text.append(f"  store {job.metadata.get('store', '?')}, commit {commit}", "dim")
    if job.state in ("FAILED", "STOPPED") and job.message:
        text.append(f"\n  {job.message.splitlines()[0]}")
    return text


def list_jobs(address: AddressOption = None, as_json: Json = False) -> None:
    """Show the submitted runs, the newest first."""
    from jobs.submit import connect, jobs

    found = jobs(connect(cluster_address(address)))
    if as_json:
        typer.echo(json_text([_plain(job) for job in found]))
        return
    table = make_table("job", "state", "started (UTC)", "took")
    for job in found:
        begun = datetime.fromtimestamp(job.started_s, UTC).strftime("%Y-%m-%d %H:%M:%S") if job.started_s else "–"
        took = duration(job.ended_s - job.started_s) if job.started_s and job.ended_s else "–"
        table.add_row(job.id, Text(job.state, _STYLES[job.state]), begun, took)
    make_console().print(table if found else "No run was submitted to this cluster.")


def _plain(job: Job) -> dict[str, object]:
    return {**vars(job), "metadata": dict(job.metadata)}


def status(job: JobArgument = None, address: AddressOption = None, as_json: Json = False) -> int:
    """Show where a job stands, and what a waiting one waits for. Exit code: 0, or 1 for a job that failed."""
    from jobs.submit import connect, waits_for

    client = connect(cluster_address(address))
    found = _find(client, job)
    if as_json:
        typer.echo(json_text(_plain(found)))
    else:
        make_console().print(_status_view(found), soft_wrap=True)
        if found.state == "PENDING":
            make_console().print(Text(waits_for(client, found), "yellow"), soft_wrap=True)
    return 1 if found.state == "FAILED" else 0


def logs(
    job: JobArgument = None,
    address: AddressOption = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on until the job ends.")] = True,
) -> int:
    """Show a job's log from its start, and follow it; Ctrl-C leaves the job alone."""
    from jobs.submit import ENDED, connect

    where = cluster_address(address)
    client = connect(where)
    found = _find(client, job)
    if follow and found.state not in ENDED:
        return follow_job(client, found, where)
    typer.echo(plain(client.get_job_logs(found.id)), nl=False)
    return 0


def stop(job: JobArgument = None, address: AddressOption = None) -> None:
    """End a job: stages stop in good order, and what is done stays in the store."""
    from jobs.submit import ENDED, connect
    from jobs.submit import stop as end

    client = connect(cluster_address(address))
    found = _find(client, job)
    if found.state in ENDED:
        make_console().print(f"{found.id} has ended already: {found.state}")
        return
    make_console().print(_status_view(end(client, found, STOP_TIMEOUT_S)), soft_wrap=True)


def _find(client: JobSubmissionClient, name: str | None) -> Job:
    from jobs.submit import find, jobs

    if name is not None:
        return find(client, name)
    known = jobs(client)
    if not known:
        raise PipelineError("no run was submitted to this cluster; `lumina submit CONFIG` does it")
    return known[0]


app = typer.Typer(help="Runs that were submitted to a Ray cluster.", no_args_is_help=True)
add_commands(app, list=list_jobs, status=status, logs=logs, stop=stop)
