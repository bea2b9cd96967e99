"""The command line. Heavy imports stand inside the commands that need them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from pipelines.errors import PipelineError
from pipelines.progress import make_console

if TYPE_CHECKING:
    from pipelines.config import PipelineConfig
    from pipelines.store import Store

app = typer.Typer(
    help="Raw clips to a fine-tuned text-to-video checkpoint in one DAG.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="Path of a YAML file, or `demo`, `folder`, ...")]
Overrides = Annotated[
    list[str] | None, typer.Option("-o", "--override", metavar="KEY=VALUE", help="Change a setting; may be repeated.")
]
StoreOption = Annotated[str | None, typer.Option("--store", metavar="PATH", help="Where outputs are kept.")]
UntilOption = Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage and what it needs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def run(
    config: ConfigArgument,
    override: Overrides = None,
    until: UntilOption = None,
    store: StoreOption = None,
    name: Annotated[str | None, typer.Option(metavar="RUN", help="Name of the run.")] = None,
    debug: Debug = False,
) -> None:
    """Run the pipeline; a second run does only what changed."""
    with _one_line_errors(debug):
        from pipelines.run_command import run_pipeline

        settings, opened = _open(config, override, store, name)
        run_pipeline(settings, opened, until, _command(config, override, until, store, name))


@app.command()
def plan(
    config: ConfigArgument,
    override: Overrides = None,
    store: StoreOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what would run, and why. Exit code: 0 nothing to do, 2 work to do, 1 error."""
    with _one_line_errors(debug):
        from pipelines.plan import plan as make_plan
        from pipelines.tables import plan_view
        from pipelines.text_to_video import build

        settings, opened = _open(config, override, store, None)
        made = make_plan(build(settings), opened)
        if as_json:
            typer.echo(json.dumps(made.as_dict(), indent=1))
        else:
            make_console().print(plan_view(made))
    raise typer.Exit(made.exit_code)


@app.command()
def compare(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Name or id; the newest by default.")] = None,
    store: StoreOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the system prompts of a run side by side, the choice, and the fine-tuned model."""
    with _one_line_errors(debug):
        from pipelines.store import Store
        from pipelines.tables import comparison_view, read_comparison

        opened = Store(store or _default_store())
        record = opened.get_run(run)
        comparison = read_comparison(opened, record)
        if as_json:
            typer.echo(json.dumps({"run": record["run"], **comparison.as_dict()}, indent=1, ensure_ascii=False))
            return
        console = make_console()
        console.print(Text(f"Run {record['run']} ({record['name']}, {record['started']})", "dim"))
        console.print(comparison_view(comparison))


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Name or id of a run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Name or id of the run to compare it with.")],
    store: StoreOption = None,
    other_store: Annotated[
        str | None, typer.Option(metavar="PATH", help="Where the outputs of B are kept, if elsewhere.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with curves and clips too.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what differs between two runs; the first line is the answer.

    Exit code: 0 equal, 3 the same digests but another recipe or figure, 4 different, 1 error.
    """
    with _one_line_errors(debug):
        from pipelines.diff_command import compare_runs
        from pipelines.store import Store

        first = Store(store or _default_store())
        exit_code = compare_runs((first, a), (Store(other_store) if other_store else first, b), html, as_json)
    raise typer.Exit(exit_code)


@app.command()
def selection(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Name or id; the newest by default.")] = None,
    other: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="Run to compare with; the one before by default.")
    ] = None,
    store: StoreOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what each rule of the selection removed of each source, and what another policy changed."""
    with _one_line_errors(debug):
        from pipelines import selection_report as report
        from pipelines.selection_tables import difference_view, selection_view
        from pipelines.store import Store

        opened = Store(store or _default_store())
        record = opened.get_run(run)
        before = report.previous(opened, record) if other is None else opened.get_run(other)
        found = report.read_selection(opened, record)
        difference = report.read_difference(opened, before, record) if before else None
        if as_json:
            content = {"selection": report.as_dict(found), "difference": difference and report.as_dict(difference)}
            typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
            return
        console = make_console()
        console.print(selection_view(found, console.width))
        if difference is None:
            console.print(Text(f"No earlier selection of {record['name']} to compare with.", "dim"))
        else:
            console.print(difference_view(difference, console.width))


@app.command()
def quarantine(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Name or id; the newest by default.")] = None,
    store: StoreOption = None,
    filtered_too: Annotated[bool, typer.Option("--all", help="Count filtered clips too.")] = False,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one row per clip that was set aside.")] = None,
    retry: Annotated[
        str | None, typer.Option(metavar="REASON", help="Put clips back: the next run tries them once more.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show which clips a run set aside, at which stage and why, and how to look at one."""
    with _one_line_errors(debug):
        from pipelines.quarantine import put_back, quarantine_view, read_quarantine, write_csv
        from pipelines.store import Store

        opened = Store(store or _default_store())
        if retry is not None:
            for stage, count in put_back(opened, opened.get_run(run), retry).items():
                make_console().print(f"{stage}: {count:,} clips are put back; the next `lumina run` tries them again")
            return
        found = read_quarantine(opened, opened.get_run(run), filtered_too)
        if csv is not None:
            write_csv(found.clips, csv)
        if as_json:
            written = {"csv": str(csv.resolve())} if csv else {}
            typer.echo(json.dumps(found.as_dict() | written, indent=1, ensure_ascii=False))
            return
        console = make_console()
        console.print(quarantine_view(found), crop=False)  # a command is whole, or of no use
        if csv is not None:
            console.print(f"{len(found.clips):,} rows in {csv.resolve()}", soft_wrap=True)
        elif found.clips:
            console.print(Text("--csv FILE writes them all.", "dim"))


