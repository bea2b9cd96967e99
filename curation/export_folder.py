"""Folder of exported clips: shards, and an index that is written last, so that a killed export goes on where it was.

    EXPORT.json           plan, counts, shards with their digests, clips that were left out; without it, it is not whole
    README.md             the splits, as the Hugging Face hub and `datasets` read them
    train-00000.tar, ...  shards, each put in place whole
    clips/train-00000/    of a CSV with clips: its clips
    .export/              while it is made: the plan, and a record of each shard that is done

Clips lie in the order of their ids, so many a shard: the same plan gives the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.export_formats import CLIPS_FOLDER, FORMULA, MEDIA_TYPE, SUFFIXES, Exported, Format, Row, write_shard
from curation.export_media import CLIP_COLUMNS, ClipFile, ClipFiles
from curation.export_place import ExportFolderError, ExportPlace
from curation.manifest_shards import EXPORT_INDEX, EXPORT_WORK
from curation.schema import short_detail
from lumina.files import sha256_file

INDEX_FILE, CARD_FILE, WORK_FOLDER = EXPORT_INDEX, "README.md", EXPORT_WORK
SCHEMA = "lumina.export-data/1"
_PLAN = "plan.json"


@dataclass(frozen=True)
class ExportPlan:
    """What is exported, and how."""

    run: str
    """Its id."""
    pipeline: str
    outputs: Mapping[str, str]
    """Stage to the digest of its output that is read."""
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


def check_folder(out: ExportPlace, plan: ExportPlan) -> bool:
    """Whether a place holds this export, whole or in part.

    ExportFolderError if it holds anything else.
    """
    there = out.names("")
    if not there:
        return False
    found = _plan_in(out)
    if found is None and set(there) == {WORK_FOLDER} and _PLAN not in out.names(WORK_FOLDER):
        return False  # it was killed before it had written down what it was about to do
    if found is None:
        raise ExportFolderError(f"the folder {out.name} holds something else: name one that is new or empty")
    wanted, held = _flat(json.loads(json.dumps(plan.as_dict()))), _flat(found)
    differ = [key for key in {**wanted, **held} if held.get(key) != wanted.get(key)]
    if differ:
        key = differ[0]
        raise ExportFolderError(
            f"the folder {out.name} holds another export, whose {key} is {held.get(key)}, not {wanted.get(key)}: "
            "name another folder, or remove it"
        )
    return True


def _flat(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their names, those of a group as `outputs.select`."""
    groups = {key: value if isinstance(value, dict) else {"": value} for key, value in plan.items()}
    return {f"{key}.{name}" if name else key: value for key, group in groups.items() for name, value in group.items()}


def _plan_in(out: ExportPlace) -> dict[str, Any] | None:
    """The plan of the export that a place holds; None if it holds none."""
    for name, key in ((INDEX_FILE, "plan"), (f"{WORK_FOLDER}/{_PLAN}", None)):
        content = _json(out, name)
        if content is not None:
            found = content.get(key) if key and isinstance(content, dict) else content
            return found if isinstance(found, dict) and found.get("schema") == SCHEMA else None
    return None


def _json(out: ExportPlace, name: str) -> Any:
    content = out.read(name)
    try:
        return None if content is None else json.loads(content)
    except ValueError as error:
        raise ExportFolderError(f"{out.name}/{name} is damaged ({error}): name another folder, or remove it") from error


