"""Files that lie: intact videos and images, damaged in every way that real datasets show."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from lumina.randomness import generator

KINDS = (
    "intact",
    "bits",
    "cut",
    "extension",
    "empty",
    "tracks",
    "header",
    "directory",
    "loop",
    "vanish",
    "hang",
    "crash",
)
"""What is done to a file; its name begins with it. `hang` and `crash` do so in `tests.curation.hostile_child`."""


def make_files(folder: Path, bases: Sequence[Path], count: int, seed: int = 0, rare: int = 40) -> dict[str, str]:
    """Write `count` files and a manifest `clips.csv` that lists them; returns the kind of each by its name.

    The first of the bases is an H.264 video.

    Of every `rare` files one hangs and one crashes its decoder: each costs a deadline.
    """
    kinds = {}
    common = [kind for kind in KINDS if kind not in ("hang", "crash")]
    for number in range(count):
        rng = generator(seed, "fuzz", number)
        base = bases[rng.integers(len(bases))]
        kind = {0: "hang", 1: "crash"}.get(number % rare, common[rng.integers(len(common))])
        if kind == "tracks":
            base = bases[0]
        damaged = _damage(folder / f"{kind}-{number:04}{base.suffix}", base, kind, rng)
        kinds[damaged.name] = kind
    with (folder / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", "caption", "source"])
        writer.writerows([name, f"a {kind} clip", "fuzz"] for name, kind in kinds.items())
    return kinds


def vanish(folder: Path) -> None:
    """Remove the files that are to vanish."""
    for path in folder.glob("vanish-*"):
        path.unlink()


def _damage(path: Path, base: Path, kind: str, rng: np.random.Generator) -> Path:
    data = bytearray(base.read_bytes())
    if kind == "extension":
        path = path.with_suffix(".png" if base.suffix != ".png" else ".mp4")
    elif kind == "bits":
        for place in rng.integers(len(data), size=int(rng.integers(1, 60))):
            data[place] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del data[int(rng.integers(1, len(data))) :]
    elif kind == "empty":
        data.clear()
    elif kind == "header":
        _overwrite_headers(data, rng)
    # A byte of its own at the end, which no decoder reads: else most would be duplicates.
    content = bytes(data) + (path.name.encode() if data else b"")
    if kind == "directory":
        path.mkdir()
    elif kind == "loop":
        os.symlink(path.name, path)
    elif kind == "tracks":
        _swap_tracks(path, base, rng)
    else:
        path.write_bytes(content)
    return path


def _overwrite_headers(data: bytearray, rng: np.random.Generator) -> None:
    """Put absurd numbers behind the names of MP4 boxes, or into the first bytes where there are none."""
    places = [data.find(name) for name in (b"tkhd", b"mvhd", b"mdhd", b"avc1", b"stsz", b"stts", b"stco", b"avcC")]
    places = [place + 4 for place in places if place >= 0] or [8]
    for place in rng.choice(places, size=min(len(places), int(rng.integers(1, 4))), replace=False):
        start = int(place) + int(rng.integers(0, 80))
        absurd = bytes([255] * 8) if rng.random() < 0.5 else bytes(8)
        data[start : start + 8] = absurd[: max(0, len(data) - start)]


def _swap_tracks(path: Path, base: Path, rng: np.random.Generator) -> None:
    """Audio before video, two videos, or audio alone."""
    form = int(rng.integers(3))
    with av.open(str(base)) as source, av.open(str(path), "w", format="matroska") as target:
        sound = target.add_stream("aac", rate=44100)
        video = source.streams.video[0]
        for copy in [target.add_stream_from_template(video) for _ in range((1, 2, 0)[form])]:
            source.seek(0)
            for packet in source.demux(video):
                if packet.dts is not None:
                    packet.stream = copy
                    target.mux(packet)
        noise = rng.normal(0, 0.1, (1, 44100)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
        frame.sample_rate = 44100
        target.mux(sound.encode(frame))
        target.mux(sound.encode())
