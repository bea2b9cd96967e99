"""Every encoder that PyAV has, in every container that takes it: read sparsely, frames and times are right, or refused.

What is right is known by the pixels alone: each frame shows its number.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest

from curation.film_frames import Track
from curation.schema import RowError
from curation.video_files import probe_video, read_video
from tests.curation.numbered import Film, number_of, write

COUNT = 26
CONSTANT = tuple(Fraction(index, 25) for index in range(COUNT))
_JUMPS = (10, 17, 24, 31, 38, 45)
VARIABLE = (*CONSTANT[:10], *(Fraction(at, 25) for at in (*_JUMPS, *range(80, 90))))

TIMELESS = {
    "avm2", "bit", "cavsvideo", "dirac", "dnxhd", "dv", "dvd", "film_cpk", "filmstrip", "h264", "hevc", "m4v", "mjpeg",
    "mpeg", "mpeg1video", "mpeg2video", "mxf", "mxf_opatom", "obu", "rm", "roq", "svcd", "swf", "vc1test", "vcd", "vob",
    "yuv4mpegpipe",
}  # fmt: skip
"""Formats in which PyAV writes frames of a variable rate as if they were evenly spaced: the file does not know."""
SIZES = {"h261": (176, 144), "h263": (176, 144), "dvvideo": (720, 576), "roqvideo": (128, 128), "dxv": (128, 96)}
REORDERED = {"libx264", "libx265", "mpeg1video", "mpeg2video", "mpeg4"}
SLOW = {
    "libx264": {"preset": "ultrafast"}, "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libvpx": {"cpu-used": "8", "deadline": "realtime"}, "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"},
    "libsvtav1": {"preset": "13"}, "av1": {"cpu-used": "8", "usage": "realtime"},
}  # fmt: skip
NO_FILES = re.compile(
    r"_pipe$|_stream$|^(image2|rawvideo|null|fbdev|video4linux2|uncodedframecrc|frame|md5|hash|crc|stream|seg|ssegment|hls"
    r"|dash|hds|smoothstreaming|fifo|tee|rt[ps]|sap|whip|webm_chunk|webm_dash|ffmeta|data|mpjpeg|ico|webvtt|ismv)"
)


def encoders() -> list[str]:
    found = []
    for name in sorted(av.codec.codecs_available):
        try:
            if av.codec.Codec(name, "w").type == "video" and not re.search(
                r"_(amf|nvenc|qsv|v4l2m2m|vaapi|mf|vt)", name
            ):
                found.append(name)
        except (av.FFmpegError, ValueError):
            continue  # it only decodes
    return found


def containers() -> list[str]:
    found = []
    for name in sorted(av.format.formats_available):
        try:
            kept = av.ContainerFormat(name, "w")
        except ValueError:
            continue  # it is only read
        if not NO_FILES.search(kept.name):
            found.append(kept.name.partition(",")[0])
    return sorted(set(found))


def pixels(encoder: str) -> str:
    known = [form.name for form in av.codec.Codec(encoder, "w").video_formats or ()]
    liked = (
        "yuv420p",
        "yuv422p",
        "yuv444p",
        "yuv422p10le",
        "rgb24",
        "bgr24",
        "bgra",
        "rgb0",
        "bgr0",
        "yuvj420p",
        "pal8",
    )
    return next((form for form in liked if not known or form in known), known[0] if known else "yuv420p")


def check(path: Path, stamps: tuple[Fraction, ...], container: str) -> str:
    """What became of a film: `ok`, or that it was refused. AssertionError for other content or another time."""
    try:
        found = probe_video(path)
        track = Track.parse(found.track or "")
        times = [
            time for time in (0.0, 0.13, 0.35, 0.4, 0.77, 1.2, 2.3, 3.3, 3.5, 4.1) if time < found.duration_s - 0.02
        ]
        frames = read_video(path, track, times)
    except RowError:
        return "refused"
    if found.frames_decodable == 1:
        return "one picture"
    numbers = [number_of(image) for image in frames.pixels]
    right = CONSTANT if container in TIMELESS else stamps
    for number, stamp, time in zip(numbers, frames.stamps_s, times, strict=True):
        assert number < COUNT
        assert abs(float(right[number]) - stamp) <= 0.0025, (numbers, frames.stamps_s)
        assert stamp <= time + track.interval_s / 2 + 0.001
    return "ok"


@pytest.fixture(autouse=True)
def scheduling() -> Iterator[None]:
    """SVT-AV1 makes a process of root a real-time one, which leaves no CPU to others, in all later tests too."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    yield
    os.sched_setscheduler(0, policy, parameters)


@pytest.mark.parametrize("encoder", encoders())
def test_frames_and_times_are_right_or_refused(encoder: str, tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    for container in containers():
        for kind, stamps in (("constant", CONSTANT), ("variable", VARIABLE)):
            for b_frames in (0, 2) if encoder in REORDERED else (0,):
                film = Film(
                    encoder, container, pixels(encoder), stamps, Fraction(25), size=SIZES.get(encoder, (64, 48)), gop=9,
                    b_frames=b_frames, options={"strict": "-2", **SLOW.get(encoder, {})},
                )  # fmt: skip
                path = tmp_path / f"{container}-{kind}-{b_frames}"
                try:
                    write(path, film)
                except (av.FFmpegError, ValueError, OSError, TypeError):
                    continue  # they do not go together
                try:
                    outcomes[check(path, stamps, container)] += 1
                except AssertionError as error:
                    raise AssertionError(
                        f"{encoder} in {container}, {kind} rate, {b_frames} B-frames: {error}"
                    ) from None
                finally:
                    path.unlink(missing_ok=True)  # `null` writes none
    if encoder in {*REORDERED, "libvpx", "libvpx-vp9", "mjpeg", "ffv1", "libsvtav1", "wmv2"}:
        assert outcomes["ok"] > 5
