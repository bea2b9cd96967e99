"""Near-duplicates: what is found among made copies, and what looking for them costs.

    python benchmarks/near_duplicates.py --copies 40 --others 330 --clips ../shared/clips
    python benchmarks/near_duplicates.py --scale 100000 1000000
    python benchmarks/near_duplicates.py --semantic 20000 60000

The first renders clips of Shapes, `--others` of each source, and copies of `--copies` of them (and of each film in
`--clips`): encoded again, smaller, cropped, between bars, shifted and mirrored. It prints how many copies of each kind
are found with the clip they are made of, and how many pairs of other clips are taken for copies, at several greatest
distances. Times are of CPU, for the hashes of a decoded clip.

The second looks up hashes that are drawn at random, with one copy planted for every hundred clips, of which each hash
has other bits: it prints CPU and memory for each clip, their ratios to those of the smallest table, the share of
planted copies found, and the ratio to the time of comparing each hash with all, as a plain script does.

The third does so for embeddings of 512 numbers around drawn topics: of every fifty clips one has a copy with a cosine
of 0.95 to 1; all clips are compared by a product of matrices for the ratio.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import av
import cv2
import numpy as np

from curation.frame_hashes import HASHED, SIDE, STEP_S, TIMES, hash_frames, squash
from curation.hash_lookup import MOST_BITS, HashFile, candidates
from curation.near_duplicates import MOST_DISTANCE, clusters, distances
from curation.semantic_duplicates import semantic_pairs, whole_numbers
from lumina.randomness import generator
from lumina.shapes import SOURCES
from lumina.shapes.scene import sample_scene
from lumina.shapes.sources import film
from lumina.video import read_frames, write_h264

FPS, SECONDS, SIDE_OF_SHAPES, SIZE = 16, 2.2, 96, (96, 96)
LIMITS = (0.1, 0.12, MOST_DISTANCE, 0.16, 0.2)
PLAIN_CLIPS, DRAWN_CLIPS = 2000, 1 << 16
TOPIC_WIDTH = 64


def rendered(source: str, number: int) -> np.ndarray:
    """A clip of Shapes [T, H, W, 3]."""
    rng = generator(20, "near duplicates", source, number)
    size = {"height": SIDE_OF_SHAPES, "width": SIDE_OF_SHAPES}
    return film(sample_scene(rng), SOURCES[source], rng, num_frames=round(FPS * SECONDS), fps=FPS, **size)


def of_file(path: Path) -> tuple[np.ndarray, float]:
    """The first seconds of a film, 320 pixels wide at most, and its frame rate."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate)
        for number, frame in enumerate(container.decode(stream)):
            picture = frame.to_ndarray(format="rgb24")
            scale = min(1, 320 / max(picture.shape))
            frames.append(_sized(picture[None], scale)[0])
            if number > 3.5 * rate:
                break
    return np.stack(frames), rate


def _sized(frames: np.ndarray, scale: float) -> np.ndarray:
    height, width = (max(16, int(side * scale) // 2 * 2) for side in frames.shape[1:3])
    return np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in frames])


