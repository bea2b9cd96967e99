"""`lumina run` and `lumina plan`: the run itself, how it ended, and where things are."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from curation.control_characters import shown
from lumina.evaluation.selection import SELECTION_FILE
from lumina.parts import SOUND_FILE
from pipelines.commands.options import (
    ConfigArgument,
    Json,
    NameOption,
    Overrides,
    RecomputeOption,
    StoreOption,
    UntilOption,
    open_config,
    run_words,
    show,
)
from pipelines.errors import PipelineError, disk_problem
from pipelines.secrets import scrub
from pipelines.terminal import Text, command_line, log_to_terminal, make_console

if TYPE_CHECKING:
    from jobs.runtime import RuntimeConfig
    from pipelines.base_config import BaseConfig
    from pipelines.engine.events import RunSummary
    from pipelines.engine.stage import Pipeline
    from pipelines.engine.store.store import Store
    from pipelines.supervisor import Link
    from pipelines.tracking.tracker import Links


def run(
    config: ConfigArgument,
    override: Overrides = None,
    until: UntilOption = None,
    store: StoreOption = None,
    name: NameOption = None,
    recompute: RecomputeOption = None,
    continue_with: Annotated[str | None, typer.Option(hidden=True, help="What the user types to go on.")] = None,
    tag: Annotated[list[str] | None, typer.Option(hidden=True, help="KEY=VALUE, for its MLflow run.")] = None,
) -> int:
    """Run the pipeline; a second run does only what changed."""
    from pipelines.supervisor import supervise

    with supervise() as link:
        settings, opened = open_config(config, override, store, name)
        changes = [word for value in override or [] for word in ("-o", value)]
        given = [word for option, value in (("--store", store), ("--name", name)) if value for word in (option, value)]
        typed = ["lumina", "run", config, *changes, *given, *run_words(until, recompute)]
        command = continue_with or command_line(typed)
        tags = dict(one.split("=", 1) for one in tag or [])
        return _run(settings, opened, until, recompute or [], command, link, tags)


def plan(
    config: ConfigArgument,
    override: Overrides = None,
    until: UntilOption = None,
    store: StoreOption = None,
    as_json: Json = False,
) -> int:
    """Show what would run, and why. Exit code: 0 nothing to do, 2 work to do, 1 error.

    cached: its output is there. resume: unfinished work is. run: its config, inputs, weights or libraries changed.
    drift: nothing but its code did, and it is computed again. unknown: an input is not computed yet. blocked: it cannot
    run. --json has every difference, old and new.
    """
    from pipelines.dag import build
    from pipelines.engine.plan import plan as make_plan
    from pipelines.reports.tables import plan_view

    settings, opened = open_config(config, override, store)
    made = make_plan(build(settings).until(until), opened, drift=settings.drift_policy())
    show(as_json, made.as_dict, lambda: plan_view(made, opened.root))
    return made.exit_code


def _run(
    settings: BaseConfig,
    store: Store,
    until: str | None,
    recompute: Sequence[str],
    command: str,
    link: Link,
    tags: Mapping[str, str],
) -> int:
    """Run with a live display, and tell what came out; returns the exit code. `command` goes on with it."""
    from jobs import cluster
    from pipelines.dag import build
    from pipelines.engine import runner
    from pipelines.engine.events import Interrupted
    from pipelines.execution import JobExecutor
    from pipelines.reports.progress import RunDisplay
    from pipelines.reports.status import StatusFile, begin
    from pipelines.run_lock import lock_record, make_lock
    from pipelines.tracking.tracker import MlflowTracking
    from pipelines.tracking.uri import target, without_password

    pipeline, drift = build(settings), settings.drift_policy(recompute)
    drift.check(pipeline)
    wanted = pipeline.until(until)
    link.command(command)
    store.prepare(settings.min_free_gb)
    console = make_console()
    names = [stage.name for stage in wanted.order]
    screen = RunDisplay(console, names)
    # A handler that writes around the live table would tear it.
    log_to_terminal()
    lock = lock_record(make_lock(settings, command, store))
    run_id = runner.new_run_id()
    console.print(Text(f"Run {run_id} ({settings.name}), store {store.uri}", "dim"))
    tracked = target(store, settings.tracking_uri)
    console.print(Text(f"MLflow: {without_password(tracked.uri)} ({tracked.why})", "dim"), soft_wrap=True)
    upstream = {stage.name: list(stage.inputs.values()) for stage in wanted.order}
    status = begin(run_id, settings.name, names, upstream, command)
    try:
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
                tags=tags,
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
                    max_parallel=settings.runtime.max_parallel,
                    min_free_gb=settings.min_free_gb,
                    until=until,
                    drift=drift,
                    lock=lock,
                    halt=link.lost,
                )
            except Interrupted:
                if not link.lost.is_set():
                    link.leaving()
                tracking.close("KILLED", timeout_s=5)
                raise
            links = tracking.close("FINISHED" if summary.ok else "FAILED")
    except Interrupted as stopped:
        if link.lost.is_set():
            link.leave()
        _leave(console, stopped.summary, command)
    _finish(console, store, summary, links, command, settings.example_prompt(), cluster.logs(settings.runtime))
    link.leaving()
    if "ray" in sys.modules:
        cluster.shutdown()
    return 0 if summary.ok else 1


def _start_cluster(pipeline: Pipeline, store: Store, runtime: RuntimeConfig) -> str:
    """Bring up the cluster, and return the address of its page.

    Raises:
        PipelineError: it does not start, or can never run the stages. Ray would wait for ever, or fail late.
    """
    from curation.operator import load_operator
    from jobs import capacity, cluster

    jobs = {stage.entry.partition(":")[0] for stage in pipeline.stages}
    networks = any(
        load_operator(stage.operator).runs_network(stage.config) for stage in pipeline.stages if stage.operator
    )
    work = capacity.Work(
        "jobs.curate" in jobs,
        networks,
        bool({"jobs.train", "jobs.train_sound"} & jobs),
        bool({"jobs.evaluate", "jobs.evaluate_vbench", "jobs.evaluate_sound"} & jobs),
    )
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


def _leave(console: Console, summary: RunSummary, command: str) -> NoReturn:
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
    from pipelines.compare.runs import read_side
    from pipelines.reports.evaluations import comparison_view, read_evaluations
    from pipelines.reports.sounds import read_sounds, sounds_view
    from pipelines.reports.studies import read_studies, studies_view
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
        for outcome in summary.outcomes.values():
            if outcome.manifest is not None and outcome.name.partition("@")[0] in ("curation_page", "export"):
                store.fetch(outcome.manifest)
        side = read_side(store, record)
        evaluations = read_evaluations(side)
        if any(one.sources or one.final for one in evaluations):
            console.print(comparison_view(evaluations))
        if (sounds := read_sounds(side)).evaluations:
            console.print(sounds_view(sounds))
        if studies := read_studies(side):
            console.print(studies_view(studies))
    _where(console, store, summary, links, prompt)
    if not summary.ok:
        console.print(Text("What is done is kept. Once the cause is mended, the same command continues:", "bold"))
        console.print(f"  {command}", soft_wrap=True)


def _where(console: Console, store: Store, summary: RunSummary, links: Links, prompt: str) -> None:
    from pipelines.engine.store.run_record import run_key

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
        *(("sounds", path(name, "sounds")) for name in summary.outcomes if name.startswith("evaluate@")),
        ("choice", path("choose", SELECTION_FILE)),
        ("MLflow", links.uri),
        ("run", None if summary.unrecorded else store.objects.name(run_key(summary.run_id))),
        ("unwritten", links.buffer),
    ]
    for label, value in rows:
        if value:
            console.print(Text(f"{label:<11}", "bold").append(str(value), "default"), soft_wrap=True)
    counts = _counts(summary)
    sounds = any(path(name, "sounds") for name in summary.outcomes if name.startswith("evaluate@"))
    looks = {
        "compare": path("choose") or sounds,
        "report": path("choose") or sounds,
        "quarantine": any(key.startswith("quarantined/") for key in counts),
        "selection": any(key.startswith("filtered/") for key in counts),
        "track": links.buffer,
    }
    commands = [["lumina", look, summary.run_id, "--store", store.uri] for look, wanted in looks.items() if wanted]
    if exported := path("export"):
        if (exported / SOUND_FILE).is_file():
            words = ["sound", "clip.mp4", "--checkpoint", str(exported), "--out", "sounding.mp4"]
        else:
            words = ["generate", "--checkpoint", str(exported), "--prompt", prompt, "--out", "clip.mp4"]
        commands.insert(0, ["lumina", *words])
    console.print(Text("\nLook closer:", "bold"))
    for line in [*map(command_line, commands), *filter(None, [links.ui_command])]:
        console.print(f"  {line}", soft_wrap=True)
    for label, url in (
        ("this run", links.pipeline_url),
        ("conditions" if sounds else "system prompts", links.compare_url),
        ("sounds" if sounds else "clips", links.clips_url),
        ("checkpoint", links.model_url),
    ):
        if url:
            console.print(Text(f"    {f'{label}:':<17}{url}", "dim"), soft_wrap=True)


def _counts(summary: RunSummary) -> Mapping[str, int]:
    """How many clips were kept, and taken out by each rule."""
    selected = summary.outcomes.get("select")
    return selected.manifest.counts if selected and selected.manifest else {}


def _set_aside(summary: RunSummary) -> str:
    """How many clips each rule took out, and where the rows with their reasons are; empty when none were."""
    rules = [f"{number} {key.partition('/')[2]}" for key, number in sorted(_counts(summary).items()) if "/" in key]
    return f"{', '.join(rules)}; reasons in {summary.outcomes['select'].path}/data" if rules else ""
