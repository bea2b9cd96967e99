"""Latents and features of clips with sound on one CPU core: clips per second, by part, against the plainest loop.

    python benchmarks/sound_features.py --clips 100                  # Shapes clips of 8 s, the zoo's networks
    python benchmarks/sound_features.py --codec DIR --clip DIR --synchformer DIR --media ../clips/*.mp4

The loop decodes each file with PyAV, once for its sound and once for its frames, which it keeps as they are shown; it
makes log-mels, latents and features with the package's own functions and writes all of a clip by numpy.savez. The
stages are encode_sound, encode_visual and encode_sync as a worker runs them, their decoding processes included, and
write Parquet. Both sit on one core and take turns, clip by clip; the first clips warm up. Times are CPU seconds. The
script ends where the features differ, or where latents do (a film whose sound is not mono at 16 kHz is resampled by
FFmpeg in the loop, and not compared).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import av
import numpy as np
import pyarrow.parquet as pq
import torch

from curation.decode import PROBE_OPERATOR, ProbeConfig
from curation.operator import Env, Halves, Operator, apply
from curation.schema import INGEST, SELECT, status_ok, to_table
from curation.sound_clips import planned_schema
from curation.sound_latents import ENCODE_SOUND_OPERATOR
from curation.sync_features import ENCODE_SYNC_OPERATOR
from curation.tensors import unpack
from curation.visual_features import ENCODE_VISUAL_OPERATOR
from lumina import zoo
from lumina.audio_tracks import AudioTrack
from lumina.randomness import generator
from lumina.shapes import SOURCES, film, sample_sound_scene, waveform
from lumina.video import write_h264
from lumina.video_to_audio.frames import grid_indices
from lumina.video_to_audio.lengths import SAMPLE_RATE, SYNC_FPS, VISUAL_FPS, lengths
from lumina.video_to_audio.log_mel import filter_bank
from lumina.video_to_audio.networks.clip import load_clip_features
from lumina.video_to_audio.networks.codec import encode, load_encoder
from lumina.video_to_audio.networks.synchformer import load_synchformer

ZOO = Path(zoo.__file__).parent
SECONDS, FPS = 8, 25
PARTS = ("decode sound", "mel and VAE", "decode frames", "CLIP", "Synchformer", "write")
OPERATORS = (ENCODE_SOUND_OPERATOR, ENCODE_VISUAL_OPERATOR, ENCODE_SYNC_OPERATOR)
COLUMNS = (("audio_latent", "latents"), ("feature", "visual"), ("feature", "sync"))
WARM = 2


class Loop:
    """The plain loop: a file to its latents and features, and CPU seconds of its parts."""

    def __init__(self, weights: dict[str, str], out: Path) -> None:
        self.vae, self.scale = load_encoder(weights["audio_codec"])
        self.clip, self.sync = load_clip_features(weights["clip"]), load_synchformer(weights["synchformer"])
        self.out = out

    def __call__(self, path: Path, _row: dict[str, Any]) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        clock = [time.process_time()]
        wave = _sound(path)
        clock.append(time.process_time())
        needed = lengths(min(SECONDS, len(wave) / SAMPLE_RATE))
        found = encode(self.vae, self.scale, filter_bank(torch.from_numpy(wave), needed.mel_frames)[None])
        latents = torch.stack([found.mean[0], found.std[0]])
        clock.append(time.process_time())
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            frames = [(frame.time or 0.0, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
        stamps = [stamp - frames[0][0] for stamp, _ in frames]
        taken = {
            fps: np.stack([frames[index][1] for index in grid_indices(stamps, fps, count)])
            for fps, count in ((VISUAL_FPS, needed.visual_frames), (SYNC_FPS, needed.sync_frames))
        }
        clock.append(time.process_time())
        visual = self.clip.visual(taken[VISUAL_FPS])
        clock.append(time.process_time())
        sync = self.sync.features(taken[SYNC_FPS])
        clock.append(time.process_time())
        np.savez(self.out / f"{path.stem}.npz", latents=latents, visual=visual, sync=sync)
        clock.append(time.process_time())
        return {"latents": latents, "visual": visual, "sync": sync}, np.diff(clock)


def _sound(path: Path) -> np.ndarray:
    parts, count = [], 0
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        stream.codec_context.thread_count = 1
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        for frame in container.decode(stream):
            for one in resampler.resample(frame):
                # The encoder's delay is stamped before 0.
                parts.append(one.to_ndarray()[0][max(0, -(one.pts or 0)) :])
                count += len(parts[-1])
            if count >= SECONDS * SAMPLE_RATE:
                break
    return np.concatenate(parts)[: SECONDS * SAMPLE_RATE]


class Stages:
    """The stages: a file to its rows, and CPU seconds of their parts, decoding processes included.

    The half that decodes runs before the half that computes here, and not beside the one before.
    """

    def __init__(self, weights: dict[str, str], out: Path) -> None:
        env = Env("/", weights)
        self.halves = [_halves(operator, env) for operator in OPERATORS]
        self.out = out

    def __call__(self, path: Path, row: dict[str, Any]) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        took, found = np.zeros(len(PARTS)), {}
        for operator, halves, (decode, compute), (column, name) in zip(
            OPERATORS, self.halves, ((0, 1), (2, 3), (2, 4)), COLUMNS, strict=True
        ):
            planned = to_table([row | _planned(row)], planned_schema(operator.schema))
            clock = [_cpu_s()]
            loaded = halves.load(planned)
            clock.append(_cpu_s())
            table = halves.compute(loaded)
            clock.append(_cpu_s())
            pq.write_table(table, self.out / f"{path.stem}.{operator.name}.parquet", compression="none")
            clock.append(_cpu_s())
            took[[decode, compute, PARTS.index("write")]] += np.diff(clock)
            [made] = table.to_pylist()
            if made["status"] != "ok":
                raise SystemExit(f"{path}: {operator.name}: {made['reason']}: {made['detail']}")
            found[name] = unpack(*(made[f"{column}_{part}"] for part in ("bytes", "shape", "dtype")))
        return found, took


def _halves(operator: Operator, env: Env) -> Halves:
    halves = None if operator.map is None else operator.map(operator.config(), env)
    if not isinstance(halves, Halves):
        raise TypeError(f"{operator.name} is not in halves")
    return halves


def _planned(row: dict[str, Any]) -> dict[str, Any]:
    return {"bucket": str(lengths(min(SECONDS, row["duration_s"])).latents), "recipe_id": ""}


def _cpu_s() -> float:
    """Of this process and its children, to the nanosecond."""
    total = time.process_time()
    for child in Path("/proc/thread-self/children").read_text().split():
        for thread in os.listdir(f"/proc/{child}/task"):
            total += int(Path(f"/proc/{child}/task/{thread}/schedstat").read_text().split()[0]) / 1e9
    return total


def probed(path: Path) -> dict[str, Any]:
    """A file's row as selection hands it on."""
    if PROBE_OPERATOR.map is None:
        raise TypeError("probe computes nothing in workers")
    row = {"uri": str(path), "media": "video", "source": "", "caption": "", "sha256": path.name, "num_bytes": 1}
    row |= {"span_start_s": None, "span_end_s": None, "clip_id": path.name, "extra": "{}"} | status_ok()
    [found] = apply(PROBE_OPERATOR, PROBE_OPERATOR.map(ProbeConfig(), Env("/")), to_table([row], INGEST)).to_pylist()
    if found["status"] != "ok":
        raise SystemExit(f"{path}: {found['reason']}: {found['detail']}")
    return {name: found.get(name) for name in SELECT.names}


