"""Audio latents and features of encoded clips, read from Parquet without a VAE, CLIP or Synchformer in the process."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumina.system_prompts import text_id
from lumina.training.data.batches import BatchPlan, Entries, Kind, by_source
from lumina.training.data.blobs import CACHE_BYTES, REMEMBERED, BlobReader
from lumina.training.data.clips import Clips, TaskData
from lumina.training.data.index import CAPTIONS, FEATURES, SOUNDS, Index, tensor_shape, text_key
from lumina.video_to_audio.cost import media_tokens_cost, token_cost
from lumina.video_to_audio.networks.codec import Posterior
from lumina.video_to_audio.networks.dit import Media
from lumina.video_to_audio.training.stage import SoundStageConfig

STATS_FILE = "latent_stats.json"
"""Mean and deviation of the latents' channels over the training clips, as encode_sound writes them."""
NO_TEXT = text_id("")
"""Of the empty text, whose features stand for none."""


@dataclass(frozen=True)
class SoundClip:
    """One clip with its sound, as the indexes know it."""

    clip_id: str
    source: str
    bucket: str
    split: str
    steps: int
    """T, latent steps of 40 ms."""
    text_id: str
    row: int
    """Where readers find its latent, and then its features."""
    visual_row: int
    sync_row: int
    caption_row: int


