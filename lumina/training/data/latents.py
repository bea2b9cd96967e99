"""Read encoded clips and text features from Parquet, without a VAE or a text encoder in the training process.

Blobs are raw little-endian bytes in a binary column; a row group is the unit of reading, and the row groups read last
stay in memory up to a bound, which for a small dataset means all of them.
"""

from __future__ import annotations

import math
import struct
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from lumina.training.data.batches import BatchPlan, Entry, Slot
from lumina.training.stage import TaskConfig, TrainStageConfig

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

CACHE_BYTES = 1 << 30
"""Bytes of decoded row groups that one reader keeps."""

OPEN_FILES = 64
"""Files that one reader keeps open: opening one costs more than reading a clip from it."""

LATENT_COLUMNS = (
    "clip_id",
    "status",
    "split",
    "media",
    "source",
    "bucket",
    "vae_latent_shape",
    "vae_latent_dtype",
    "text_id",
    "text_id_dropped",
    "motion_score",
)
SPLITS = ("train", "heldout")
TEXT_COLUMNS = ("text_id", "status", "text_feature_shape", "text_feature_dtype")


@dataclass(frozen=True)
class Clip:
    """One encoded clip, as the index knows it."""

    clip_id: str
    source: str
    media: Literal["image", "video"]
    bucket: str
    split: str
    shape: tuple[int, int, int, int]
    """Latent (channels, frames, rows, columns) that training sees: without the first latent of a video."""
    text_id: str
    text_id_dropped: str
    motion_score: float | None
    """None where it is unknown."""
    row: int
    """Where the reader finds it."""

    def entry(self, task: TaskConfig, per_token: float, per_pair: float) -> Entry:
        """Return what the batch plan needs, where N tokens cost `per_token` N + `per_pair` N^2 operations."""
        _, have, *sides = self.shape
        frames = task.latent_frames or have
        # A single frame is an image, which every scale takes.
        tokens = max(frames // task.patch[0], 1) * (sides[0] // task.patch[1]) * (sides[1] // task.patch[2])
        return Entry(self.clip_id, self.source, self.bucket, tokens, per_token * tokens + per_pair * tokens * tokens)


@dataclass(frozen=True)
class TaskData:
    """One task with the clips it trains on."""

    task: TaskConfig
    clips: Sequence[Clip]
    """In the order of the plan."""
    plan: BatchPlan

    def items(self, slots: Sequence[Slot]) -> list[tuple[int, Clip]]:
        """Return (place in the global batch, clip) of each slot."""
        return [(slot.position, self.clips[slot.index]) for slot in slots]


@dataclass(frozen=True)
class _Place:
    file: int
    group: int
    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class _Group:
    """One row group in memory, with the tensors that were asked for: views of the same memory."""

    blobs: pa.LargeBinaryArray
    tensors: dict[int, torch.Tensor]


class BlobReader:
    """Tensors stored as bytes in a column of Parquet files, by row number. Threads may share a reader."""

    def __init__(self, column: str, cache_bytes: int = CACHE_BYTES) -> None:
        """Read blobs from `column`; keep at most `cache_bytes` of row groups, and at least one."""
        self._column = column
        self._cache_bytes = cache_bytes
        self._files: list[Path] = []
        self._places: list[_Place] = []
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], _Group] = OrderedDict()
        self._held = 0
        # An open Parquet file serves one thread at a time; and neither cache may change under another's hands.
        self._lock = Lock()

    def add_file(self, path: Path, columns: Sequence[str], shape_column: str, dtype_column: str) -> Any:
        """Index one file; return the table of `columns`, with the number of each row in a new column `row`.

        Raises ValueError if a column is missing, or the blobs are not large_binary.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetFile(path, memory_map=True) as file:
            missing = [name for name in (*columns, self._column) if name not in file.schema_arrow.names]
            if missing:
                raise ValueError(f"{path}: column {', '.join(missing)} is missing: was it written by an encode stage?")
            kind = file.schema_arrow.field(self._column).type
            if kind != pa.large_binary():
                raise ValueError(f"{path}: column {self._column} is {kind}, not large_binary: encode again")
            # Small columns of many row groups: threads would cost more than they bring.
            table = file.read(columns=list(columns), use_threads=False)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        number, first = len(self._files), len(self._places)
        self._files.append(path)
        shapes, dtypes = table.column(shape_column).to_pylist(), table.column(dtype_column).to_pylist()
        places = ((group, offset) for group, size in enumerate(sizes) for offset in range(size))
        for (group, offset), shape, dtype in zip(places, shapes, dtypes, strict=True):
            self._places.append(_Place(number, group, offset, tuple(shape or ()), dtype or ""))
        return table.append_column("row", pa.array(range(first, len(self._places)), pa.int64()))

    def read(self, row: int) -> torch.Tensor:
        """Return one row's tensor, which shares memory with the cache: do not write to it.

        Raises ValueError if the bytes do not fit the row's shape and dtype.
        """
        place = self._places[row]
        with self._lock:
            group = self._group(place.file, place.group)
            if place.offset not in group.tensors:
                group.tensors[place.offset] = self._decode(group.blobs, place)
            return group.tensors[place.offset]

    def _decode(self, blobs: pa.LargeBinaryArray, place: _Place) -> torch.Tensor:
        import torch

        where = f"{self._files[place.file]}, row group {place.group}, row {place.offset}"
        dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}.get(place.dtype)
        if dtype is None:
            raise ValueError(f"{where}: dtype {place.dtype!r} is not bfloat16, float16 or float32: encode again")
        expected = math.prod(place.shape) * dtype.itemsize
        # A value taken from the array would be a copy, and read-only, of which torch warns.
        _, offsets, data = blobs.buffers()
        at = 8 * (blobs.offset + place.offset)
        start, end = struct.unpack("<qq", offsets[at : at + 16].to_pybytes())
        if end - start != expected:
            raise ValueError(
                f"{where}: {self._column} holds {end - start} bytes, but shape {place.shape} of {place.dtype} takes "
                f"{expected}: encode again"
            )
        if expected == 0:
            return torch.empty(place.shape, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype, count=math.prod(place.shape), offset=start).view(place.shape)

    def _group(self, file: int, group: int) -> _Group:
        key = (file, group)
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        column = self._file(file).read_row_group(group, columns=[self._column], use_threads=False).column(0)
        # Combining would copy even a single chunk.
        blobs = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        self._groups[key] = _Group(blobs, {})
        self._held += blobs.nbytes
        while self._held > self._cache_bytes and len(self._groups) > 1:
            self._held -= self._groups.popitem(last=False)[1].blobs.nbytes
        return self._groups[key]

    def _file(self, number: int) -> pq.ParquetFile:
        import pyarrow.parquet as pq

        if number not in self._open:
            if len(self._open) == OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            self._open[number] = pq.ParquetFile(self._files[number], memory_map=True)
        self._open.move_to_end(number)
        return self._open[number]


class LatentDataset:
    """The clips that may be trained on (status ok, split train), sorted by clip_id, with their text features.

    `heldout` has those of the split heldout, which validation alone may look at.
    """

    def __init__(
        self,
        latent_dirs: Sequence[Path],
        text_dir: Path,
        sources: Collection[str] | None = None,
        cache_bytes: int = CACHE_BYTES,
        unrestricted: Collection[str] = (),
    ) -> None:
        """Index the Parquet files under `data/` of each directory.

        `sources` restricts the clips to these sources; None takes all. Media in `unrestricted` are not restricted.
        Raises ValueError if a directory has no Parquet files, a clip comes twice in one bucket, or its text is missing.
        """
        self._latents = BlobReader("vae_latent_bytes", cache_bytes)
        self._texts = BlobReader("text_feature_bytes", cache_bytes)
        self._text_rows = self._index_texts(text_dir)
        self._left_out: Counter[str] = Counter()
        clips = [clip for path in latent_dirs for clip in self._index_latents(path)]
        if sources is not None:
            known = {clip.source for clip in clips}
            absent = sorted(set(sources) - known)
            if absent:
                raise ValueError(
                    f"the selection names source {', '.join(absent)}, but the latents have {', '.join(sorted(known))}"
                )
            found = len(clips)
            clips = [clip for clip in clips if clip.source in sources or clip.media in unrestricted]
            self._left_out["of sources that were not selected"] = found - len(clips)
        clips.sort(key=lambda clip: (clip.clip_id, clip.bucket))
        for one, two in pairwise(clips):
            if (one.clip_id, one.bucket) == (two.clip_id, two.bucket):
                raise ValueError(f"clip {one.clip_id} comes twice in bucket {one.bucket}: give each latents input once")
        self.clips = [clip for clip in clips if clip.split == "train"]
        self.heldout = [clip for clip in clips if clip.split == "heldout"]
        if self.heldout:
            self._left_out["heldout"] = len(self.heldout)
        for clip in clips:
            for text in (clip.text_id, clip.text_id_dropped):
                if text not in self._text_rows:
                    raise ValueError(f"clip {clip.clip_id}: {text_dir} has no features for text {text}: encode again")

    def of_task(self, task: TaskConfig, config: TrainStageConfig) -> TaskData:
        """Return the clips and batches of `task`, one of those of the stage `config`.

        Raises ValueError if there are none, or naming a clip that the task's patch size cannot cut.
        """
        from lumina.cost import token_cost

        chosen = [clip for clip in self.clips if clip.media == task.media]
        if not chosen:
            left_out = self._left_out + Counter({"of other media": len(self.clips)})
            counts = ", ".join(f"{count} {why}" for why, count in left_out.most_common())
            raise ValueError(f"task {task.name}: no {task.media} to train on. Rows of the latents: {counts or 'none'}")
        frames, rows, columns = task.patch
        needed = task.latent_frames or frames
        for clip in chosen:
            if clip.shape[2] % rows or clip.shape[3] % columns or (clip.media == "video" and clip.shape[1] < needed):
                raise ValueError(
                    f"task {task.name}: clip {clip.clip_id} of bucket {clip.bucket} has {clip.shape[1]} latent frames "
                    f"of {clip.shape[2]}x{clip.shape[3]} after the first is dropped, but patch {task.patch} needs "
                    f"{needed} frames, and rows and columns that {rows} and {columns} divide: choose another bucket"
                )
        per_token, per_pair = token_cost(config.model, task.patch)
        entries = [clip.entry(task, per_token, per_pair) for clip in chosen]
        return TaskData(task, chosen, BatchPlan(task, entries, config.seed, config.cluster_batches))

    def latent(self, clip: Clip) -> torch.Tensor:
        """Return the clip's latents [C, F, H, W], without the first frame of a video, as the paper trains."""
        latent = self._latents.read(clip.row)
        return latent[:, 1:] if clip.media == "video" else latent

    def text(self, text_id: str) -> torch.Tensor:
        """Return the features [L, D] of one prompt."""
        return self._texts.read(self._text_rows[text_id])

    def _index_texts(self, directory: Path) -> Mapping[str, int]:
        rows: dict[str, int] = {}
        for path in _files(directory):
            table = self._texts.add_file(path, TEXT_COLUMNS, "text_feature_shape", "text_feature_dtype")
            columns = (table.column(name).to_pylist() for name in ("text_id", "status", "row"))
            rows.update({text: row for text, status, row in zip(*columns, strict=True) if status == "ok"})
        return rows

    def _index_latents(self, directory: Path) -> list[Clip]:
        clips = []
        for path in _files(directory):
            table = self._latents.add_file(path, LATENT_COLUMNS, "vae_latent_shape", "vae_latent_dtype")
            for row in table.to_pylist():
                if row["status"] != "ok" or row["split"] not in SPLITS:
                    self._left_out[row["status"] if row["status"] != "ok" else row["split"]] += 1
                    continue
                channels, frames, height, width = row["vae_latent_shape"]
                kept = frames - 1 if row["media"] == "video" else frames
                clips.append(
                    Clip(
                        clip_id=row["clip_id"],
                        source=row["source"],
                        media=row["media"],
                        bucket=row["bucket"],
                        split=row["split"],
                        shape=(channels, kept, height, width),
                        text_id=row["text_id"],
                        text_id_dropped=row["text_id_dropped"],
                        motion_score=row["motion_score"],
                        row=row["row"],
                    )
                )
        return clips


def _files(directory: Path) -> list[Path]:
    files = sorted((directory / "data").rglob("*.parquet"))
    if not files:
        raise ValueError(f"{directory / 'data'} holds no Parquet file: did the stage that writes it finish?")
    return files
