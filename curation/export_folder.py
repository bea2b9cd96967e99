"""Folder of exported clips: shards, and an index that is written last, so that a killed export goes on where it was.

    EXPORT.json           plan, counts, shards with their digests, clips that were left out; without it, it is not whole
    README.md             the splits, as the Hugging Face hub and `datasets` read them
    train-00000.tar, ...  shards, each put in place whole
    clips/train-00000/    of a CSV with clips: its clips
    .export/              while it is made: the plan, and a record of each shard that is done

Clips lie in the order of their ids, so many a shard: the same plan gives the same bytes.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.export_formats import CLIPS_FOLDER, FORMULA, MEDIA_TYPE, SUFFIXES, Exported, Format, Row, write_shard
from curation.export_media import CLIP_COLUMNS, ClipFile, ClipFiles
from curation.manifest_shards import EXPORT_INDEX, EXPORT_WORK
from curation.schema import short_detail
from lumina.files import read_json, replace_file, replacing, sha256_file

INDEX_FILE, CARD_FILE, WORK_FOLDER = EXPORT_INDEX, "README.md", EXPORT_WORK
SCHEMA = "lumina.export-data/1"
_PLAN = "plan.json"


class ExportFolderError(ValueError):
    """The folder cannot take the export; the message says what to do."""


@dataclass(frozen=True)
class ExportPlan:
    """What is exported, and how."""

    run: str
    """Its id."""
    pipeline: str
    outputs: Mapping[str, str]
    """Stage to the fingerprint of its output that is read."""
    format: Format
    clips: bool
    """Whether the clips themselves come along."""
    clips_per_shard: int
    versions: Mapping[str, str]
    """Of the libraries whose bytes these are."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True)
class ShardRecord:
    """A shard that is done."""

    name: str
    split: str
    clips: int
    bytes: int
    sha256: str
    how: Mapping[str, int]
    """Clips by how their files were made."""
    formulas: int
    """Captions that a spreadsheet takes for formulas."""
    left_out: tuple[Mapping[str, str], ...] = ()
    """Clips whose files cannot be had: `clip_id`, `uri`, `reason`, `detail`."""


def clip_schema(rows: pa.Schema, plan: ExportPlan, media: Iterable[str]) -> pa.Schema:
    """Columns of an export.

    Args:
        rows: those of the rows; what tells where a clip lies is told of its origin where the clip itself comes along.
        plan: of the export.
        media: kinds that occur.
    """
    if not plan.clips:
        return rows
    fields = [field.with_name(_ORIGIN.get(field.name, field.name)) for field in rows]
    fields += [pa.field("file_name", pa.string()), *(pa.field(name, type_) for name, type_ in CLIP_COLUMNS.items())]
    if plan.format == "parquet":
        fields += [pa.field(kind, MEDIA_TYPE) for kind in sorted(media)]
    return pa.schema(fields)


_ORIGIN = {
    "uri": "origin_uri",
    "span_start_s": "origin_start_s",
    "span_end_s": "origin_end_s",
    "sha256": "origin_sha256",
    "num_bytes": "origin_bytes",
}


def check_folder(out: Path, plan: ExportPlan) -> bool:
    """Whether the folder holds this export, whole or in part.

    ExportFolderError if it holds anything else.
    """
    if not out.exists() and not out.is_symlink():
        return False
    if not out.is_dir():
        raise ExportFolderError(f"{out} is no folder: name another place for the export")
    if not any(out.iterdir()):
        return False
    found = _plan_in(out)
    if found is None and _has_just_begun(out):
        return False
    if found is None:
        raise ExportFolderError(f"the folder {out} holds something else: name one that is new or empty")
    wanted = json.loads(json.dumps(plan.as_dict()))
    differ = [key for key in wanted if found.get(key) != wanted[key]]
    if differ:
        key = differ[0]
        raise ExportFolderError(
            f"the folder {out} holds another export, whose {key} is {found.get(key)}, not {wanted[key]}: name another "
            "folder, or remove it"
        )
    return True


def _has_just_begun(out: Path) -> bool:
    """Whether an export was killed before it had written down what it was about to do."""
    return [path.name for path in out.iterdir()] == [WORK_FOLDER] and not (out / WORK_FOLDER / _PLAN).exists()


