"""CPU of decoding a clip's sound, against the plainest loop: PyAV decodes the track, FFmpeg makes it mono at 16 kHz.

The plain loop knows no clock: sample 0 is the track's first, whatever the film's is. Ours also looks where the first
frame lies and reads the container to its end; it is asked for the first 8 s, the plain loop stops there too.

    python benchmarks/plain_sound.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import av
import numpy as np

from curation.audio import SAMPLE_RATE, read_audio
from curation.film_frames import Track
from curation.video_files import probe_video

SECONDS = 8


def _write(path: Path, codec: str, rate: int, layout: str, seed: int) -> None:
    """A film of 10 s of 320x240 at 25 fps, with noise and tones beside it."""
    rng = np.random.Generator(np.random.Philox(seed))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "30"})
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        audio = container.add_stream(codec, rate=rate, layout=layout)
        coarse = rng.integers(0, 255, (15, 20, 3), dtype=np.uint8)
        picture = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
        for number in range(250):
            image = np.ascontiguousarray(np.roll(picture, number, axis=1))
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
        at = np.arange(10 * rate) / rate
        wave = 0.2 * np.sin(2 * np.pi * 440 * at) + 0.05 * rng.standard_normal(len(at))
        channels = audio.codec_context.layout.nb_channels
        data = np.ascontiguousarray(np.repeat(wave[None].astype(np.float32), channels, axis=0))
        frame = av.AudioFrame.from_ndarray(data, format="fltp", layout=layout)
        frame.sample_rate = rate
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def _plain(path: Path) -> np.ndarray:
    parts, count = [], 0
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        stream.codec_context.thread_count = 1
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        for frame in container.decode(stream):
            for one in resampler.resample(frame):
                parts.append(one.to_ndarray()[0])
                count += len(parts[-1])
            if count >= SECONDS * SAMPLE_RATE:
                break
    return np.concatenate(parts)[: SECONDS * SAMPLE_RATE]


def _cpu_s(function: Callable[[], object]) -> float:
    begin = time.process_time()
    function()
    return time.process_time() - begin


def main() -> None:
    """Print a line per kind of track: CPU of both, the ratio, and how alike the waveforms are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="turns that each way takes; the median counts")
    rounds = parser.parse_args().rounds
    kinds = (("mp4", "aac", 44100, "stereo"), ("mp4", "alac", 48000, "stereo"), ("mkv", "ac3", 48000, "5.1"))
    with tempfile.TemporaryDirectory() as folder:
        for number, (suffix, codec, rate, layout) in enumerate(kinds):
            path = Path(folder) / f"{number}.{suffix}"
            _write(path, codec, rate, layout, number)
            track = Track.parse(probe_video(path).track or "")
            ours, plain = read_audio(path, track, 0, SECONDS).waveform, _plain(path)
            alike = float(np.corrcoef(ours, plain)[0, 1])
            both = [
                (_cpu_s(lambda: read_audio(path, track, 0, SECONDS)), _cpu_s(lambda: _plain(path)))  # noqa: B023
                for _ in range(rounds)
            ]
            here, there = (float(np.median(times)) for times in zip(*both, strict=True))
            print(
                f"{codec} {rate} {layout}: {1000 * here:.0f} ms of CPU for {SECONDS} s of sound, plain loop "
                f"{1000 * there:.0f} ms, ratio {here / there:.2f}; correlation of the waveforms {alike:.4f}"
            )


if __name__ == "__main__":
    main()
