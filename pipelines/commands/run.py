"""What `lumina run` shows and says: the run itself, how it ended, and where things are."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from curation.control_characters import shown
from pipelines.commands.options import recompute_words
from pipelines.errors import PipelineError, disk_problem
from pipelines.secrets import scrub
from pipelines.terminal import Text, command_line, log_to_terminal, make_console

if TYPE_CHECKING:
    from jobs.runtime import RuntimeConfig
    from pipelines.config import PipelineConfig
    from pipelines.engine.events import RunSummary
    from pipelines.engine.stage import Pipeline
    from pipelines.engine.store.store import Store
    from pipelines.supervisor import Link
    from pipelines.tracking.tracker import Links


def run_pipeline(
    settings: PipelineConfig,
    store: Store,
    until: str | None,
    recompute: Sequence[str],
    words: Sequence[str],
    link: Link,
    continue_with: str | None = None,
) -> None:
    """Run with a live display, and tell what came out; typer.Exit(1) if a stage failed.

    Args:
        settings: the config.
        store: where outputs are.
        until: last stage that is wanted; None for all.
        recompute: stages that are computed again though only code has changed.
        words: config, overrides and options that name the same pipeline again.
        link: to who outlives this process.
        continue_with: what the user types to go on; by default the command itself.
    """
    from jobs import cluster
    from pipelines.engine import runner
    from pipelines.engine.events import Interrupted
    from pipelines.execution import JobExecutor
    from pipelines.reports.progress import RunDisplay
    from pipelines.reports.status import StatusFile, begin
    from pipelines.rerun.lock import lock_record, make_lock
    from pipelines.text_to_video import build
    from pipelines.tracking.tracker import MlflowTracking
    from pipelines.tracking.uri import target, without_password

    pipeline, drift = build(settings), settings.drift_policy(recompute)
    drift.check(pipeline)
    wanted = pipeline.until(until)
    typed = ["lumina", "run", *words, *(["--until", until] if until else []), *recompute_words(recompute)]
    command = continue_with or command_line(typed)
    link.command(command)
    store.prepare(settings.min_free_gb)
    console = make_console()
    screen = RunDisplay(console, [stage.name for stage in wanted.order])
    # A handler that writes around the live table would tear it.
    log_to_terminal()
    lock = lock_record(make_lock(settings, command, store))
    run_id = runner.new_run_id()
    console.print(Text(f"Run {run_id} ({settings.name}), store {store.uri}", "dim"))
    tracked = target(store, settings.tracking_uri)
    console.print(Text(f"MLflow: {without_password(tracked.uri)} ({tracked.why})", "dim"), soft_wrap=True)
    upstream = {stage.name: list(stage.inputs.values()) for stage in wanted.order}
    status = begin(run_id, settings.name, [stage.name for stage in wanted.order], upstream, command)
    with screen, StatusFile(screen, store, status) as display:

        def start_cluster() -> None:
            said = "starting Ray" if settings.runtime.ray_address is None else "connecting to Ray"
            display.note(said)
            with display.waiting_for(said):
                page = _start_cluster(wanted, store, settings.runtime)
                link.cluster(cluster.gcs_address(), cluster.servers(), str(cluster.logs(settings.runtime)))
            if page:
                display.link("Ray", page)
            if path := cluster.token_path():
                display.link("Ray's token", f"cat {path}")

        tracking = MlflowTracking(
            store,
            run_id,
            settings.name,
            config=settings.model_dump(mode="json"),
            uri=settings.tracking_uri,
            note=display.note,
        )
        try:
            summary = runner.run(
                pipeline,
                store,
                JobExecutor(settings.runtime),
                name=settings.name,
                run_id=run_id,
                tracking=tracking,
                display=display,
                start_cluster=start_cluster,
                min_free_gb=settings.min_free_gb,
                until=until,
                drift=drift,
                lock=lock,
                halt=link.lost,
            )
        except Interrupted as stopped:
            if not link.lost.is_set():
                link.leaving()
            tracking.close("KILLED", timeout_s=5)
            # Leaving ends the process at once.
            display.__exit__()
            screen.__exit__(None, None, None)
            if link.lost.is_set():
                link.leave()
            _leave(console, stopped.summary, command)
        links = tracking.close("FINISHED" if summary.ok else "FAILED")
    _finish(console, store, summary, links, command, settings.example_prompt(), cluster.logs(settings.runtime))
    link.leaving()
    if "ray" in sys.modules:
        cluster.shutdown()
    if not summary.ok:
        raise typer.Exit(1)


def _start_cluster(pipeline: Pipeline, store: Store, runtime: RuntimeConfig) -> str:
    """Bring up the cluster, and return the address of its page.

    Raises:
        PipelineError: it does not start, or can never run the stages. Ray would wait for ever, or fail late.
    """
    from jobs import capacity, cluster
    from jobs.curate import load_operator

    jobs = {stage.entry.partition(":")[0] for stage in pipeline.stages}
    networks = any(
        load_operator(stage.operator).runs_network(stage.config) for stage in pipeline.stages if stage.operator
    )
    work = capacity.Work("jobs.curate" in jobs, networks, "jobs.train" in jobs, "jobs.evaluate" in jobs)
    try:
        page = cluster.ensure(runtime)
        capacity.check(runtime, work)
    except (cluster.ClusterError, capacity.CapacityError) as error:
        raise PipelineError(str(error)) from error
    if runtime.ray_address is not None:
        with tempfile.NamedTemporaryFile(dir=store.root, prefix=".seen-") as marker:
            blind = cluster.blind_nodes(Path(marker.name))
        if blind:
            raise PipelineError(
                f"{', '.join(blind)} {'does' if len(blind) == 1 else 'do'} not see the store {store.root}: give one on "
                "a file system that all nodes mount at the same path"
            )
    return page


def _leave(console: Console, summary: RunSummary, command: str) -> None:
    """End at once: stage threads may still be waiting for Ray, which dies with this process."""
    from pipelines.reports.tables import summary_view

    console.print(summary_view(summary))
    console.print(Text("Stopped. Nothing is lost: the same command continues where it was:", "bold yellow"))
    console.print(f"  {command}", soft_wrap=True)
    sys.stdout.flush()
    os._exit(130)


def _finish(
    console: Console, store: Store, summary: RunSummary, links: Links, command: str, prompt: str, logs: Path
) -> None:
    from pipelines.diff.runs import read_side
    from pipelines.reports.evaluations import comparison_view, read_evaluations
    from pipelines.reports.tables import summary_view

    console.print(summary_view(summary))
    for outcome in summary.outcomes.values():
        if outcome.state == "failed":
            console.print(Text(f"{outcome.name} failed: {outcome.error}", "bold red"), soft_wrap=True)
            trace = store.root / "logs" / summary.run_id / f"{outcome.name}.log"
            try:
                trace.parent.mkdir(parents=True, exist_ok=True)
                trace.write_text(shown(scrub(outcome.trace)), encoding="utf-8")
                console.print(f"  traceback: {trace}", soft_wrap=True)
            except OSError as error:
                console.print(Text(f"  no traceback: {disk_problem(error, trace)}"), soft_wrap=True)
            if "ray" in sys.modules:
                console.print(f"  Ray's logs: {logs}", soft_wrap=True)
    if summary.unrecorded:
        console.print(Text(f"the run has no record: {summary.unrecorded}", "bold red"), soft_wrap=True)
    else:
        record = store.get_run(summary.run_id)
        store.fetch_run(record, ("curation_page", "export"))
        evaluations = read_evaluations(read_side(store, record))
        if any(one.sources or one.final for one in evaluations):
            console.print(comparison_view(evaluations))
    _where(console, store, summary, links, prompt)
    if not summary.ok:
        console.print(Text("What is done is kept. Once the cause is mended, the same command continues:", "bold"))
        console.print(f"  {command}", soft_wrap=True)


def _where(console: Console, store: Store, summary: RunSummary, links: Links, prompt: str) -> None:
    def path(stage: str, below: str = "") -> Path | None:
        outcome = summary.outcomes.get(stage)
        if outcome is None or outcome.path is None or outcome.manifest is None:
            return None
        # Of an output in a bucket there may be a part here.
        files = [outcome.path / file.path for file in outcome.manifest.files if file.path.startswith(below)]
        return outcome.path / below if files and all(file.is_file() for file in files) else None

    rows: list[tuple[str, Any]] = [
        ("set aside", _set_aside(summary)),
        ("curation", path("curation_page", "curation.html")),
        *(("checkpoint", path(name)) for name in summary.outcomes if name.startswith("export@")),
        ("checkpoint", path("export") or path("finetune")),
        ("clips", path("evaluate_final", "videos")),
        ("choice", path("choose", "selection.json")),
        ("MLflow", links.uri),
        ("run", None if summary.unrecorded else store.root / "runs" / f"{summary.run_id}.json"),
        ("unwritten", links.buffer),
    ]
    for label, value in rows:
        if value:
            console.print(Text(f"{label:<11}", "bold").append(str(value), "default"), soft_wrap=True)
    commands = []
    if exported := path("export"):
        words = ["lumina", "generate", "--checkpoint", str(exported), "--prompt", prompt, "--out", "clip.mp4"]
        commands.append(command_line(words))
    if path("choose"):
        commands.append(command_line(["lumina", "compare", summary.run_id, "--store", store.uri]))
        commands.append(command_line(["lumina", "report", summary.run_id, "--store", store.uri]))
    selected = summary.outcomes.get("select")
    counts = selected.manifest.counts if selected and selected.manifest else {}
    for command, status in (("quarantine", "quarantined"), ("selection", "filtered")):
        if any(key.startswith(f"{status}/") for key in counts):
            commands.append(command_line(["lumina", command, summary.run_id, "--store", store.uri]))
    if links.ui_command:
        commands.append(links.ui_command)
    if links.buffer:
        commands.append(command_line(["lumina", "track", summary.run_id, "--store", store.uri]))
    console.print(Text("\nLook closer:", "bold"))
    for command in commands:
        console.print(f"  {command}", soft_wrap=True)
    for label, url in (
        ("this run", links.pipeline_url),
        ("system prompts", links.compare_url),
        ("clips", links.clips_url),
        ("checkpoint", links.model_url),
    ):
        if url:
            console.print(Text(f"    {f'{label}:':<17}{url}", "dim"), soft_wrap=True)


def _set_aside(summary: RunSummary) -> str:
    """How many clips each rule took out, and where the rows with their reasons are; empty when none were."""
    selected = summary.outcomes.get("select")
    counts = selected.manifest.counts if selected and selected.manifest else {}
    rules = [f"{number} {key.partition('/')[2]}" for key, number in sorted(counts.items()) if "/" in key]
    return f"{', '.join(rules)}; reasons in {selected.path}/data" if selected and rules else ""
