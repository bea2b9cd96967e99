"""What the commands share: their options, and one line for whatever goes wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from pipelines.terminal import Text, make_console

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
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_OURS = ("pipelines", "jobs", "curation", "lumina")


def all_overrides(override: list[str] | None, name: str | None, store: str | None) -> list[str]:
    """What a command changes of its config: `-o` in the order given, then `--name` and `--store`, which win."""
    return [*(override or []), *([f"name={name}"] if name else []), *([f"store={store}"] if store else [])]


def recompute_words(recompute: Sequence[str]) -> list[str]:
    """`--recompute` as it is typed."""
    return [word for stage in recompute for word in ("--recompute", stage)]


def default_store() -> str:
    """Where outputs are kept unless a config says otherwise."""
    from pipelines.config import PipelineConfig

    return str(PipelineConfig.model_fields["store"].default)


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
        named = type(error).__module__.partition(".")[0] in _OURS
        ours = named or isinstance(error, FileNotFoundError) or type(error) is ValueError
        message = str(error) if ours else f"{type(error).__name__}: {error}"
        make_console(stderr=True).print(Text(f"error: {message}", "bold red"), soft_wrap=True)
        raise typer.Exit(1) from error