def export(
    out: ExportPlace,
    plan: ExportPlan,
    schema: pa.Schema,
    splits: Iterable[str],
    rows: Callable[[str], Iterator[Row]],
    clips: Callable[[Path], ClipFiles] | None,
    progress: Callable[[int], None] = lambda _done: None,
) -> dict[str, Any]:
    """Write an export, or go on with one that was stopped; returns the index.

    Args:
        out: where to; see `check_folder`, which must have let it pass.
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
    with out.alone() as scratch:
        known, index = _done(out), _json(out, INDEX_FILE)
        whole = index is not None and len(known) == len(index["shards"])
        made = None
        if clips is not None and not (whole and not any(record.left_out for record in known.values())):
            (scratch / "clips").mkdir()
            made = clips(scratch / "clips")
        try:
            if made is not None:
                again = _to_be_had(plan, splits, rows, made, known)
                whole = whole and not again
                known = {name: record for name, record in known.items() if name not in again}
            if not whole:
                out.put(f"{WORK_FOLDER}/{_PLAN}", _text(plan.as_dict()))
                for name, record in known.items():
                    out.put(f"{WORK_FOLDER}/{name}.json", _text(asdict(record)))
                out.remove(INDEX_FILE)
                shards = _Shards(out, scratch, plan, schema, made)
                records = list(shards.write(splits, rows, known, progress))
                index = _index(plan, schema, records)
                out.put(CARD_FILE, _card(plan, schema, records).encode())
                out.put(INDEX_FILE, _text(index))
        finally:
            if made is not None:
                made.close()
        out.clear()
    found: dict[str, Any] = index
    return found


def _to_be_had(
    plan: ExportPlan,
    splits: Iterable[str],
    rows: Callable[[str], Iterator[Row]],
    made: ClipFiles,
    known: Mapping[str, ShardRecord],
) -> set[str]:
    """Shards that are done, but for a clip that was left out and can be had by now."""
    left_out = {one["clip_id"] for record in known.values() for one in record.left_out}
    found = set[str]()
    if not left_out:
        return found
    for split in splits:
        for number, chunk in enumerate(_chunks(rows(split), plan.clips_per_shard)):
            name = f"{split}-{number:05d}"
            if name not in known:
                continue
            for _, clip in made.of([row for row in chunk if row["clip_id"] in left_out]):
                if isinstance(clip, ClipFile):
                    clip.path.unlink()
                    found.add(name)
    return found


def _chunks(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while chunk := list(islice(rows, size)):
        yield chunk


@dataclass(frozen=True)
class _Shards:
    """Writes the shards of an export."""

    out: ExportPlace
    scratch: Path
    plan: ExportPlan
    schema: pa.Schema
    made: ClipFiles | None

    def write(
        self,
        splits: Iterable[str],
        rows: Callable[[str], Iterator[Row]],
        known: Mapping[str, ShardRecord],
        progress: Callable[[int], None],
    ) -> Iterator[ShardRecord]:
        done = 0
        for split in splits:
            for number, chunk in enumerate(_chunks(rows(split), self.plan.clips_per_shard)):
                name = f"{split}-{number:05d}"
                record = known.get(name)
                if record is None:
                    record = self._shard(name, split, chunk, partial(_further, progress, done))
                    self.out.put(f"{WORK_FOLDER}/{name}.json", _text(asdict(record)))
                done += len(chunk)
                progress(done)
                yield record

    def _shard(self, name: str, split: str, rows: list[Row], progress: Callable[[int], None]) -> ShardRecord:
        out, plan, made = self.out, self.plan, self.made
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

        path = self.scratch / f"{name}{SUFFIXES[plan.format]}"
        write_shard(
            plan.format, path, self.schema, exported(), lambda clip: out.take(clip, (folder / clip.name).as_posix())
        )
        size, sha256 = path.stat().st_size, sha256_file(path)
        out.take(path, path.name)
        clips = len(rows) - len(left_out)
        return ShardRecord(path.name, split, clips, size, sha256, dict(sorted(how.items())), formulas, tuple(left_out))


def _further(progress: Callable[[int], None], done: int, more: int) -> None:
    progress(done + more)


def _done(out: ExportPlace) -> dict[str, ShardRecord]:
    """The shards that are done, by their names without extensions."""
    index = _json(out, INDEX_FILE)
    if index is not None:
        found = index["shards"]
    else:
        names = sorted(name for name in out.names(WORK_FOLDER) if name.endswith(".json") and "-" in name)
        found = [_json(out, f"{WORK_FOLDER}/{name}") for name in names]
    records = [ShardRecord(**{**one, "left_out": tuple(one["left_out"])}) for one in found]
    there = out.names("")
    return {record.name.partition(".")[0]: record for record in records if _is_there(out, there, record)}


def _is_there(out: ExportPlace, there: Mapping[str, int | None], record: ShardRecord) -> bool:
    """Whether a shard is as large as it was, and beside a CSV as many clips as it names."""
    if there.get(record.name) != record.bytes:
        return False
    stem, _, suffix = record.name.rpartition(".")
    beside = f".{suffix}" == SUFFIXES["csv"] and record.how
    return not beside or len(out.names(f"{CLIPS_FOLDER}/{stem}")) >= record.clips


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