class _Features:
    """A table of features, by key."""

    def __init__(self, directory: Path, layout: Any, cache_bytes: int) -> None:
        self.directory = directory
        self.index = Index([directory], layout)
        self._reader = BlobReader(self.index, "feature_bytes", cache_bytes)
        self._keys = self.index.values(layout.schema.names[0])

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """The row of each key, -1 where there is none."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, at, -1)

    def row(self, key: int) -> int:
        """The row of one key, -1 where there is none."""
        return int(self.rows(np.array([key], np.uint64))[0])

    def read(self, row: int) -> Tensor:
        return self._reader.read(row)

    def check_width(self, name: str, width: int) -> None:
        """ValueError if some features are not `width` wide."""
        for tensor in self.index.codes("tensor")[1]:
            shape = tensor_shape(tensor)
            if len(shape) != 2 or shape[1] != width:
                raise ValueError(
                    f"{self.directory} has {name} features of shape {list(shape)}, but the model takes [n, {width}]: "
                    f"set model.{name}_dim to what its encoder gives"
                )


class SoundDataset:
    """The clips that may be trained on (status ok, split train, all features there), in order of their ids.

    `heldout` has those of the split heldout, of every set, which validation and evaluation alone may look at.
    """

    def __init__(
        self,
        sounds: Path,
        visual: Path,
        sync: Path,
        captions: Path,
        clips: str | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Open the indexes of the four tables; see `lumina.training.data.index`.

        `clips` names the set whose clips are trained on; None takes all. Clips without visual, sync or caption features
        are left out, and `left_out` counts why.
        Raises ValueError if a directory has no Parquet files, or no clip is of the set.
        """
        self._sounds = sounds
        self._index = Index([sounds], SOUNDS)
        self._latents = BlobReader(self._index, "audio_latent_bytes", cache_bytes)
        self._visual, self._sync = (_Features(path, FEATURES, cache_bytes) for path in (visual, sync))
        self._captions = _Features(captions, CAPTIONS, cache_bytes)
        self._clip = lru_cache(maxsize=REMEMBERED)(self._make_clip)
        self.left_out = Counter(self._index.left_out)
        """Why rows of the sounds are not among the clips, and how many."""
        rows = self._index.by_clip()
        rows = self._with_features(rows)
        self.heldout = Clips(self._clip, self._of_split(rows, "heldout"))
        self.clips = Clips(self._clip, self._of_set(self._of_split(rows, "train"), clips))
        self.left_out["heldout"] += len(self.heldout)

    def task_data(self, config: SoundStageConfig) -> TaskData[SoundClip]:
        """The clips and batches of a stage.

        Raises ValueError if there are none, or naming a clip that the model cannot take.
        """
        model, task = config.model, config.task
        for name, table in (("visual", self._visual), ("sync", self._sync), ("text", self._captions)):
            table.check_width(name, getattr(model, f"{name}_dim"))
        if not self.clips:
            counts = ", ".join(f"{count} {why}" for why, count in (+self.left_out).most_common())
            raise ValueError(f"task {task.name}: no clip to train on. Rows of the sounds: {counts or 'none'}")
        rows = self.clips.rows
        tensors, kept = self._index.codes("tensor")
        for code in np.unique(tensors[rows]).tolist():
            clip = self.clips[int(np.flatnonzero(tensors[rows] == code)[0])]
            self.check_clip(clip, config)
        buckets, names = self._index.codes("bucket")
        both = buckets[rows].astype(np.int64) * len(kept) + tensors[rows]
        pairs, kind = np.unique(both, return_inverse=True)
        per_token, per_pair = token_cost(model)
        kinds = []
        for pair in pairs.tolist():
            steps = tensor_shape(kept[pair % len(kept)])[2]
            tokens = steps // model.patch[0] * (model.latent_rows // model.patch[1])
            cost = (per_token + media_tokens_cost(model, steps)) * tokens + per_pair * tokens * tokens
            kinds.append(Kind(names[pair // len(kept)], tokens, cost))
        codes, sources = self._index.codes("source")
        entries = Entries(tuple(kinds), kind.astype(np.int32), by_source(codes[rows], sources))
        return TaskData(task, self.clips, BatchPlan(task, entries, config.seed, config.cluster_batches))

    def check_clip(self, clip: SoundClip, config: SoundStageConfig) -> None:
        """Raise ValueError if the model cannot take a clip's latent."""
        model = config.model
        shape = self._index.place(clip.row).shape
        wanted = (2, model.in_channels, clip.steps, model.latent_rows)
        if shape != wanted:
            raise ValueError(
                f"task {config.task.name}: clip {clip.clip_id} has a latent of shape {list(shape)}, but the model "
                f"takes [2, {model.in_channels}, T, {model.latent_rows}]: set model.in_channels and "
                "model.latent_rows to what the audio codec gives"
            )
        if clip.steps < 1 or clip.steps % model.patch[0]:
            raise ValueError(
                f"task {config.task.name}: clip {clip.clip_id} of bucket {clip.bucket} has {clip.steps} latent steps, "
                f"which patch {list(model.patch)} (steps, rows) does not divide: take a patch of 1 step, or lengths "
                f"that are multiples of {model.patch[0]}"
            )

    def counts(self, column: str) -> Counter[str]:
        """How many clips may be trained on, by `source`."""
        codes, names = self._index.codes(column)
        counts = np.bincount(codes[self.clips.rows], minlength=len(names)).tolist()
        return +Counter(dict(zip(names, counts, strict=True)))

    def posterior(self, clip: SoundClip) -> Posterior:
        """What the clip's latent is drawn from: mean and std, each float32 [C, T, R]."""
        mean, std = self._latents.read(clip.row).float()
        return Posterior(mean, std)

    def media(self, clip: SoundClip) -> Media:
        """What the sound shall fit, as it was encoded; the text is None where the caption is empty."""
        said = None if clip.text_id == NO_TEXT else self._captions.read(clip.caption_row)
        return Media(self._visual.read(clip.visual_row), said, self._sync.read(clip.sync_row))

    def null_text(self) -> Tensor:
        """Features [L, Y] of the empty text. ValueError if they were not encoded."""
        row = self._captions.row(text_key(NO_TEXT))
        if row < 0:
            raise ValueError(f"{self._captions.directory} has no features of the empty text: encode the captions again")
        return self._captions.read(row).float()

    def latent_stats(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latents' channels over the training clips, each float32 [C].

        Raises ValueError if the file that has them is missing or damaged.
        """
        path = self._sounds / STATS_FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            mean, std = (torch.tensor(found[name], dtype=torch.float32) for name in ("mean", "std"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} does not tell mean and std of the latents ({error}): encode again") from error
        if mean.ndim != 1 or mean.shape != std.shape or not bool((std > 0).all()):
            raise ValueError(f"{path} must have a mean and a std above 0 for every channel: encode again")
        return mean, std

    def _with_features(self, rows: np.ndarray) -> np.ndarray:
        """The rows whose clips have all features; the others are counted by the first that they lack."""
        keys, texts = (self._index.values(name)[rows] for name in ("clip_key", "text_key"))
        found = (
            ("visual", self._visual.rows(keys)),
            ("sync", self._sync.rows(keys)),
            ("caption", self._captions.rows(texts)),
        )
        there = np.ones(len(rows), bool)
        for name, at in found:
            lacks = there & (at < 0)
            self.left_out[f"without {name} features"] += int(lacks.sum())
            there &= at >= 0
        return rows[there]

    def _of_split(self, rows: np.ndarray, split: str) -> np.ndarray:
        codes, names = self._index.codes("split")
        return rows[codes[rows] == (names.index(split) if split in names else -1)]

    def _of_set(self, rows: np.ndarray, wanted: str | None) -> np.ndarray:
        if wanted is None:
            return rows
        codes, names = self._index.codes("sets")
        has = np.array([wanted in one.split() for one in names], bool)
        chosen = has[codes[rows]] if len(names) else np.zeros(len(rows), bool)
        if not chosen.any():
            known = sorted({one for sets in names for one in sets.split()})
            raise ValueError(
                f"no clip to train on is of the set {wanted}; the sounds have {', '.join(known) or 'no sets'}: "
                "change `clips`, or the rules of the set in select.sets"
            )
        self.left_out[f"not of the set {wanted}"] = int((~chosen).sum())
        return rows[chosen]

    def _make_clip(self, row: int) -> SoundClip:
        def value(name: str) -> Any:
            return self._index.value(name, row)

        key, caption_row = value("clip_key"), self._captions.row(value("text_key"))
        return SoundClip(
            clip_id=value("clip_id"),
            source=value("source"),
            bucket=value("bucket"),
            split=value("split"),
            steps=self._index.place(row).shape[2],
            text_id=self._captions.index.value("text_id", caption_row),
            row=row,
            visual_row=self._visual.row(key),
            sync_row=self._sync.row(key),
            caption_row=caption_row,
        )