@app.command()
def verify(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Name or id; the newest by default.")] = None,
    store: StoreOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Hash every file; compute content digests again.")] = False,
    rows: Annotated[bool, typer.Option("--rows", help="Read all rows, and name those that are wrong.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check that a run's outputs are what it left; nothing is executed. Exit code: 0 intact, 4 not, 1 error."""
    with _one_line_errors(debug):
        from pipelines.store import Store
        from pipelines.verify import verify as check
        from pipelines.verify_view import verification_view

        found = check(Store(store or _default_store()), run, deep, rows)
        if as_json:
            typer.echo(json.dumps(found.as_dict(), indent=1, ensure_ascii=False))
        else:
            make_console().print(verification_view(found))
    raise typer.Exit(found.exit_code)


@app.command()
def gc(
    store: StoreOption = None,
    keep_runs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Keep the newest N runs of every name.", show_default="1")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Instead: keep all runs that are younger.")
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(metavar="RUN", help="Keep this one too; may be repeated.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this nothing is removed.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Remove the outputs that no kept run needs, and abandoned attempts; shows what would go unless --yes is given.

    The newest run of every name is always kept, and the newest whole one: complete, and without --until.
    """
    with _one_line_errors(debug):
        from pipelines.gc import Policy, collect, find_garbage
        from pipelines.gc_view import collection_view
        from pipelines.store import Store

        if keep_runs is not None and older_than is not None:
            raise PipelineError("--keep-runs and --older-than are two rules for the same thing: give one of them")
        opened = Store(store or _default_store())
        policy = Policy(keep_runs or 1, older_than, tuple(keep or ()))
        if not (opened.root / "stages").is_dir():
            raise PipelineError(f"store {opened.root} holds no outputs; give another with --store")
        found = collect(opened, policy) if yes else find_garbage(opened, policy)
        if as_json:
            typer.echo(json.dumps({"removed": yes, **found.as_dict()}, indent=1, ensure_ascii=False))
        else:
            make_console().print(collection_view(found, removed=yes))


@app.command()
def probe(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A video or an image: a path, or a URI as in a manifest.")
    ],
    debug: Debug = False,
) -> None:
    """Show what a run would find in one file, or why it would quarantine it."""
    with _one_line_errors(debug):
        from pipelines.probe_file import probe_view

        make_console().print(probe_view(file))


@app.command()
def generate(
    checkpoint: Annotated[str, typer.Option(metavar="DIR", help="Exported checkpoint directory, or a hub id.")],
    prompt: Annotated[list[str], typer.Option(metavar="TEXT", help="What the clip shows; may be repeated.")],
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose system prompt; the exported default otherwise.")
    ] = None,
    negative_prompt: Annotated[str, typer.Option(metavar="TEXT", help="What to stay away from.")] = "",
    seed: Annotated[int, typer.Option(help="The same seed gives the same frames.")] = 0,
    motion: Annotated[float | None, typer.Option(min=0, help="Motion score to ask for.")] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Released sampling settings, e.g. f16F64R512-MultiScale.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels, e.g. 672x384.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="1, or a multiple of 4 from 8 on.")] = None,
    fps: Annotated[float | None, typer.Option(min=1, help="Frame rate of the file.")] = None,
    tiling: Annotated[bool, typer.Option("--tiling", help="Decode in tiles: less memory for large frames.")] = False,
    out: Annotated[
        Path, typer.Option(metavar="FILE.mp4", help="H.264 file to write; several prompts give FILE-1.mp4, ...")
    ] = Path("out.mp4"),
    debug: Debug = False,
) -> None:
    """Generate clips from texts."""
    with _one_line_errors(debug):
        if out.suffix.lower() != ".mp4":
            raise PipelineError(f"--out {out}: expected a file name that ends in .mp4")
        if not Path(checkpoint).is_dir() and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", checkpoint):
            raise PipelineError(
                f"--checkpoint {checkpoint}: no such directory, and no hub id (owner/name); `lumina run` prints where "
                "it exported one"
            )
        width, height = _size(size) if size else (None, None)
        settings = {
            "source": source,
            "seed": seed,
            "motion": motion,
            "negative_prompt": negative_prompt,
            "num_frames": frames,
            "width": width,
            "height": height,
            "fps": fps,
        }
        from pipelines.generate_command import generate_clips

        generate_clips(checkpoint, prompt, settings, preset, steps, tiling, out)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Released directory or `consolidated` file; with --back one of ours.")],
    out: Annotated[Path, typer.Argument(help="Directory to write; it must not exist.")],
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="Shape of the model: 2B_GQA or 2B.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Shape of the model, from JSON.")] = None,
    ema: Annotated[bool, typer.Option("--ema", help="The averaged weights.")] = False,
    back: Annotated[bool, typer.Option("--back", help="From our layout to the released one.")] = False,
    debug: Debug = False,
) -> None:
    """Convert transformer weights between the released layout and ours; numbers and types stay as they are."""
    with _one_line_errors(debug):
        from lumina import checkpoints, released

        if back:
            shape, weights = checkpoints.load_config(source), checkpoints.load_weights(source)
            released.write_released(shape, weights, out, ema=ema)
            digest = checkpoints.digest({"weights": weights})
        else:
            shape = released.find_config(source, preset, config)
            weights = released.read_released(source, shape, ema=ema)
            digest = checkpoints.save_weights(shape, weights, out)
        count = sum(value.numel() for value in weights.values())
        make_console().print(f"{out}: {count:,} parameters in {len(weights)} tensors, {digest}", soft_wrap=True)


@app.command()
def cost(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="Path of a YAML file, `demo`, `folder`, or a model: 2B_GQA, 2B.")
    ],
    override: Overrides = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels of the clip that is counted.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Its frames.")] = None,
    text_tokens: Annotated[int, typer.Option(min=1, help="Tokens of its text, system prompt included.")] = 256,
    cluster: Annotated[
        str | None, typer.Option(metavar="NxGPU", help="Plan the training on these GPUs, e.g. 32xH100.")
    ] = None,
    utilisation: Annotated[
        float | None, typer.Option(help="Share of their peak that training reaches.", show_default="0.4 with --cluster")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show tokens, operations and bytes per scale, sampling schedule and training task.

    With --cluster it plans the training: GPU-hours, bytes read and written and memory per GPU, by stage.
    """
    with _one_line_errors(debug):
        from lumina.hardware import parse_cluster
        from lumina.models.config import RELEASED_MODELS

        gpus = parse_cluster(cluster) if cluster else None
        if utilisation is not None and (gpus is None or not 0 < utilisation <= 1):
            raise PipelineError(
                f"--utilisation {utilisation:g}: expected a share of the peak of --cluster, such as 0.4"
            )
        from pipelines import cluster_report, cost_report
        from pipelines.config import load_config

        width, height = _size(size) if size else (None, None)
        if config in RELEASED_MODELS:
            if override:
                raise PipelineError(f"{config} is a released model, which has no settings to override")
            if gpus:
                raise PipelineError(
                    f"{config} is a model, which names no training: try lumina cost paper --cluster ..."
                )
            clip = cost_report.Clip(width or 672, height or 384, frames or 64)
            made = cost_report.of_released(RELEASED_MODELS[config], clip, text_tokens)
            planned = None
        else:
            workers = [f"runtime.train_workers={gpus.count}"] if gpus else []
            settings = load_config(config, [*(override or []), *workers], needs_clips=False)
            export = settings.export
            clip = cost_report.Clip(width or export.width, height or export.height, frames or export.num_frames)
            made = cost_report.of_pipeline(settings, clip, text_tokens)
            planned = cluster_report.on_cluster(settings, gpus, utilisation or 0.4, text_tokens) if gpus else None
        if as_json:
            content = cost_report.as_dict(made) | ({"cluster": cluster_report.as_dict(planned)} if planned else {})
            typer.echo(json.dumps(content, indent=1))
            return
        console = make_console()
        console.print(cost_report.cost_view(made, sampling=planned is None))
        if planned:
            console.print(cluster_report.cluster_view(planned), crop=False)


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise PipelineError(f"size {text!r}: expected WIDTHxHEIGHT in pixels, such as 672x384")
    return int(width), int(height)


def main() -> None:
    """Entry point of the console script."""
    app()


def _open(config: str, override: list[str] | None, store: str | None, name: str | None) -> tuple[PipelineConfig, Store]:
    from pipelines.config import load_config
    from pipelines.store import Store

    overrides = [*(override or []), *([f"name={name}"] if name else []), *([f"store={store}"] if store else [])]
    settings = load_config(config, overrides)
    return settings, Store(settings.store)


def _default_store() -> str:
    from pipelines.config import PipelineConfig

    return str(PipelineConfig.model_fields["store"].default)


def _command(config: str, override: list[str] | None, until: str | None, store: str | None, name: str | None) -> str:
    options = [item for value in override or [] for item in ("-o", value)]
    for flag, value in (("--until", until), ("--store", store), ("--name", name)):
        options += [flag, value] if value else []
    return shlex.join(["lumina", "run", config, *options])


@contextmanager
def _one_line_errors(debug: bool) -> Iterator[None]:
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if debug:
            raise
        # Ours say what to do; of what nobody foresaw the class may be all there is.
        ours = isinstance(error, PipelineError | FileNotFoundError) or type(error) is ValueError
        message = str(error) if ours else f"{type(error).__name__}: {error}"
        make_console(stderr=True).print(Text(f"error: {message}", "bold red"), soft_wrap=True)
        raise typer.Exit(1) from error