def check(path: Path, ours: dict[str, torch.Tensor], plain: dict[str, torch.Tensor]) -> None:
    """SystemExit if two do not find the same in a file."""
    with av.open(str(path)) as container:
        heard = container.streams.audio[0]
        exact = heard.rate == SAMPLE_RATE and heard.codec_context.layout.nb_channels == 1
    for name in ("latents", "visual", "sync") if exact else ("visual", "sync"):
        if ours[name].shape != plain[name].shape or not torch.allclose(ours[name], plain[name], rtol=1e-3, atol=1e-3):
            raise SystemExit(f"{path}: {name} differ, so there is nothing to compare")


def render(folder: Path, clips: int, side: int) -> list[Path]:
    """Write Shapes clips of 8 s with sound."""
    paths = []
    for number in range(clips):
        rng = generator(22, "sound features", number)
        source = list(SOURCES.values())[number % len(SOURCES)]
        scene, count = sample_sound_scene(rng), SECONDS * FPS
        frames = film(scene, source, rng, num_frames=count, height=side, width=side, fps=FPS)
        paths.append(folder / f"{number:03}.mp4")
        sound = AudioTrack(waveform(scene.events(SECONDS), SECONDS))
        # Nothing to hear is no clip of these stages.
        sound.waveform[:160] += np.float32(0.01) * rng.standard_normal(160).astype(np.float32)
        write_h264(paths[-1], frames, FPS, crf=source.crf, sound=sound)
    return paths


def spread(values: Sequence[float], form: str) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def main() -> None:
    """Print clips per second of both, the share of each part, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20, help="clips to make")
    parser.add_argument("--side", type=int, default=96, help="their height and width in pixels")
    parser.add_argument("--media", type=Path, nargs="+", help="films to take instead")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way sees all of them")
    parser.add_argument("--codec", default=str(ZOO / "audio_codec"))
    parser.add_argument("--clip", default=str(ZOO / "clip"))
    parser.add_argument("--synchformer", default=str(ZOO / "synchformer"))
    args = parser.parse_args()
    weights = {"audio_codec": args.codec, "clip": args.clip, "synchformer": args.synchformer}
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as name:
        media = [path.resolve() for path in args.media] if args.media else render(Path(name), args.clips, args.side)
        rows = {path: probed(path) for path in media}
        ways = Stages(weights, Path(name)), Loop(weights, Path(name))
        for path in media[:WARM]:
            check(path, *(way(path, rows[path])[0] for way in ways))
        took = np.zeros((args.rounds, len(ways), len(PARTS)))
        for round_ in range(args.rounds):
            for path in media:
                found = [way(path, rows[path]) for way in ways]
                check(path, found[0][0], found[1][0])
                took[round_] += [parts for _, parts in found]
    print(f"{len(media)} clips, {args.rounds} rounds, one core, load {os.getloadavg()[0]:.1f}; median [least, most]")
    for way, seconds in zip(("ours", "loop"), took.transpose(1, 0, 2), strict=True):
        rate = [len(media) / total for total in seconds.sum(1)]
        shares = ", ".join(
            f"{part} {share:.0%}" for part, share in zip(PARTS, seconds.sum(0) / seconds.sum(), strict=True)
        )
        print(f"{way}: {spread(rate, '.2f')} clips a second of CPU; {shares}")
    ratio = took[:, 0].sum(1) / took[:, 1].sum(1)
    print(f"ours over the plain loop: {spread(ratio.tolist(), '.2f')} of its CPU")
    print(f"without writing: {spread((took[:, 0, :-1].sum(1) / took[:, 1, :-1].sum(1)).tolist(), '.2f')}")


if __name__ == "__main__":
    main()
