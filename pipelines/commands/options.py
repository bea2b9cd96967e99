"""Options that commands share, and how each is registered: with `--debug`, and one line for whatever goes wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from lumina.hub import PREFIX, hub_model, no_folder
from lumina.models.config import AttentionKernel
from lumina.offload import OffloadSetting
from lumina.precision import Precision
from pipelines.errors import PipelineError
from pipelines.git import PACKAGES
from pipelines.terminal import Text, json_text, make_console

if TYPE_CHECKING:
    from pipelines.base_config import BaseConfig
    from pipelines.engine.store.store import Store

ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="Path of a YAML file, or `demo`, `folder`, ...")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--override",
        metavar="KEY=VALUE",
        help="Change a setting; may be repeated. Text is taken as it is, the rest as YAML.",
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="WHERE", help="Where outputs are kept: a directory, s3://... or gs://..."),
]
RunArgument = Annotated[str | None, typer.Argument(metavar="[RUN]", help="Name or id; the newest by default.")]
NameOption = Annotated[str | None, typer.Option(metavar="RUN", help="Name of the run.")]
UntilOption = Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage and what it needs.")]
RecomputeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--recompute",
        metavar="STAGE",
        help="Compute this stage again where only its code has changed, whatever code_drift says; may be repeated; "
        "`all` for every one.",
    ),
]
AdapterOption = Annotated[
    str | None,
    typer.Option("--adapter", metavar="DIR", help="LoRA adapter to add, as peft saves it, or hf:owner/name."),
]
AdapterScaleOption = Annotated[
    float | None, typer.Option("--adapter-scale", help="How much of the adapter is added.", show_default="1")
]
SoundOption = Annotated[
    str | None,
    typer.Option(
        "--sound",
        metavar="DIR",
        help="Video-to-audio checkpoint, as exported, or hf:owner/name: each clip gets a sound, and a .wav beside it.",
    ),
]
PromptSourceOption = Annotated[
    str | None, typer.Option("--source", metavar="NAME", help="Whose system prompt; the exported default otherwise.")
]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", help="Released sampling settings, e.g. f16F64R512-MultiScale."),
]
StepsOption = Annotated[int | None, typer.Option("--steps", min=1, help="Sampling steps.")]
FramesOption = Annotated[int | None, typer.Option("--frames", min=1, help="1, or a multiple of 4 from 8 on.")]
DtypeOption = Annotated[
    Precision, typer.Option("--dtype", help="Type in which the networks compute; auto is bfloat16 on a GPU.")
]
AttentionOption = Annotated[AttentionKernel, typer.Option("--attention", help="Kernel of attention on a GPU.")]
TilingOption = Annotated[
    bool | None,
    typer.Option("--tiling/--no-tiling", help="Decode in tiles; on a GPU where whole frames do not fit otherwise."),
]
OffloadOption = Annotated[
    OffloadSetting,
    typer.Option(
        "--offload",
        help="What waits on the CPU: the text encoder, or each network (model); auto is what fits a GPU.",
    ),
]
JobAddressOption = Annotated[
    str | None, typer.Option("--ray-address", hidden=True, help="Of the cluster that this job is of.")
]
TypedOption = Annotated[str, typer.Option("--typed", hidden=True, help="What the user types to go on.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def all_overrides(override: list[str] | None, name: str | None, store: str | None) -> list[str]:
    """What a command changes of its config: `-o` in the order given, then `--name` and `--store`, which win."""
    return [*(override or []), *([f"name={name}"] if name else []), *([f"store={store}"] if store else [])]


def run_words(until: str | None, recompute: Sequence[str] | None) -> list[str]:
    """`--until` and `--recompute` as they are typed."""
    stages = (word for stage in recompute or () for word in ("--recompute", stage))
    return [*(["--until", until] if until else []), *stages]


def pairs(option: str, given: Sequence[str] | None, example: str) -> dict[str, str]:
    """Names and values of an option that takes NAME=VALUE and may be repeated."""
    found = {}
    for one in given or ():
        name, _, value = one.partition("=")
        if not name or not value:
            raise PipelineError(f"{option} {one}: expected {example}")
        found[name] = value
    return found


def width_and_height(text: str) -> tuple[int, int]:
    """The two numbers of `672x384`."""
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise PipelineError(f"size {text!r}: expected WIDTHxHEIGHT in pixels, such as 672x384")
    return int(width), int(height)


def check_checkpoint(option: str, text: str) -> None:
    """Check that a text names a directory, or a model that the hub's cache may have; `option` is what gave it."""
    model = hub_model(text)
    named = model is not None and (text.startswith(PREFIX) or model.snapshot is not None)
    if not Path(text).is_dir() and not named:
        raise PipelineError(f"{option} {no_folder(text)}; `lumina run` prints where it exported one")


def check_seen_by_all(named: Mapping[str, str | None]) -> None:
    """Check that no path is relative, which would be another one on the nodes of a cluster; by what gave it."""
    for option, value in named.items():
        if value and not value.startswith(PREFIX) and not Path(value).is_absolute():
            raise PipelineError(
                f"{option} {value} is relative: name an absolute path that all nodes of the cluster see"
            )


def check_adapter(adapter: str | None, scale: float | None) -> None:
    """Check that a scale is of an adapter."""
    if scale is not None and adapter is None:
        raise PipelineError(f"--adapter-scale {scale:g}: it is of an adapter, and --adapter names none")


def open_store(where: str | None) -> Store:
    """The store at a place, or where outputs are kept unless a config says otherwise."""
    from pipelines.engine.store import open_store as stores

    if where is None:
        from pipelines.base_config import BaseConfig

        where = str(BaseConfig.model_fields["store"].default)
    return stores.open_store(where)


def open_config(
    config: str, override: list[str] | None, store: str | None, name: str | None = None
) -> tuple[BaseConfig, Store]:
    """A config, and the store that it names."""
    from pipelines.config import load_config
    from pipelines.engine.store import open_store as stores

    settings = load_config(config, all_overrides(override, name, store))
    return settings, stores.open_store(settings.store, settings.store_cache)


def show(as_json: bool, content: Callable[[], Any], view: Callable[[], RenderableType]) -> None:
    """Print a result as JSON, or as it is looked at."""
    if as_json:
        typer.echo(json_text(content()))
    else:
        make_console().print(view())


def add_commands(app: typer.Typer, **commands: Callable[..., int | None]) -> None:
    """Register functions as commands of these names, each with `--debug`; what one returns is its exit code."""
    for name, function in commands.items():
        app.command(name)(_guarded(function))


def _guarded(function: Callable[..., int | None]) -> Callable[..., None]:
    @wraps(function)
    def command(debug: bool, **options: Any) -> None:
        with one_line_errors(debug):
            code = function(**options)
        raise typer.Exit(code or 0)

    signature = inspect.signature(function, eval_str=True)
    option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    command.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    return command


@contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """Show what goes wrong inside as one line, and exit with 1; with `debug` as a traceback."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if debug:
            raise
        # Ours say what to do; of what nobody foresaw the class may be all there is.
        named = type(error).__module__.partition(".")[0] in PACKAGES
        ours = named or isinstance(error, FileNotFoundError) or type(error) is ValueError
        message = str(error) if ours else f"{type(error).__name__}: {error}"
        make_console(stderr=True).print(Text(f"error: {message}", "bold red"), soft_wrap=True)
        raise typer.Exit(1) from error
