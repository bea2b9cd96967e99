"""Write H.264 files, with sound or without, and read frames back, with PyAV alone."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.audio_tracks import AudioEncoder, AudioTrack
from lumina.colour import to_rgb
from lumina.files import ffmpeg_path


def write_h264(
    path: str | Path,
    frames: NDArray[np.uint8],
    fps: float,
    *,
    crf: int = 18,
    preset: str = "medium",
    sound: AudioTrack | None = None,
) -> None:
    """Write frames [T, H, W, 3] (RGB, uint8, H and W even) as an H.264 yuv420p MP4 that browsers play.

    Its colours are BT.709 of limited range, and tagged so: what is untagged is of other colours from player to player.
    The same frames give the same bytes with one build of the libraries: the encoder runs in one thread, and the muxer
    writes neither dates nor versions. `crf` is libx264's quality, 0 (lossless) to 51. `sound` begins with the first
    frame. Raises ValueError for a wrong shape, dtype or rate.
    """
    import av

    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f"{path}: frames must be uint8 [T, H, W, 3] with T >= 1, got {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"{path}: H.264 in yuv420p needs even sides, got {width}x{height}; crop or pad by one pixel")
    if not (fps > 0 and 0 <= crf <= 51):
        raise ValueError(f"{path}: fps must be positive and crf in 0..51, got fps={fps}, crf={crf}")
    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with av.open(ffmpeg_path(path), "w", format="mp4", options=options) as container:
        film = H264Encoder(container, (width, height), Fraction(fps).limit_denominator(1001), crf=crf, preset=preset)
        encoder = None if sound is None else AudioEncoder(container, sound)
        for number, image in enumerate(frames, start=1):
            container.mux(film.encode(image))
            if encoder is not None:
                container.mux(list(encoder.until(number / fps)))
        container.mux(film.rest())
        if encoder is not None:
            container.mux(list(encoder.rest()))


class H264Encoder:
    """Encodes frames into an open container, bit for bit the same with one build of the libraries.

    `size` is (width, height), both even; with a `time_base` frames have time stamps in its units, and need no rate.
    """

    def __init__(
        self,
        container: Any,
        size: tuple[int, int],
        rate: Fraction,
        *,
        crf: int = 18,
        preset: str = "medium",
        time_base: Fraction | None = None,
    ) -> None:
        from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

        # libx264's macroblock tree gives other bits from call to call on CPUs with AVX-512, even in one thread.
        self._stream = container.add_stream("libx264", rate=rate, options={
            "crf": str(crf), "preset": preset, "threads": "1", "flags": "+bitexact", "x264-params": "mbtree=0",
        })  # fmt: skip
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        codec, self._reformatter = self._stream.codec_context, VideoReformatter()
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        self._time_base = time_base
        if time_base is not None:
            codec.time_base = time_base

    def encode(self, image: NDArray[np.uint8], stamp: int | None = None) -> list[Any]:
        """Packets that are ready after a frame [H, W, 3]; `stamp` is when it is shown, in units of the time base."""
        import av
        from av.video.reformatter import ColorRange, Colorspace, Interpolation

        frame = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT,
            threads=1,
        )
        if stamp is not None:
            frame.pts, frame.time_base = stamp, self._time_base
        packets: list[Any] = self._stream.encode(frame)
        return packets

    def rest(self) -> list[Any]:
        """The packets that are left."""
        packets: list[Any] = self._stream.encode(None)
        return packets


def read_frames(path: str | Path, indices: Sequence[int] | None = None) -> NDArray[np.uint8]:
    """Decode a file that `write_h264` wrote: frames [T, H, W, 3] (RGB, uint8); `indices` picks some, in any order.

    Files from elsewhere are `curation.video_files`'s. Raises ValueError if the file has no video stream, no frame, or
    fewer frames than an index asks for; `av.FFmpegError` if it cannot be decoded.
    """
    import av

    wanted = None if indices is None else set(indices)
    if wanted is not None and (not wanted or min(wanted) < 0):
        raise ValueError(f"{path}: indices must be a non-empty list of numbers >= 0, got {indices}")
    last = None if wanted is None else max(wanted)
    picked: dict[int, NDArray[np.uint8]] = {}
    count = 0
    options = {"format_whitelist": "mov", "protocol_whitelist": "file"}
    with av.open(ffmpeg_path(path), options=options) as container:
        if not container.streams.video:
            raise ValueError(f"{path}: has no video stream")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for count, frame in enumerate(container.decode(stream), start=1):
            if wanted is None or count - 1 in wanted:
                picked[count - 1] = to_rgb(frame)
            if last is not None and count > last:
                break
    if not picked or (last is not None and count <= last):
        raise ValueError(f"{path}: has {count} frames, asked for frame {last if last is not None else 0}")
    return np.stack([picked[index] for index in (sorted(picked) if indices is None else indices)])
