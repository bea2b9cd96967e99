"""Containers and their streams: opens a media file with PyAV and tells which of its streams is the film."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from curation.clock import STAMPED
from curation.schema import Reason, RowError
from lumina.files import ffmpeg_path

_NO_TIMESTAMPS = 0x0080
"""AVFMT_NOTIMESTAMPS: the demuxer makes its stamps up."""
_CARRIES = {"wtv": frozenset({"mpeg1video", "mpeg2video", "h264"})}
"""Containers that lose the set-up of other codecs, so that these decode to noise."""


_FORMATS = (
    "mov,matroska,avi,asf,asf_o,flv,live_flv,kux,rm,ivr,mpeg,mpegts,mpegtsraw,mpegvideo,mxf,gxf,ogg,nut,nsv,dv,wtv,roq,"
    "bink,smk,flic,yuv4mpegpipe,h261,h263,h264,hevc,vvc,evc,ivf,obu,av1,apv,vc1,vc1test,mjpeg,m4v,dnxhd,dirac,"
    "cavsvideo,avs2,avs3,film_cpk,filmstrip,swf,gif,apng,jpegxl_anim,pva,ty,nuv,lxf,cine,mlv,dhav,smjpeg,v210"
)
"""Demuxers of films: none of them opens another file or a server, as playlists and scripts do, nor shows a text."""
_OPTIONS = {
    "format_whitelist": _FORMATS,
    "protocol_whitelist": "file",
    # Of QuickTime: tracks that lie in other files.
    "enable_drefs": "0",
}
MOST_PIXELS = 1 << 27
"""Of a frame: 16k x 8k. More is no film, and decoded once it takes gigabytes."""
_LISTS = (
    ("#EXTM3U", "a playlist (HLS)"),
    ("ffconcat", "a list of files to join (ffconcat)"),
    ("<MPD", "a playlist (DASH)"),
    ("<SmoothStreamingMedia", "a playlist (Smooth Streaming)"),
    ("v=0", "a description of a stream (SDP)"),
    ("# VobSub", "an index of subtitles (VobSub)"),
    ("[playlist]", "a playlist"),
)
_LIST_BYTES = 2048


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A container open for reading.

    Raises:
        RowError: `decode_error` for a text that names other files, and for a format of which none is read here.
        av.FFmpegError, OSError: it is no container.
    """
    import av

    try:
        # Its texts are never read.
        container = av.open(ffmpeg_path(path), options=dict(_OPTIONS), metadata_errors="ignore")
    except av.FFmpegError as error:
        if kind := _list_kind(path):
            raise RowError(
                Reason.DECODE_ERROR, f"{kind} names other files, and is no video itself: list those instead"
            ) from error
        if isinstance(error, av.ArgumentError):
            raise RowError(Reason.DECODE_ERROR, "pyav: its format is none that is read as a video") from error
        raise
    with container:
        yield container


def _list_kind(path: Path) -> str | None:
    """What a text is that names other files; None for anything else."""
    with path.open("rb") as file:
        head = file.read(_LIST_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"<?xml"):
        head = head.partition(b"?>")[2].lstrip()
    return next((kind for mark, kind in _LISTS if head.startswith(mark.encode())), None)


@dataclass(frozen=True)
class Film:
    """The stream of a file that is its film, and what the container says of it."""

    index: int
    """Of the stream in the file."""
    container: str
    """First name of the demuxer: `mov`, `matroska`, `mpegts`."""
    codec: str
    pix_fmt: str
    has_stamps: bool
    """Whether the format has time stamps at all; a raw stream has none."""
    time_base: Fraction
    """Seconds of a unit of `pts`."""
    rates: tuple[Fraction | None, ...]
    """Frames per second, as stated by the codec, by the container, and as guessed from both."""
    pixel_aspect: Fraction
    """Width over height of a stored pixel, as stated; 1 where it is not."""
    claimed_frames: int | None
    pts: tuple[int | None, ...]
    """When each frame is shown, in decoding order, without those that the container says to leave out."""
    last_duration: Fraction | None
    """Seconds for which the last frame is shown, where the container says so."""

    @property
    def listed(self) -> list[int] | None:
        """The times at which the frames are shown, ascending, if the container stores one for each; else None."""
        known = [pts for pts in self.pts if pts is not None]
        if self.container not in STAMPED or len(set(known)) < len(self.pts):
            return None
        return sorted(known)


def find_film(path: Path) -> Film:
    """Choose the video stream that is the film: no cover and no thumbnails; of several the one that is played by
    default, unless another has over twice its frames.

    Raises:
        RowError: `no_video_stream`; `decode_error` where nothing here decodes it.
        av.FFmpegError: the container cannot be read.
    """
    from av.stream import Disposition

    with opened(path) as container:
        covers = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
        streams = [stream for stream in container.streams.video if not stream.disposition & covers]
        if not streams:
            kind = "covers or thumbnails alone" if container.streams.video else "no video stream"
            raise RowError(Reason.NO_VIDEO_STREAM, f"the file has {kind}")
        packets: dict[int, list[tuple[int | None, int | None]]] = {stream.index: [] for stream in streams}
        for packet in container.demux(streams):
            if packet.size and not packet.is_discard:
                packets[packet.stream_index].append((packet.pts, packet.duration))
        most = max(map(len, packets.values()))
        if most == 0:
            raise RowError(Reason.DECODE_ERROR, "pyav: the video stream has no frame")
        if most == 1 and container.streams.audio:
            raise RowError(Reason.NO_VIDEO_STREAM, "one picture beside the sound: a cover, not a film")
        full = [stream for stream in streams if 2 * len(packets[stream.index]) >= most]
        stream = max(full, key=lambda stream: (bool(stream.disposition & Disposition.default), -stream.index))
        return _film(container, stream, packets[stream.index])


def _film(container: Any, stream: Any, packets: list[tuple[int | None, int | None]]) -> Film:
    context = stream.codec_context
    if context is None:
        raise RowError(Reason.DECODE_ERROR, "pyav: no decoder for the video stream")
    if context.width * context.height > MOST_PIXELS:
        raise RowError(
            Reason.DECODE_MEMORY,
            f"frames of {context.width}x{context.height} pixels: at most {MOST_PIXELS:,} are decoded",
        )
    codec, name = context.codec.canonical_name, container.format.name.partition(",")[0]
    if codec not in _CARRIES.get(name, {codec}):
        raise RowError(Reason.DECODE_ERROR, f"{codec} in {name}: the container does not store how to decode it")
    _, last = max(packets, key=lambda packet: -1 if packet[0] is None else packet[0])
    return Film(
        index=stream.index,
        container=name,
        codec=codec,
        pix_fmt=context.pix_fmt or "unknown",
        has_stamps=not int(container.format.flags) & _NO_TIMESTAMPS,
        time_base=stream.time_base,
        rates=(context.framerate, stream.average_rate, stream.guessed_rate),
        pixel_aspect=Fraction(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1),
        claimed_frames=stream.frames or None,
        pts=tuple(pts for pts, _ in packets),
        last_duration=last * stream.time_base if last else None,
    )