def finished(out: Path) -> dict[str, Any] | None:
    """The index of an export of which every shard is there; None if it is not whole."""
    if not (out / INDEX_FILE).is_file():
        return None
    index: dict[str, Any] = read_json(out / INDEX_FILE)
    return index if len(_done(out)) == len(index["shards"]) else None


def _plan_in(out: Path) -> dict[str, Any] | None:
    """The plan of the export that a folder holds; None if it holds none."""
    for path, key in ((out / INDEX_FILE, "plan"), (out / WORK_FOLDER / _PLAN, None)):
        if path.is_file():
            content = read_json(path)
            found = content.get(key) if key and isinstance(content, dict) else content
            return found if isinstance(found, dict) and found.get("schema") == SCHEMA else None
    return None


def export(
    out: Path,
    plan: ExportPlan,
    schema: pa.Schema,
    splits: Iterable[str],
    rows: Callable[[str], Iterator[Row]],
    clips: Callable[[Path], ClipFiles] | None,
    progress: Callable[[int], None] = lambda _done: None,
) -> dict[str, Any]:
    """Write an export, or go on with one that was stopped; returns the index.

    Args:
        out: the folder; see `check_folder`, which must have let it pass.
        plan: of the export.
        schema: see `clip_schema`.
        splits: names of those that have clips.
        rows: the rows of a split in the order of their ids, always the same.
        clips: what makes the files of clips in a folder, if they come along.
        progress: told how many clips are done.

    Raises:
        ExportFolderError: another process writes there.
        OSError: it cannot be written.
        MachineError: the machine is at fault for a file that cannot be read.
    """
    work = out / WORK_FOLDER
    work.mkdir(parents=True, exist_ok=True)
    with _alone(out, work):
        if (index := finished(out)) is not None:
            shutil.rmtree(work)
            return index
        known = _done(out)
        replace_file(work / _PLAN, _text(plan.as_dict()), sync=True)
        for name, record in known.items():
            replace_file(work / f"{name}.json", _text(asdict(record)), sync=True)
        (out / INDEX_FILE).unlink(missing_ok=True)
        for stale in out.glob(".*.tmp"):
            stale.unlink()
        shutil.rmtree(work / "clips", ignore_errors=True)
        (work / "clips").mkdir()
        made = clips(work / "clips") if clips is not None else None
        try:
            records = list(_shards(out, plan, schema, splits, rows, made, known, progress))
        finally:
            if made is not None:
                made.close()
        index = _index(plan, schema, records)
        replace_file(out / CARD_FILE, _card(plan, schema, records).encode())
        replace_file(out / INDEX_FILE, _text(index), sync=True)
        shutil.rmtree(work)
    return index


@contextmanager
def _alone(out: Path, work: Path) -> Iterator[None]:
    with (work / "LOCK").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExportFolderError(f"another process exports into {out}: wait until it is done") from None
        yield


def _shards(
    out: Path,
    plan: ExportPlan,
    schema: pa.Schema,
    splits: Iterable[str],
    rows: Callable[[str], Iterator[Row]],
    made: ClipFiles | None,
    known: Mapping[str, ShardRecord],
    progress: Callable[[int], None],
) -> Iterator[ShardRecord]:
    done = 0
    for split in splits:
        source = rows(split)
        number = 0
        while chunk := list(islice(source, plan.clips_per_shard)):
            name = f"{split}-{number:05d}"
            record = known.get(name)
            if record is None:
                record = _shard(out, name, split, plan, schema, chunk, made, partial(_further, progress, done))
                replace_file(out / WORK_FOLDER / f"{name}.json", _text(asdict(record)), sync=True)
            done, number = done + len(chunk), number + 1
            progress(done)
            yield record


def _further(progress: Callable[[int], None], done: int, more: int) -> None:
    progress(done + more)


