"""Latents and text features of encoded clips, read from Parquet without a VAE or a text encoder in the process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lumina.training.data.batches import BatchPlan, Entries, Kind, by_source
from lumina.training.data.blobs import CACHE_BYTES, REMEMBERED, BlobReader
from lumina.training.data.clips import Clips, TaskData
from lumina.training.data.index import CLIPS, TEXTS, Index, tensor_shape, text_key
from lumina.training.stage import TaskConfig, TrainStageConfig

if TYPE_CHECKING:
    import torch


_BLOCK = 1 << 20


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
        """Open the indexes of the directories; see `lumina.training.data.index`.

        `sources` restricts the clips to these sources; None takes all. Media in `unrestricted` are not restricted.
        Raises ValueError if a directory has no Parquet files, a clip comes twice in one bucket, or its text is missing.
        """
        self._index, self._text_index = Index(latent_dirs, CLIPS), Index([text_dir], TEXTS)
        self._latents = BlobReader(self._index, "vae_latent_bytes", cache_bytes)
        self._texts = BlobReader(self._text_index, "text_feature_bytes", cache_bytes)
        self._text_keys = self._text_index.values("text_key")
        self._clip = lru_cache(maxsize=REMEMBERED)(self._make_clip)
        self._text_row = lru_cache(maxsize=REMEMBERED)(self._find_text)
        self._left_out = self._index.left_out
        rows = self._of_sources(self._index.by_clip(), sources, unrestricted)
        self._check_texts(rows, text_dir)
        self.clips = self._clips_with(rows, "split", "train")
        self.heldout = self._clips_with(rows, "split", "heldout")
        self._left_out["heldout"] += len(self.heldout)

    def of_task(self, task: TaskConfig, config: TrainStageConfig) -> TaskData[Clip]:
        """Return the clips and batches of `task`, one of those of the stage `config`.

        Raises ValueError if there are none, or naming a clip that the task's patch size cannot cut.
        """
        chosen = self._clips_with(self.clips.rows, "media", task.media)
        if not chosen:
            left_out = +(self._left_out + Counter({"of other media": len(self.clips)}))
            counts = ", ".join(f"{count} {why}" for why, count in left_out.most_common())
            raise ValueError(f"task {task.name}: no {task.media} to train on. Rows of the latents: {counts or 'none'}")
        entries = self._entries(chosen, task, config)
        return TaskData(task, chosen, BatchPlan(task, entries, config.seed, config.cluster_batches))

    def counts(self, column: str) -> Counter[str]:
        """Return how many clips may be trained on, by `source` or `media`."""
        codes, names = self._index.codes(column)
        counts = np.bincount(codes[self.clips.rows], minlength=len(names)).tolist()
        return +Counter(dict(zip(names, counts, strict=True)))

    def latent(self, clip: Clip) -> torch.Tensor:
        """Return the clip's latents [C, F, H, W], without the first frame of a video, as the paper trains."""
        latent = self._latents.read(clip.row)
        return latent[:, 1:] if clip.media == "video" else latent

    def text(self, text_id: str) -> torch.Tensor:
        """Return the features [L, D] of one prompt. KeyError if they are not there."""
        return self._texts.read(self._text_row(text_key(text_id), text_id))

    def _of_sources(
        self, rows: np.ndarray, sources: Collection[str] | None, unrestricted: Collection[str]
    ) -> np.ndarray:
        if sources is None:
            return rows
        codes, names = self._index.codes("source")
        absent = sorted(set(sources) - set(names))
        if absent:
            raise ValueError(f"the selection names source {', '.join(absent)}, but the latents have {', '.join(names)}")
        chosen = np.array([name in sources for name in names], bool)[codes[rows]]
        codes, media = self._index.codes("media")
        chosen |= np.array([name in unrestricted for name in media], bool)[codes[rows]]
        self._left_out["of sources that were not selected"] = int((~chosen).sum())
        return rows[chosen]

    def _clips_with(self, rows: np.ndarray, column: str, value: str) -> Clips[Clip]:
        codes, names = self._index.codes(column)
        code = names.index(value) if value in names else -1
        return Clips(self._clip, rows[codes[rows] == code])

    def _check_texts(self, rows: np.ndarray, text_dir: Path) -> None:
        """ValueError naming the first clip whose text, or whose text without its caption, has no features."""
        codes, dropped = self._index.codes("text_id_dropped")
        known = np.array([self._has_text(text) for text in dropped], bool)
        keys = self._index.values("text_key")
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            # In order they are looked up a dozen times as fast.
            if known[codes[block]].all() and self._have(np.sort(keys[block])).all():
                continue
            row = int(block[np.flatnonzero(~(self._have(keys[block]) & known[codes[block]]))[0]])
            what = "its caption" if known[codes[row]] else f"text {dropped[codes[row]]}"
            clip_id = self._index.value("clip_id", row)
            raise ValueError(f"clip {clip_id}: {text_dir} has no features for {what}: encode again")

    def _have(self, keys: np.ndarray) -> np.ndarray:
        """Whether there is a text of each key."""
        if not len(self._text_keys):
            return np.zeros(len(keys), bool)
        at = np.minimum(np.searchsorted(self._text_keys, keys), len(self._text_keys) - 1)
        found: np.ndarray = self._text_keys[at] == keys
        return found

    def _has_text(self, text_id: str) -> bool:
        try:
            self._text_row(text_key(text_id), text_id)
        except KeyError:
            return False
        return True

    def _find_text(self, key: int, text_id: str | None = None) -> int:
        """Row of a text, whose id is compared where it is given."""
        row = int(np.searchsorted(self._text_keys, np.uint64(key)))
        same = row < len(self._text_keys) and int(self._text_keys[row]) == key
        if not same or text_id not in (None, self._text_index.value("text_id", row)):
            raise KeyError(text_id)
        return row

    def _make_clip(self, row: int) -> Clip:
        def value(name: str) -> Any:
            return self._index.value(name, row)

        media = value("media")
        return Clip(
            clip_id=value("clip_id"),
            source=value("source"),
            media=media,
            bucket=value("bucket"),
            split=value("split"),
            shape=_seen(self._index.place(row).shape, media),
            text_id=self._text_index.value("text_id", self._find_text(value("text_key"))),
            text_id_dropped=value("text_id_dropped"),
            motion_score=value("motion_score"),
            row=row,
        )

    def _entries(self, clips: Clips[Clip], task: TaskConfig, config: TrainStageConfig) -> Entries:
        from lumina.cost import token_cost

        per_token, per_pair = token_cost(config.model, task.patch)
        buckets, names = self._index.codes("bucket")
        tensors, kept = self._index.codes("tensor")
        both = buckets[clips.rows].astype(np.int64) * len(kept) + tensors[clips.rows]
        present = np.zeros(len(names) * len(kept), bool)
        present[both] = True
        pairs = np.flatnonzero(present)
        code = np.zeros(len(present), np.int32)
        code[pairs] = np.arange(len(pairs))
        kind = code[both]
        what = [(names[pair // len(kept)], _seen(tensor_shape(kept[pair % len(kept)]), task.media)) for pair in pairs]
        uncut = [number for number, (_, shape) in enumerate(what) if not _cuts(task, shape)]
        if uncut:
            raise ValueError(_uncut(task, clips[int(np.flatnonzero(np.isin(kind, uncut))[0])]))
        kinds = []
        for bucket, shape in what:
            tokens = _tokens(task, shape)
            kinds.append(Kind(bucket, tokens, per_token * tokens + per_pair * tokens * tokens))
        codes, sources = self._index.codes("source")
        return Entries(tuple(kinds), kind, by_source(codes[clips.rows], sources))


def _seen(shape: tuple[int, ...], media: str) -> tuple[int, int, int, int]:
    """What training sees of a stored latent."""
    channels, frames, rows, columns = shape
    return channels, frames - 1 if media == "video" else frames, rows, columns


def _tokens(task: TaskConfig, shape: tuple[int, int, int, int]) -> int:
    _, have, rows, columns = shape
    # A single frame is an image, which every scale takes.
    frames = max((task.latent_frames or have) // task.patch[0], 1)
    return frames * (rows // task.patch[1]) * (columns // task.patch[2])


def _cuts(task: TaskConfig, shape: tuple[int, int, int, int]) -> bool:
    """Whether the task's patch size can cut a latent."""
    _, have, rows, columns = shape
    enough = task.media == "image" or have >= (task.latent_frames or task.patch[0])
    return enough and not rows % task.patch[1] and not columns % task.patch[2]


def _uncut(task: TaskConfig, clip: Clip) -> str:
    frames, rows, columns = task.patch
    return (
        f"task {task.name}: clip {clip.clip_id} of bucket {clip.bucket} has {clip.shape[1]} latent frames "
        f"of {clip.shape[2]}x{clip.shape[3]} after the first is dropped, but patch {task.patch} needs "
        f"{task.latent_frames or frames} frames, and rows and columns that {rows} and {columns} divide: choose "
        "another bucket"
    )
