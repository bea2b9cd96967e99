"""The command line: every command, and the module that has it. Heavy imports stand inside the commands."""

from __future__ import annotations

import sys
import traceback

import typer

from pipelines.commands import cluster, jobs
from pipelines.commands.assemble import assemble
from pipelines.commands.av_benchmark import av_benchmark
from pipelines.commands.export_data import export_data
from pipelines.commands.gc import gc
from pipelines.commands.generate import generate
from pipelines.commands.models import convert, cost
from pipelines.commands.options import add_commands
from pipelines.commands.probe_file import probe
from pipelines.commands.rerun import rerun
from pipelines.commands.run import plan, run
from pipelines.commands.runs import compare, diff, quarantine, report, selection, verify
from pipelines.commands.serve import serve
from pipelines.commands.sound import sound
from pipelines.commands.status import status
from pipelines.commands.study import study
from pipelines.commands.sweep import sweep
from pipelines.commands.track import track
from pipelines.commands.vbench import vbench
from pipelines.terminal import log_to_terminal, plain

app = typer.Typer(
    help="Raw clips to a fine-tuned text-to-video checkpoint in one DAG.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
add_commands(
    app,
    run=run,
    plan=plan,
    sweep=sweep,
    compare=compare,
    diff=diff,
    selection=selection,
    quarantine=quarantine,
    verify=verify,
    gc=gc,
    report=report,
    rerun=rerun,
    status=status,
    submit=jobs.submit,
    track=track,
    probe=probe,
    generate=generate,
    sound=sound,
    vbench=vbench,
    study=study,
    serve=serve,
    convert=convert,
    assemble=assemble,
    cost=cost,
    **{"av-benchmark": av_benchmark},
)
add_commands(app, **{"export-data": export_data})
app.add_typer(jobs.app, name="jobs")
app.add_typer(cluster.app, name="cluster")


def main() -> None:
    """Entry point of the console script."""
    log_to_terminal()
    try:
        app()
    except Exception:  # noqa: BLE001  (--debug, or what nobody foresaw; its text is anybody's)
        sys.stderr.write(plain(traceback.format_exc()))
        sys.exit(1)
