"""What `lumina run` shows and says: the run itself, how it ended, and where things are."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from pipelines.errors import PipelineError
from pipelines.reports.progress import make_console

if TYPE_CHECKING:
    from jobs.runtime import RuntimeConfig
    from pipelines.config import PipelineConfig
    from pipelines.dag.events import RunSummary
    from pipelines.dag.stage import Pipeline
    from pipelines.storage.store import Store
    from pipelines.tracking.tracker import Links


def run_pipeline(settings: PipelineConfig, store: Store, until: str | None, command: str) -> None:
    """Run with a live display, and tell what came out; typer.Exit(1) if a stage failed.

    `command` is what continues the run.
    """
    from jobs import cluster
    from pipelines.dag import runner
    from pipelines.dag.events import Interrupted
    from pipelines.reports.progress import RunDisplay
    from pipelines.rerun.lock import lock_record, make_lock
    from pipelines.text_to_video import build
    from pipelines.tracking.tracker import MlflowTracking

    pipeline = build(settings)
    store.prepare(settings.min_free_gb)
    console = make_console()
    display = RunDisplay(console, [stage.name for stage in pipeline.until(until).order])
    # A handler that writes around the live table would tear it.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    lock = lock_record(make_lock(settings, command, store))
    run_id = runner.new_run_id()
    console.print(Text(f"Run {run_id} ({settings.name}), store {store.root}", "dim"))
    with display:
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
                settings.runtime,
                name=settings.name,
                run_id=run_id,
                tracking=tracking,
                display=display,
                start_cluster=partial(_start_cluster, pipeline.until(until), store),
                min_free_gb=settings.min_free_gb,
                until=until,
                lock=lock,
            )
        except Interrupted as stopped:
            tracking.close("KILLED", timeout_s=5)
            display.__exit__(None, None, None)
            _leave(console, stopped.summary, command)
        links = tracking.close("FINISHED" if summary.ok else "FAILED")
    _finish(console, store, summary, links, command, settings.example_prompt())
    if "ray" in sys.modules:
        cluster.shutdown()
    if not summary.ok:
        raise typer.Exit(1)


def _start_cluster(pipeline: Pipeline, store: Store, runtime: RuntimeConfig) -> None:
    """Bring up the cluster; PipelineError if it can never run the stages: Ray would wait for ever, or fail late."""
    from jobs import capacity, cluster
    from jobs.curate import load_operator

    jobs = {stage.entry.partition(":")[0] for stage in pipeline.stages}
    networks = any(
        load_operator(stage.operator).runs_network(stage.config) for stage in pipeline.stages if stage.operator
    )
    work = capacity.Work("jobs.curate" in jobs, networks, "jobs.train" in jobs, "jobs.evaluate" in jobs)
    cluster.ensure(runtime)
    try:
        capacity.check(runtime, work)
    except capacity.CapacityError as error:
        raise PipelineError(str(error)) from error
    if runtime.ray_address is not None:
        with tempfile.NamedTemporaryFile(dir=store.root, prefix=".seen-") as marker:
            blind = cluster.blind_nodes(Path(marker.name))
        if blind:
            raise PipelineError(
                f"{', '.join(blind)} {'does' if len(blind) == 1 else 'do'} not see the store {store.root}: give one on "
                "a file system that all nodes mount at the same path"
            )


def _leave(console: Console, summary: RunSummary, command: str) -> None:
    """End at once: stage threads may still be waiting for Ray, which dies with this process."""
    from pipelines.reports.tables import summary_view

    console.print(summary_view(summary))
    console.print(Text("Stopped. Nothing is lost: the same command continues where it was:", "bold yellow"))
    console.print(f"  {command}", soft_wrap=True)
    sys.stdout.flush()
    os._exit(130)


def _finish(console: Console, store: Store, summary: RunSummary, links: Links, command: str, prompt: str) -> None:
    from pipelines.reports.tables import comparison_view, read_comparison, summary_view

    console.print(summary_view(summary))
    for outcome in summary.outcomes.values():
        if outcome.state == "failed":
            trace = store.root / "logs" / summary.run_id / f"{outcome.name}.log"
            trace.parent.mkdir(parents=True, exist_ok=True)
            trace.write_text(outcome.trace)
            console.print(Text(f"{outcome.name} failed: {outcome.error}", "bold red"), soft_wrap=True)
            console.print(f"  traceback: {trace}", soft_wrap=True)
            if "ray" in sys.modules:
                console.print("  Ray's logs: /tmp/ray/session_latest/logs", soft_wrap=True)
    comparison = read_comparison(store, store.get_run(summary.run_id))
    if comparison.sources or comparison.final:
        console.print(comparison_view(comparison))
    _where(console, store, summary, links, prompt)
    if not summary.ok:
        console.print(Text("What is done is kept. Once the cause is mended, the same command continues:", "bold"))
        console.print(f"  {command}", soft_wrap=True)


def _where(console: Console, store: Store, summary: RunSummary, links: Links, prompt: str) -> None:
    def path(stage: str, below: str = "") -> Path | None:
        outcome = summary.outcomes.get(stage)
        found = outcome.path / below if outcome and outcome.path else None
        return found if found and found.exists() else None

    rows: list[tuple[str, Any]] = [
        ("set aside", _set_aside(summary)),
        ("curation", path("curation_page", "curation.html")),
        ("checkpoint", path("export") or path("finetune")),
        ("clips", path("evaluate_final", "videos")),
        ("choice", path("choose", "selection.json")),
        ("MLflow", links.uri),
        ("run", store.root / "runs" / f"{summary.run_id}.json"),
        ("unwritten", links.buffer),
    ]
    for label, value in rows:
        if value:
            console.print(Text(f"{label:<11}", "bold").append(str(value), "default"), soft_wrap=True)
    commands = []
    if exported := path("export"):
        words = ["lumina", "generate", "--checkpoint", str(exported), "--prompt", prompt, "--out", "clip.mp4"]
        commands.append(shlex.join(words))
    if path("choose"):
        commands.append(shlex.join(["lumina", "compare", summary.run_id, "--store", str(store.root)]))
    selected = summary.outcomes.get("select")
    counts = selected.manifest.counts if selected and selected.manifest else {}
    for command, status in (("quarantine", "quarantined"), ("selection", "filtered")):
        if any(key.startswith(f"{status}/") for key in counts):
            commands.append(shlex.join(["lumina", command, summary.run_id, "--store", str(store.root)]))
    if links.ui_command:
        commands.append(links.ui_command)
    console.print(Text("\nLook closer:", "bold"))
    for command in commands:
        console.print(f"  {command}", soft_wrap=True)
    if links.pipeline_url:
        console.print(Text(f"    this run:        {links.pipeline_url}", "dim"), soft_wrap=True)
    if links.compare_url:
        console.print(Text(f"    system prompts:  {links.compare_url}", "dim"), soft_wrap=True)


def _set_aside(summary: RunSummary) -> str:
    """How many clips each rule took out, and where the rows with their reasons are; empty when none were."""
    selected = summary.outcomes.get("select")
    counts = selected.manifest.counts if selected and selected.manifest else {}
    rules = [f"{number} {key.partition('/')[2]}" for key, number in sorted(counts.items()) if "/" in key]
    return f"{', '.join(rules)}; reasons in {selected.path}/data" if selected and rules else ""
