"""CPU of an exported clip, by format, with and without the clips, against the plainest loop with the same files.

    python benchmarks/export_data.py

A loop writes the rows by `webdataset.TarWriter`, by pyarrow or by `csv`, and puts the bytes of whole files beside
them; a span it cuts out by PyAV, copying the packets from one key frame to another, as `ffmpeg -c copy` does. It takes
all for well: the export hashes each file and shard, holds each file against what was curated, cuts in a child process
that may hang, crash or grow, and decodes each cut once more. Rows are made beforehand, and CPU counts the child. Both
take turns, and the script ends where they wrote other clips. Needs webdataset.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from plain_curation import _made, spread

from curation.decode import PROBE_OPERATOR, ProbeConfig
from curation.export_folder import ExportPlan, clip_schema, export
from curation.export_media import ClipFiles
from curation.export_place import Folder
from curation.operator import Env, apply
from curation.schema import INGEST, status_ok, to_table
from lumina.files import sha256_file
from lumina.randomness import generator

WIDTH, HEIGHT, FPS, SECONDS, FILMS, SHARD, SCORES = 640, 360, 24, 10, 6, 1000, 30
ENV = Env("/")
Row = dict[str, Any]


class KeptClips(ClipFiles):
    """Clip files whose decoding process stays from one export to the next: to start one takes a second."""

    def into(self, folder: Path) -> ClipFiles:
        """The same, for another folder."""
        self._folder = folder
        return self

    def close(self) -> None:
        """Not yet."""


def film(path: Path, number: int) -> None:
    """Noise that moves, with a key frame a second."""
    rng = generator(11, "export data", number)
    noise = rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", FPS, options={"crf": "28", "x264-params": "scenecut=0:bframes=0"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", FPS
        for at in range(SECONDS * FPS):
            image = av.VideoFrame.from_ndarray(np.roll(noise, (2 * at, 3 * at), (0, 1)), "rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())


def rows_of(folder: Path, count: int) -> tuple[list[Row], list[Row]]:
    """Rows without clips, and rows of clips: of each film the whole, and a span of two seconds from every other on."""
    clips: list[Row] = []
    probe = _made(PROBE_OPERATOR, ProbeConfig(), ENV)
    for number in range(FILMS):
        path = folder / f"{number}.mp4"
        film(path, number)
        for start in (None, *range(0, SECONDS, 2)):
            row: Row = {"uri": str(path), "media": "video", "source": "web", "caption": f"noise {number}"}
            row |= {"sha256": sha256_file(path), "num_bytes": path.stat().st_size, "extra": "{}"} | status_ok()
            row |= {"span_start_s": None if start is None else float(start), "clip_id": f"{len(clips):032x}"}
            row |= {"span_end_s": None if start is None else start + 2.0}
            [probed] = apply(PROBE_OPERATOR, probe, to_table([row], INGEST)).to_pylist()
            if probed["status"] != "ok":
                raise SystemExit(f"{path}: {probed['detail']}")
            clips.append(row | probed)
    rng = generator(11, "scores")
    for row in clips:
        row |= {f"score_{at}": float(value) for at, value in enumerate(rng.normal(size=SCORES))}
    return [clips[at % len(clips)] | {"clip_id": f"{at:032x}"} for at in range(count)], clips


def schema_of(row: Row) -> pa.Schema:
    """Columns of an export, less those that differ from run to run."""
    texts = ("clip_id", "source", "caption", "media", "uri", "sha256", "codec", "container", "extra")
    numbers = ("span_start_s", "span_end_s", "fps", "duration_s", *(name for name in row if name.startswith("score_")))
    fields = [(name, pa.string()) for name in texts] + [(name, pa.float64()) for name in numbers]
    return pa.schema([*fields, ("num_bytes", pa.int64()), ("width", pa.int32()), ("height", pa.int32())])


def cpu_s() -> float:
    """Of this process and its children, to the nanosecond."""
    total = time.process_time()
    for task in os.listdir("/proc/self/task"):
        for child in Path(f"/proc/self/task/{task}/children").read_text().split():
            for thread in os.listdir(f"/proc/{child}/task"):
                total += int(Path(f"/proc/{child}/task/{thread}/schedstat").read_text().split()[0]) / 1e9
    return total


def content(row: Row) -> bytes:
    """The bytes of a clip, the plainest way."""
    if row["span_start_s"] is None:
        return Path(row["uri"]).read_bytes()
    buffer = io.BytesIO()
    with av.open(row["uri"]) as source, av.open(buffer, "w", "mp4") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        ticks = 1 / (stream.time_base or 1)
        start, end = (round(row[name] * ticks) for name in ("span_start_s", "span_end_s"))
        source.seek(start, stream=stream)
        for packet in source.demux(stream):
            if packet.pts is None or packet.pts >= end:
                break
            packet.pts, packet.dts, packet.stream = packet.pts - start, (packet.dts or 0) - start, copy
            target.mux(packet)
    return buffer.getvalue()


def plain(format: str, out: Path, rows: Sequence[Row], schema: pa.Schema, clips: bool) -> None:
    """Write shards by the libraries alone."""
    for number, start in enumerate(range(0, len(rows), SHARD)):
        path, shard = out / f"train-{number:05d}", rows[start : start + SHARD]
        told = ({name: row[name] for name in schema.names} for row in shard)
        if format == "webdataset":
            with webdataset.TarWriter(f"{path}.tar") as tar:
                for row, one in zip(shard, told, strict=True):
                    sample = {"__key__": row["clip_id"], "json": one, "txt": row["caption"]}
                    tar.write(sample | ({"mp4": content(row)} if clips else {}))
        elif format == "parquet":
            lines = [one | ({"video": content(row)} if clips else {}) for row, one in zip(shard, told, strict=True)]
            columns = schema.append(pa.field("video", pa.binary())) if clips else schema
            pq.write_table(pa.Table.from_pylist(lines, columns), f"{path}.parquet", compression="zstd")
        else:
            with Path(f"{path}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, schema.names)
                writer.writeheader()
                writer.writerows(told)
            if clips:
                path.mkdir()
                for row in shard:
                    (path / f"{row['clip_id']}.mp4").write_bytes(content(row))


def written(out: Path, format: str) -> list[str]:
    """Ids of the clips in a folder, in their order."""
    found: list[str] = []
    for path in sorted(out.glob("train-*.*")):
        if format == "webdataset":
            with tarfile.open(path) as tar:
                found += [name.partition(".")[0] for name in tar.getnames() if name.endswith(".json")]
        elif format == "parquet":
            found += pq.read_table(path, columns=["clip_id"])["clip_id"].to_pylist()
        else:
            with path.open(newline="", encoding="utf-8") as file:
                found += [row["clip_id"] for row in csv.DictReader(file)]
    return found


def compare(format: Any, rows: list[Row], made: KeptClips | None, rounds: int) -> None:
    """Print the line of a format; SystemExit where the two wrote other clips."""
    plan = ExportPlan("bench", "folder", {}, format, made is not None, SHARD, {})
    plain_schema = schema_of(rows[0])
    schema = clip_schema(plain_schema, plan, ["video"])

    def read(_split: str) -> Iterator[Row]:
        return iter(rows)

    ours, loop = [], []
    for turn in range(rounds + 1):  # the first starts the child
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            start = cpu_s()
            clips: Callable[[Path], ClipFiles] | None = made.into if made is not None else None
            index = export(Folder(Path(one)), plan, schema, ["train"], read, clips)
            between = cpu_s()
            plain(format, Path(other), rows, plain_schema, made is not None)
            end = cpu_s()
            if written(Path(one), format) != written(Path(other), format) or index["left_out"]:
                raise SystemExit(f"{format}: the export has other clips than the loop")
        if turn:
            ours.append((between - start) / len(rows))
            loop.append((end - between) / len(rows))
    ratios = [one / other for one, other in zip(ours, loop, strict=True)]
    how = f", {index['how']}" if made is not None else ""
    print(
        f"{format}{' --clips' if made is not None else ''}: {1 / np.median(ours):,.0f} clips a second of CPU, loop "
        f"{1 / np.median(loop):,.0f}; times its CPU {spread(ratios, '.2f')} over {rounds} rounds{how}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000, help="rows of the exports without clips")
    parser.add_argument("--rounds", type=int, default=3, help="how often both export")
    args = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        rows, clips = rows_of(Path(folder), args.rows)
        for made, format in itertools.product((None, KeptClips(ENV, Path(folder))), ("webdataset", "parquet", "csv")):
            compare(format, rows if made is None else clips, made, args.rounds)


if __name__ == "__main__":
    main()