def _shard(
    out: Path,
    name: str,
    split: str,
    plan: ExportPlan,
    schema: pa.Schema,
    rows: list[Row],
    made: ClipFiles | None,
    progress: Callable[[int], None],
) -> ShardRecord:
    path = out / f"{name}{SUFFIXES[plan.format]}"
    folder = Path(CLIPS_FOLDER) / name if plan.format == "csv" else Path()
    how, left_out = Counter[str](), list[Mapping[str, str]]()
    formulas = 0

    def exported() -> Iterator[Exported]:
        nonlocal formulas
        for at, (row, clip) in enumerate(((row, None) for row in rows) if made is None else made.of(rows), start=1):
            progress(at)
            if clip is None:
                formulas += str(row["caption"] or "").startswith(FORMULA)
                yield row, None
            elif isinstance(clip, ClipFile):
                formulas += str(row["caption"] or "").startswith(FORMULA)
                how[clip.told["clip_how"]] += 1
                renamed = {_ORIGIN.get(key, key): value for key, value in row.items()}
                yield {**renamed, **clip.told, "file_name": (folder / clip.path.name).as_posix()}, clip.path
                clip.path.unlink(missing_ok=True)
            else:
                told = {"reason": str(clip.reason), "detail": short_detail(clip.detail)}
                left_out.append({"clip_id": row["clip_id"], "uri": row["uri"], **told})

    with replacing(path, sync=True) as unnamed:
        write_shard(plan.format, unnamed, schema, exported(), out / folder)
        size, sha256 = unnamed.stat().st_size, sha256_file(unnamed)
    clips = len(rows) - len(left_out)
    return ShardRecord(path.name, split, clips, size, sha256, dict(sorted(how.items())), formulas, tuple(left_out))


def _done(out: Path) -> dict[str, ShardRecord]:
    """The shards that are done, by their names without extensions."""
    found = []
    if (out / INDEX_FILE).is_file():
        found = read_json(out / INDEX_FILE)["shards"]
    else:
        found = [read_json(path) for path in sorted((out / WORK_FOLDER).glob("*-*.json"))]
    records = [ShardRecord(**{**one, "left_out": tuple(one["left_out"])}) for one in found]
    return {record.name.partition(".")[0]: record for record in records if _is_there(out, record)}


def _is_there(out: Path, record: ShardRecord) -> bool:
    """Whether a shard is as large as it was, and beside a CSV as many clips as it names."""
    path = out / record.name
    if not path.is_file() or path.stat().st_size != record.bytes:
        return False
    clips = out / CLIPS_FOLDER / path.stem
    beside = path.suffix == SUFFIXES["csv"] and record.how
    return not beside or (clips.is_dir() and sum(1 for _ in clips.iterdir()) >= record.clips)


def _text(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _index(plan: ExportPlan, schema: pa.Schema, records: list[ShardRecord]) -> dict[str, Any]:
    splits, how = Counter[str](), Counter[str]()
    for record in records:
        splits[record.split] += record.clips
        how.update(record.how)
    return {
        "plan": plan.as_dict(),
        "clips": sum(splits.values()),
        "splits": dict(splits),
        "how": dict(sorted(how.items())),
        "bytes": sum(record.bytes for record in records),
        "left_out": sum(len(record.left_out) for record in records),
        "captions_like_formulas": sum(record.formulas for record in records),
        "columns": {field.name: str(field.type) for field in schema},
        "shards": [asdict(record) for record in records],
    }


def _card(plan: ExportPlan, schema: pa.Schema, records: list[ShardRecord]) -> str:
    splits = list(dict.fromkeys(record.split for record in records))
    files = [f'  - split: {split}\n    path: "{split}-*{SUFFIXES[plan.format]}"' for split in splits]
    lines = ["---", "configs:", "- config_name: default", "  data_files:", *files]
    if plan.format == "csv":
        # Else each shard's types are guessed from what its cells hold; an empty one is no integer.
        lines += ["dataset_info:", "  features:"]
        for field in schema:
            lines += [f"  - name: {field.name}", f"    dtype: {'string' if field.type == pa.string() else 'float64'}"]
    lines += ["---", ""]
    counts = ", ".join(f"{split}: {sum(r.clips for r in records if r.split == split):,} clips" for split in splits)
    lines += [f"Curated clips of the run {plan.run}, written by `lumina export-data`; {counts}.", ""]
    lines += [f"`{INDEX_FILE}` tells the columns, the digest of each shard, and which clips were left out.", ""]
    return "\n".join(lines)