def _cropped(frames: np.ndarray, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    height, width = frames.shape[1:3]
    return frames[:, round(top * height) : height - round(bottom * height),
                  round(left * width) : width - round(right * width)]  # fmt: skip


def copies(frames: np.ndarray, rate: float) -> Iterator[tuple[str, np.ndarray]]:
    """What a clip may have gone through before it is encoded again."""
    high, wide = (round(0.14 * side) for side in frames.shape[1:3])
    yield "re-encoded", frames
    yield "rescaled to 2/3", _sized(frames, 2 / 3)
    yield "cropped by 5 % at each side", _cropped(frames, 0.05, 0.05, 0.05, 0.05)
    yield "cropped by 10 % at two sides", _cropped(frames, 0.1, 0.1, 0, 0)
    yield "cropped by 10 % at one side", _cropped(frames, 0, 0, 0.1, 0)
    yield "cropped by 6 % at one side", _cropped(frames, 0.06, 0, 0, 0)
    yield "bars above and below", np.pad(frames, ((0, 0), (high, high), (0, 0), (0, 0)))
    yield "bars left and right", np.pad(frames, ((0, 0), (0, 0), (wide, wide), (0, 0)))
    yield "shifted by 0.12 s", frames[round(0.12 * rate) :]
    yield "shifted by 0.3 s", frames[round(0.3 * rate) :]
    yield "shifted by 1 s", frames[round(rate) :]
    yield "mirrored", frames[:, :, ::-1]


def encoded(frames: np.ndarray, rate: float, crf: int) -> np.ndarray:
    """Frames as H.264 leaves them."""
    even = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        write_h264(Path(file.name), np.ascontiguousarray(even), fps=rate, crf=crf, preset="veryfast")
        return read_frames(Path(file.name))


class Hashed:
    """Hashes and thumbnails of clips, as the stage has them."""

    def __init__(self) -> None:
        self.names: list[tuple[str, str]] = []
        self.hashes: list[np.ndarray] = []
        self.pictures: list[np.ndarray] = []
        self.seconds = 0.0

    def add(self, clip: str, kind: str, frames: np.ndarray, rate: float) -> None:
        shown = [round(step * STEP_S * rate) for step in range(TIMES) if step * STEP_S < len(frames) / rate]
        small = squash(frames[np.minimum(shown, len(frames) - 1)], SIZE)
        start = time.process_time()
        found = hash_frames(small)
        self.seconds += time.process_time() - start
        self.names.append((clip, kind))
        self.hashes.append(found.hashes)
        self.pictures.append(found.thumbnails)


def measure_copies(hashed: Hashed) -> None:
    """Print what is found of each kind, and what is taken for it."""
    start = time.process_time()
    pairs = candidates(in_file(np.stack(hashed.hashes)))
    looked_up = time.process_time()
    times = np.array([len(one) for one in hashed.pictures], np.int8)
    pictures = np.zeros((len(times), TIMES, SIDE, SIDE, 3), np.uint8)
    for place, one in enumerate(hashed.pictures):
        pictures[place, : len(one)] = one
    found = distances(pairs, times, lambda some: pictures[some])
    compared = time.process_time()
    clips, kinds = zip(*hashed.names, strict=True)
    nearest, false = dict[int, float](), dict[tuple[int, int], float]()
    for first, second, distance in zip(pairs.first.tolist(), pairs.second.tolist(), found.tolist(), strict=True):
        if clips[first] != clips[second]:
            pair = min(first, second), max(first, second)
            false[pair] = min(distance, false.get(pair, np.inf))
        elif "whole" in (kinds[first], kinds[second]):
            copy = second if kinds[first] == "whole" else first
            nearest[copy] = min(distance, nearest.get(copy, np.inf))
    by_kind = defaultdict(list)
    for place, kind in enumerate(kinds):
        if kind != "whole":
            by_kind[kind].append(nearest.get(place, np.inf))
    print(f"{'share found, at distances up to':32}", *(f"{limit:>6.2f}" for limit in LIMITS), "    clips")
    for kind, values in by_kind.items():
        print(f"{kind:32}", *(f"{np.mean(np.array(values) <= one):>6.3f}" for one in LIMITS), f"{len(values):>9}")
    whole = {pair: one for pair, one in false.items() if {kinds[place] for place in pair} == {"whole"}}
    for name, among in (("pairs of other clips", whole), ("the same with all copies", false)):
        print(f"{name:32}", *(f"{sum(one <= limit for one in among.values()):>6}" for limit in LIMITS),
              f"{len(among):>9} with like hashes")  # fmt: skip
    for pair in sorted(false, key=lambda one: false[one])[:5]:
        print(f"  nearest: {false[pair]:.3f} {hashed.names[pair[0]]} {hashed.names[pair[1]]}")
    count = len(clips)
    hashing, looking, comparing = (
        1e3 * seconds / count for seconds in (hashed.seconds, looked_up - start, compared - looked_up)
    )
    print(
        f"{count} clips, {len(pairs)} candidates. CPU of a clip: {hashing:.2f} ms of hashing, {looking:.2f} of "
        f"look-up, {comparing:.2f} of comparing"
    )


def in_file(hashes: np.ndarray) -> HashFile:
    """Hashes of clips as they are looked up."""
    file = HashFile(len(hashes))
    file.add(np.arange(len(hashes)), hashes)
    return file


def drawn(clips: int) -> Iterator[np.ndarray]:
    """Random hashes [n, 81], some at a time; each hundredth clip is there again at the end, with 4 bits of the hash of
    each whole frame turned."""
    rng = np.random.Generator(np.random.Philox(7))
    copied = clips // 100
    originals = rng.integers(1, 1 << 63, (copied, len(HASHED)), dtype=np.uint64)
    yield originals
    for at in range(2 * copied, clips, DRAWN_CLIPS):
        yield rng.integers(1, 1 << 63, (min(DRAWN_CLIPS, clips - at), len(HASHED)), dtype=np.uint64)
    for _ in range(4):
        originals[:, :TIMES] ^= np.uint64(1) << rng.integers(0, 63, (copied, TIMES), dtype=np.uint64)
    yield originals


def look_up(clips: int) -> None:
    """Print seconds of CPU, peak of memory in MB, planted copies and those found, and candidates."""
    hashes, at, planted = HashFile(clips), 0, clips // 100
    for some in drawn(clips):
        hashes.add(np.arange(at, at + len(some)), some)
        at += len(some)
    start = time.process_time()
    pairs = candidates(hashes)
    clusters(clips, pairs.first, pairs.second)
    seconds = time.process_time() - start
    is_planted = (pairs.first < planted) & (pairs.second == pairs.first + clips - planted)
    found = len(np.unique(pairs.first[is_planted]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(seconds, peak, planted, found, len(pairs))


def plain() -> float:
    """Seconds of CPU for each pair of clips, of comparing all hashes of one with all whole frames of the other."""
    hashes = np.concatenate(list(drawn(PLAIN_CLIPS)))
    start = time.process_time()
    for clip in hashes[:20]:
        (np.bitwise_count(clip[:, None, None] ^ hashes[None, :, :TIMES]) <= MOST_BITS).any()
    return (time.process_time() - start) / (20 * PLAIN_CLIPS)


def measure_scale(sizes: list[int]) -> None:
    """Print the cost of a clip at each size."""
    pair, first = plain(), (0.0, 0.0)
    print(f"plain: {1e6 * pair:.2f} us a pair of clips")
    for clips in sizes:
        command = [sys.executable, __file__, "--look-up", str(clips)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds, peak, planted, found, pairs = map(float, done.stdout.split())
        each = seconds / clips, peak / clips
        first = first if any(first) else each
        time_ratio, memory_ratio = (one / of for one, of in zip(each, first, strict=True))
        print(
            f"{clips:>9} clips: {seconds:.1f} s of CPU, {1e6 * each[0]:.0f} us a clip ({time_ratio:.2f} of the "
            f"smallest's); peak {peak:.0f} MB, {1024 * each[1]:.2f} kB a clip ({memory_ratio:.2f}); {found:.0f} of "
            f"{planted:.0f} copies found, {pairs:.0f} candidates; {each[0] / (pair * clips / 2):.2g} of the plain time"
        )


def drawn_embeddings(clips: int) -> tuple[np.ndarray, int]:
    """Embeddings [clips, 512] about one mean as those of CLIP are, around 200 clips a topic; how many have a copy."""
    rng = np.random.Generator(np.random.Philox(7))
    weights = 1 / np.sqrt(1 + np.arange(TOPIC_WIDTH))
    topics = rng.standard_normal((max(8, clips // 200), TOPIC_WIDTH))
    own = (topics[rng.integers(0, len(topics), clips)] + 0.6 * rng.standard_normal((clips, TOPIC_WIDTH))) * weights
    mean, basis = rng.standard_normal(512), np.linalg.qr(rng.standard_normal((512, TOPIC_WIDTH)))[0]
    found = own @ basis.T / np.linalg.norm(weights) + 0.9 * mean / np.linalg.norm(mean)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    copied = clips // 50
    first, turn = found[:copied], rng.standard_normal((copied, 512))
    turn -= (turn * first).sum(axis=1, keepdims=True) * first
    cosine = rng.uniform(0.95, 1, (copied, 1))
    found[-copied:] = cosine * first + np.sqrt(1 - cosine**2) * turn / np.linalg.norm(turn, axis=1, keepdims=True)
    return np.stack([whole_numbers(one) for one in found]), copied


def measure_semantic(sizes: list[int]) -> None:
    """Print the cost of a clip at each size, and the share of planted copies that is found."""
    for clips in sizes:
        embeddings, copied = drawn_embeddings(clips)
        start = time.process_time()
        first, second = semantic_pairs(embeddings, 0.951)
        seconds = time.process_time() - start
        label, plain = clusters(clips, first, second), time.process_time()
        vectors = embeddings.astype(np.float32)
        for at in range(0, 1024, 256):
            np.nonzero(vectors[at : at + 256] @ vectors.T >= 0.951 * 4000**2)
        each = (time.process_time() - plain) / 1024
        planted = np.arange(copied)
        products = (vectors[:copied] * vectors[-copied:]).sum(axis=1)
        products /= np.linalg.norm(vectors[:copied], axis=1) * np.linalg.norm(vectors[-copied:], axis=1)
        near = planted[products >= 0.951]
        share = np.mean(label[near] == label[clips - copied + near])
        print(
            f"{clips:>9} clips: {seconds:.1f} s of CPU, {1e6 * seconds / clips:.0f} us a clip; {share:.4f} of "
            f"{len(near)} copies found, {len(np.unique(label))} groups; {seconds / clips / each:.2g} of the plain time"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=40, help="clips of each source of Shapes that are copied")
    parser.add_argument("--others", type=int, default=330, help="clips of each source")
    parser.add_argument("--clips", type=Path, help="a folder of films that are copied, too")
    parser.add_argument("--scale", type=int, nargs="+", help="measure look-up at these numbers of clips instead")
    parser.add_argument("--semantic", type=int, nargs="+", help="measure embeddings at these numbers of clips instead")
    parser.add_argument("--look-up", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if args.look_up:
        look_up(args.look_up)
    elif args.semantic:
        measure_semantic(args.semantic)
    elif args.scale:
        measure_scale(args.scale)
    else:
        shapes, real = Hashed(), Hashed()
        for source in SOURCES:
            for number in range(args.others):
                frames = encoded(rendered(source, number), FPS, SOURCES[source].crf)
                shapes.add(f"{source} {number}", "whole", frames, FPS)
                for kind, copy in copies(frames, FPS) if number < args.copies else ():
                    shapes.add(f"{source} {number}", kind, encoded(copy, FPS, 32), FPS)
        print("Shapes, encoded again with crf 32")
        measure_copies(shapes)
        for path in sorted(args.clips.iterdir()) if args.clips else ():
            try:
                frames, rate = of_file(path)
            except (av.error.FFmpegError, IndexError) as error:
                print(f"{path.name} is left out: {error}")
                continue
            real.add(path.name, "whole", frames, rate)
            for kind, copy in copies(frames, rate) if len(frames) > 1.2 * rate else ():
                real.add(path.name, kind, encoded(copy, rate, 30), rate)
        if args.clips:
            print(f"Films of {args.clips}, encoded again with crf 30")
            measure_copies(real)


if __name__ == "__main__":
    main()
