"""Clips of an export as files of their own: a whole file byte for byte, a span cut out of its film."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pyarrow as pa

from curation.decoder import Decoder
from curation.media import chunks, localized
from curation.media_kinds import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from curation.media_uris import suffix
from curation.operator import Env
from curation.schema import Reason, RowError
from curation.span_cuts import cut_span
from lumina.faults import patiently
from lumina.files import sha256_file

CLIP_COLUMNS: Mapping[str, pa.DataType] = {
    "clip_how": pa.string(),
    "clip_why": pa.string(),
    "clip_sha256": pa.string(),
    "clip_bytes": pa.int64(),
}
"""What is told of a clip's file: `whole` (the file as it was), `copied` (its packets) or `encoded` (anew, as H.264),
and why; the digest and size of the file."""
_ENDINGS = {"mov": ".mp4", "matroska": ".mkv", "jpeg": ".jpg", "mpegts": ".ts", "mpeg": ".mpg"}
_AHEAD = 2
Row = Mapping[str, Any]


@dataclass(frozen=True)
class ClipFile:
    """The file of a clip."""

    path: Path
    """To be moved or removed by whoever asked for it."""
    told: Mapping[str, Any]
    """`CLIP_COLUMNS`."""


class ClipFiles:
    """Makes the files of clips in a folder, a few at a time, in the order asked for.

    Args:
        env: where the media are.
        folder: for the files.
        workers: clips at a time; each has a decoding process of its own.
    """

    def __init__(self, env: Env, folder: Path, workers: int = 1) -> None:
        self._env, self._folder = env, folder
        self._decoders = [Decoder(env.limits) for _ in range(workers)]
        self._free: SimpleQueue[Decoder] = SimpleQueue()
        for decoder in self._decoders:
            self._free.put(decoder)
        self._threads = ThreadPoolExecutor(workers, "export")

    def of(self, rows: Sequence[Row]) -> Iterator[tuple[Row, ClipFile | RowError]]:
        """Each row with its file, or why it has none; MachineError where the machine is at fault."""
        waiting: list[tuple[Row, Future[ClipFile | RowError]]] = []
        source = iter(rows)
        while True:
            more = list(islice(source, max(0, _AHEAD * len(self._decoders) - len(waiting))))
            waiting += [(row, self._threads.submit(self._made, row)) for row in more]
            if not waiting:
                return
            row, future = waiting.pop(0)
            yield row, future.result()

    def close(self) -> None:
        """End the decoding processes."""
        self._threads.shutdown(cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()

    def _made(self, row: Row) -> ClipFile | RowError:
        with self._decoder() as decoder:
            try:
                return patiently(partial(self._make, row, decoder), str(row["uri"]))
            except RowError as error:
                return error

    @contextmanager
    def _decoder(self) -> Iterator[Decoder]:
        decoder = self._free.get()
        try:
            yield decoder
        finally:
            self._free.put(decoder)

    def _make(self, row: Row, decoder: Decoder) -> ClipFile:
        if row["span_start_s"] is None:
            path, how, why = self._whole(row), "whole", ""
        else:
            path = self._folder / f"{row['clip_id']}.mp4"
            with localized(row["uri"], self._env.media_root, self._env.stores) as film:
                if film.stat().st_size != row["num_bytes"]:
                    raise _changed(row)
                cut = cut_span(decoder, film, row, path)
            how, why = ("copied" if cut.copied else "encoded"), cut.why
        told = {"clip_how": how, "clip_why": why, "clip_sha256": sha256_file(path), "clip_bytes": path.stat().st_size}
        return ClipFile(path, told)

    def _whole(self, row: Row) -> Path:
        path, sha = self._folder / f"{row['clip_id']}{_ending(row)}", hashlib.sha256()
        with path.open("wb") as copy:
            for chunk in chunks(row["uri"], self._env.media_root, self._env.stores):
                sha.update(chunk)
                copy.write(chunk)
        if sha.hexdigest() != row["sha256"]:
            raise _changed(row)
        return path


def _changed(row: Row) -> RowError:
    return RowError(Reason.UNREADABLE_FILE, f"{row['uri']}: the file is not what was curated: its content has changed")


def _ending(row: Row) -> str:
    """The extension of a file, by its name, else by what was found in it."""
    ending, known = suffix(row["uri"]), IMAGE_SUFFIXES if row["media"] == "image" else VIDEO_SUFFIXES
    if ending in known:
        return ending
    found = (row["codec"] if row["media"] == "image" else row["container"]) or ""
    return _ENDINGS.get(found, f".{found}" if f".{found}" in known else ".bin")
