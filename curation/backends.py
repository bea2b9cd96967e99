"""Video and image backends: what a file is, and its frames. decord first, PyAV where decord cannot, Pillow for images.

Plain functions of a local path. They may hang or crash on a bad file; `curation.decoder` runs them where that does no
harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.images import read_image
from curation.schema import Reason, RowError


@dataclass(frozen=True)
class Probe:
    """What is known of a file after decoding its first and last frame."""

    width: int
    height: int
    rotation: int
    """Degrees clockwise that were applied to show it: 0, 90, 180 or 270. Width and height are as shown."""
    fps: float | None
    """Average frames per second; None for an image."""
    frames_container: int | None
    """Number of frames that the container claims, where it does."""
    frames_decodable: int
    duration_s: float
    """`frames_decodable / fps`; 0 for an image."""
    codec: str
    pix_fmt: str
    decoder: str
    """Backend and version."""


@dataclass(frozen=True)
class _Stream:
    width: int
    height: int
    rotation: int
    fps: float
    frames: int | None
    codec: str
    pix_fmt: str
    streams: int
    """Number of video streams."""


@dataclass(frozen=True)
class _Decoded:
    frames: int
    width: int
    height: int
    decoder: str


def probe(path: Path, media: str, first: str = "decord") -> Probe:
    """Probe a file, with the backend `first` before PyAV. RowError for one that cannot be used, with what each said."""
    if media == "image":
        still = read_image(path)
        height, width = still.pixels.shape[:2]
        return Probe(width, height, 0, None, 1, 1, 0.0, still.codec, still.pix_fmt, _pillow_name())
    stream = _read_stream(path)
    failures = []
    for backend in (_try_decord, _try_pyav) if first == "decord" else (_try_pyav,):
        try:
            decoded = backend(path, stream)
        except ImportError:
            continue  # decord has no wheel for some platforms
        except Exception as error:  # noqa: BLE001 - decoders raise whatever their native code does
            failures.append(f"{backend.__name__.removeprefix('_try_')}: {_brief(error)}")
            continue
        return Probe(
            width=decoded.width,
            height=decoded.height,
            rotation=stream.rotation,
            fps=stream.fps,
            frames_container=stream.frames,
            frames_decodable=decoded.frames,
            duration_s=decoded.frames / stream.fps,
            codec=stream.codec,
            pix_fmt=stream.pix_fmt,
            decoder=decoded.decoder,
        )
    raise RowError(Reason.DECODE_ERROR, "; ".join(failures))


def decode_frames(path: Path, media: str, decoder: str, indices: Sequence[int]) -> NDArray[np.uint8]:
    """Decode the frames `indices` of a probed file, upright: uint8 [len(indices), H, W, 3], RGB.

    `decoder` is what the probe recorded. Decodes no more than what leads to these frames. RowError if they cannot be
    had.
    """
    backend = decoder.partition("/")[0]
    if media == "image":
        return np.repeat(read_image(path).pixels[None], len(indices), axis=0)
    try:
        if backend == "decord":
            return _decord_frames(path, indices)
        if backend == "pyav":
            from lumina.video import read_frames

            return read_frames(path, indices)
    except Exception as error:
        raise RowError(Reason.DECODE_ERROR, f"{decoder}: {_brief(error)}") from error
    raise RowError(Reason.DECODE_ERROR, f"unknown decoder {decoder!r}: probe the clip again")


def load_backends() -> None:
    """Import what decoding needs, which takes a second that no clip should be charged for."""
    import av  # noqa: F401
    import PIL.Image  # noqa: F401

    with suppress(ImportError):  # decord has no wheel for some platforms
        _decord()


def _read_stream(path: Path) -> _Stream:
    """Read a video's properties from its container and first frame, and count its packets."""
    import av

    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise RowError(Reason.NO_VIDEO_STREAM, "the file has no video stream")
            stream = container.streams.video[0]
            frame = next(container.decode(stream), None)
            if frame is None:
                raise RowError(Reason.DECODE_ERROR, "pyav: the video stream has no frame")
            rate = stream.average_rate or stream.guessed_rate
            if not rate:
                raise RowError(Reason.DECODE_ERROR, "pyav: the video stream states no frame rate")
            width, height = _shown(frame)
            return _Stream(
                width=width,
                height=height,
                rotation=-frame.rotation % 360,
                fps=float(rate),
                frames=stream.frames or None,
                codec=stream.codec_context.codec.canonical_name,
                pix_fmt=stream.codec_context.pix_fmt or "unknown",
                streams=len(container.streams.video),
            )
    except RowError:
        raise
    except Exception as error:
        raise RowError(Reason.DECODE_ERROR, f"pyav: {_brief(error)}") from error


def _shown(frame: Any) -> tuple[int, int]:
    """Width and height of a PyAV frame after its rotation."""
    quarter_turns = round(frame.rotation / 90) % 2
    return (frame.height, frame.width) if quarter_turns else (frame.width, frame.height)


def _try_decord(path: Path, stream: _Stream) -> _Decoded:
    """Decode the first and the last frame: the container's count may be larger than what is there.

    ValueError where decord sees another video than PyAV: then PyAV decodes it.
    """
    if stream.streams > 1:
        raise ValueError(f"{stream.streams} video streams: which one it takes is not said")
    decord = _decord()
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    count, packets = len(reader), _count_packets(path)
    if count != packets:
        raise ValueError(f"{count} frames, the stream has {packets}")
    height, width = reader.get_batch(sorted({0, count - 1})).shape[1:3]
    if (width, height) != (stream.width, stream.height):
        raise ValueError(f"frames of {width}x{height}, shown are {stream.width}x{stream.height}")
    return _Decoded(count, width, height, f"decord/{decord.__version__}")


def _count_packets(path: Path) -> int:
    """Packets of the video stream that hold a frame to show."""
    import av

    with av.open(str(path), metadata_errors="replace") as container:
        return sum(1 for packet in container.demux(container.streams.video[0]) if packet.size and not packet.is_discard)


def _try_pyav(path: Path, _stream: _Stream) -> _Decoded:
    import av

    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = container.decode(stream)
        first = next(frames, None)
        if first is None:
            raise ValueError("no frame")
        count = 1 + sum(1 for _ in frames)
        width, height = _shown(first)
    return _Decoded(count, width, height, f"pyav/{av.__version__}")


def _decord_frames(path: Path, indices: Sequence[int]) -> NDArray[np.uint8]:
    decord = _decord()
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    unique, inverse = np.unique(np.asarray(indices, np.int64), return_inverse=True)
    if unique[0] < 0 or unique[-1] >= len(reader):
        raise IndexError(f"asked for frame {unique[-1]}, the clip has {len(reader)}")
    frames: NDArray[np.uint8] = reader.get_batch(unique.tolist()).asnumpy()
    return frames[inverse]


def _decord() -> Any:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _pillow_name() -> str:
    import PIL

    return f"pillow/{PIL.__version__}"


def _brief(error: Exception) -> str:
    """First line of an error, without the stack that native decoders append and without paths of this machine."""
    import re

    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    text = re.sub(r"\[\d\d:\d\d:\d\d\] ", "", lines[0])
    text = re.sub(r"(?:/[^\s:/']+)+/", "", text)
    return f"{type(error).__name__}: {re.sub(r'-?[0-9]{6,}', 'N', text)}"
