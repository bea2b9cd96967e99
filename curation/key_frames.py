"""Key frames: whether decoding can begin at a packet, so that every picture shown after it is whole."""

from __future__ import annotations

from collections.abc import Iterator

_CLEAN = frozenset(
    {
        "av1", "cfhd", "dnxhd", "dvvideo", "ffvhuff", "flv1", "h263", "huffyuv", "jpeg2000", "magicyuv", "mjpeg",
        "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v2", "msmpeg4v3", "png", "prores", "rawvideo", "utvideo", "vp8",
        "vp9", "wmv1", "wmv2",
    }
)  # fmt: skip
"""Codecs in which nothing shown after a key frame refers to what came before it."""
_IDR = 5
_IRAP = range(16, 22)


def is_clean(codec: str, extradata: bytes, packet: bytes) -> bool:
    """Whether a packet that its container marks as a key frame is one to begin at.

    H.264 marks recovery points too, after which pictures mend by and by, or refer past the I-frame; only an IDR picture
    starts anew. In HEVC each random access point does, but for pictures that are shown before it.

    Args:
        codec: canonical name.
        extradata: set-up of the codec in the container, which tells how units are framed; may be empty.
        packet: the packet's bytes.
    """
    if codec == "h264":
        size = (extradata[4] & 3) + 1 if extradata[:1] == b"\1" and len(extradata) > 4 else None
        kinds = (unit[0] & 31 for unit in _units(packet, size))
        return next((kind == _IDR for kind in kinds if 1 <= kind <= 5), False)
    if codec == "hevc":
        size = (extradata[21] & 3) + 1 if extradata[:1] == b"\1" and len(extradata) > 21 else None
        kinds = (unit[0] >> 1 & 63 for unit in _units(packet, size))
        return next((kind in _IRAP for kind in kinds if kind < 32), False)
    return codec in _CLEAN


def _units(packet: bytes, size: int | None) -> Iterator[bytes]:
    """The beginnings of a packet's NAL units: behind their length in `size` bytes, or behind start codes."""
    at = 0
    if size is None:
        while (at := packet.find(b"\0\0\1", at) + 3) >= 3 and at < len(packet):
            yield packet[at : at + 1]
        return
    while at + size < len(packet):
        length = int.from_bytes(packet[at : at + size], "big")
        yield packet[at + size : at + size + 1]
        at += size + length
