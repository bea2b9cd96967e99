"""`lumina export-data`: the curated clips of a run in shards, as a WebDataset, as Parquet or as CSV."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lumina.formats import size
from pipelines.commands.options import Json, RunArgument, StoreOption, open_store
from pipelines.commands.written import check_place
from pipelines.errors import PipelineError, disk_problem
from pipelines.terminal import Text, json_text, make_console

if TYPE_CHECKING:
    from curation.export_place import ExportPlace
    from curation.operator import Env
    from pipelines.engine.store.run_record import RunRecord
    from pipelines.engine.store.store import Store


def export_data(
    run: RunArgument = None,
    format: Annotated[
        Literal["webdataset", "parquet", "csv"],
        typer.Option("--as", help="Shards of a WebDataset (tar), of Parquet, or of CSV."),
    ] = ("webdataset"),
    out: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="A folder, or s3://... or gs://..., that is new or empty, or this export, which then goes on.",
        ),
    ] = "exported_data",
    clips: Annotated[
        bool, typer.Option("--clips", help="The clips too: whole files as they are, spans cut out of their films.")
    ] = False,
    shard: Annotated[int, typer.Option("--shard", min=1, metavar="N", help="Clips of a shard.")] = 1000,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Clips that are read and cut at a time.", show_default="one per CPU")
    ] = None,
    store: StoreOption = None,
    as_json: Json = False,
) -> None:
    """Write the clips that a run selected, with captions, scores, splits and system prompts, for other programs.

    A killed export goes on where it was, and ends in the same bytes. `data.manifest=DIR` reads it back.
    """
    from curation.export_folder import ExportPlan, check_folder, clip_schema, export
    from curation.export_media import ClipFiles
    from curation.export_place import ExportFolderError
    from pipelines.reports.selected_clips import read_selected

    opened = open_store(store)
    record = opened.get_run(run)
    selected = read_selected(opened, record)
    versions = {name: metadata.version(name) for name in ("pyarrow", *(["av"] if clips else []))}
    plan = ExportPlan(record.run, record.pipeline, selected.outputs, format, clips, shard, versions)
    place = _place(out)
    try:
        check_folder(place, plan)
    except ExportFolderError as error:
        raise PipelineError(f"--out: {error}") from error
    schema = clip_schema(selected.schema(), plan, selected.media)
    env = _env(opened, record)
    total, console = sum(selected.counts.values()), make_console(stderr=True)
    with console.status("") as status:
        try:
            index = export(
                place,
                plan,
                schema,
                selected.splits,
                lambda split: _placed(selected.rows(split), env),
                (lambda folder: ClipFiles(env, folder, workers or len(os.sched_getaffinity(0)))) if clips else None,
                lambda done: status.update(f"{done:,} of {total:,} clips"),
            )
        except ExportFolderError as error:
            raise PipelineError(f"--out: {error}") from error
        except OSError as error:
            raise PipelineError(f"--out: {disk_problem(error, Path(place.name))}") from error
    if as_json:
        typer.echo(json_text({"out": place.name, **index}))
        return
    for line in _told(index, place.name):
        make_console().print(Text(line), soft_wrap=True)


def _place(out: str) -> ExportPlace:
    """Where an export goes.

    Raises:
        PipelineError: a folder can neither be made nor written there, or it is a bucket that cannot be used.
    """
    from curation.export_place import Folder
    from pipelines.commands.export_bucket import BucketPlace
    from pipelines.engine.store.bucket import SCHEMES

    if out.startswith(SCHEMES):
        return BucketPlace(out)
    if "://" in out:
        raise PipelineError(f"--out {out}: give a folder, or one of {' '.join(SCHEMES)}")
    path = Path(out)
    check_place("--out", path)
    return Folder(path.absolute())


def _env(store: Store, record: RunRecord) -> Env:
    """Where the media of a run are, by what it recorded."""
    from curation.object_stores import ObjectStores
    from curation.operator import Env

    runtime = (record.lock or {}).get("config", {}).get("runtime", {})
    stores = ObjectStores.model_validate(runtime.get("object_stores", {}))
    return Env(str(store.root / record.media_root), stores=stores)


def _placed(rows: Iterator[dict[str, Any]], env: Env) -> Iterator[dict[str, Any]]:
    """The rows with URIs that do not depend on where the run stood."""
    from curation.media_uris import absolute

    for row in rows:
        yield row | {"uri": absolute(row["uri"], env.media_root, env.stores)}


def _told(index: Mapping[str, Any], out: str) -> Iterator[str]:
    from curation.export_folder import INDEX_FILE

    splits = ", ".join(f"{split} {count:,}" for split, count in index["splits"].items())
    shards = len(index["shards"])
    kind = f"shard{'' if shards == 1 else 's'} of {index['plan']['format']}"
    yield f"{index['clips']:,} clips ({splits}) in {shards} {kind}, {size(index['bytes'])}: {out}"
    if index["how"]:
        words = {"whole": "whole files", "copied": "spans copied", "encoded": "spans encoded anew"}
        how = ", ".join(f"{index['how'][name]:,} {text}" for name, text in words.items() if name in index["how"])
        yield f"{how}; the column clip_why says why"
    if index["left_out"]:
        first = next(one for shard in index["shards"] for one in shard["left_out"])
        yield (
            f"{index['left_out']:,} left out, since their files cannot be had: {INDEX_FILE} lists them; the first: "
            f"{first['reason']}: {first['detail']}"
        )
    if index["plan"]["format"] == "csv" and index["captions_like_formulas"]:
        count = index["captions_like_formulas"]
        yield f"{count:,} captions begin as a formula does: a spreadsheet must import the columns as text"
