"""Kinds of media: what a file is by its first bytes, image or video; where these do not tell, by its extension.

A picture that moves is a video where a video decoder reads it: GIF and PNG of several frames, sequences of AVIF and
HEIF.
"""

from __future__ import annotations

import re

from curation.media_uris import suffix
from curation.schema import Reason, RowError

HEAD_BYTES = 8 << 20
"""So many bytes tell: whether a picture moves is said behind its profile, or behind its first frame."""

VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mp4v", ".mov", ".qt", ".3gp", ".3gpp", ".3g2", ".f4v", ".ismv", ".mj2", ".mkv", ".mk3d",
    ".webm", ".avi", ".divx", ".wmv", ".asf", ".flv", ".rm", ".rmvb", ".mpg", ".mpeg", ".mpe", ".mpv", ".m1v",
    ".m2v", ".m2p", ".mod", ".tod", ".vob", ".evo", ".ts", ".tp", ".trp", ".m2t", ".m2ts", ".mts", ".mxf", ".gxf",
    ".ogv", ".ogm", ".nut", ".nsv", ".dv", ".dif", ".wtv", ".dvr-ms", ".amv", ".roq", ".bik", ".smk", ".fli",
    ".flc", ".y4m", ".h261", ".h263", ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".h266", ".266", ".vvc",
    ".ivf", ".obu", ".av1", ".vc1", ".mjpg", ".mjpeg", ".gif", ".apng", ".avifs",
})  # fmt: skip
IMAGE_SUFFIXES = frozenset({
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo", ".webp", ".bmp", ".dib",
    ".tif", ".tiff", ".avif", ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c",
    ".exr", ".hdr", ".pnm", ".pbm", ".pgm", ".ppm", ".pam", ".pfm", ".tga", ".sgi", ".pcx", ".qoi", ".psd", ".dds",
})  # fmt: skip
STILL_SUFFIXES = IMAGE_SUFFIXES - {".webp", ".avif", ".heic", ".heif", ".hif", ".jxl"}
"""Extensions of which no format moves that bears them by right."""

_MOTION_JPEG = frozenset({".mjpg", ".mjpeg"})
_STILL_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2"), "HEIF"),
    b"avif": "AVIF",
    b"crx ": "raw photo (CR3)",
}
_STILLS: tuple[tuple[str, re.Pattern[bytes]], ...] = tuple(
    (name, re.compile(pattern, re.DOTALL))
    for name, pattern in (
        ("JPEG", rb"\xff\xd8\xff"),
        ("WebP", rb"RIFF....WEBP"),
        ("BMP", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
        ("TIFF", rb"II\*\0|MM\0\*|II\+\0|MM\0\+"),
        ("JPEG 2000", rb"\0\0\0\x0cjP  \r\n\x87\n(?!.{8}mjp2)|\xff\x4f\xff\x51"),
        ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
        ("OpenEXR", rb"\x76\x2f\x31\x01"),
        ("Radiance HDR", rb"#\?(?:RADIANCE|RGBE)\n"),
        ("PNM", rb"P(?:[1-6]\s|7\n|[Ff]\n)"),
        ("Photoshop document", rb"8BPS\0"),
        ("QOI", rb"qoif"),
        ("DDS", rb"DDS \x7c"),
    )
)
_PNG, _GIF = b"\x89PNG\r\n\x1a\n", (b"GIF87a", b"GIF89a")
_VIDEOS = re.compile(
    rb"\x1aE\xdf\xa3|RIFF....AVI |OggS|FLV\x01|\x30\x26\xb2\x75\x8e\x66\xcf\x11|\x47.{187}\x47|.{4}\x47.{191}\x47"
    rb"|\0\0\x01[\xba\xb3]|\x06\x0e\x2b\x34|nut/multimedia|DKIF|YUV4MPEG2|\.RMF"
    rb"|.{4}(?:ftyp|jP  |moov|mdat|wide|free|skip|pnot)",
    re.DOTALL,
)


def guess_media(uri: str) -> str:
    """ "video" or "image", by the extension: what a plan can know."""
    return "image" if suffix(uri) in IMAGE_SUFFIXES else "video"


def possible_media(extension: str) -> tuple[str, ...]:
    """The kinds that a file of this extension may turn out to be once its content is read."""
    if extension in STILL_SUFFIXES:
        return ("image",)
    return ("video",) if extension in VIDEO_SUFFIXES - {".gif", ".apng", ".avifs"} else ("image", "video")


def media_of(head: bytes, uri: str) -> str:
    """ "video" or "image", by the first `HEAD_BYTES` of the content.

    RowError `unreadable_file` for a file of no bytes at all.
    """
    if not head:
        raise RowError(Reason.UNREADABLE_FILE, f"{uri}: the file is empty (0 bytes)")
    name = format_of(head)
    if name is not None:
        return "video" if name == "JPEG" and suffix(uri) in _MOTION_JPEG else "image"
    if head.startswith((_PNG, *_GIF)) or _VIDEOS.match(head):
        return "video"
    return guess_media(uri)


def format_of(head: bytes) -> str | None:
    """The format of a still image, by its first bytes; None for what is none, or not known by them."""
    if head.startswith(_PNG):
        return None if _moves_png(head) else "PNG"
    if head.startswith(_GIF):
        return None if _moves_gif(head) else "GIF"
    if head[4:8] == b"ftyp":
        return _STILL_BRANDS.get(head[8:12])
    return next((name for name, pattern in _STILLS if pattern.match(head)), None)


def _moves_png(head: bytes) -> bool:
    """Whether an animation of several frames is announced before the picture."""
    at = 8
    while at + 12 <= len(head):
        size, kind = int.from_bytes(head[at : at + 4], "big"), head[at + 4 : at + 8]
        if kind == b"IDAT":
            return False
        if kind == b"acTL":
            return int.from_bytes(head[at + 8 : at + 12], "big") > 1
        at += 12 + size
    return False


def _moves_gif(head: bytes) -> bool:
    """Whether a second picture follows the first, or where the head ends before, one is to be repeated."""
    at = 13 + _colours(head[10:11])
    pictures = 0
    while at < len(head):
        block = head[at]
        if block == 0x21:
            at += 2
        elif block == 0x2C:
            pictures += 1
            if pictures > 1:
                return True
            at += 11 + _colours(head[at + 9 : at + 10])
        else:
            return False
        while at < len(head) and head[at]:
            at += 1 + head[at]
        at += 1
    return b"NETSCAPE2.0" in head


def _colours(flags: bytes) -> int:
    """Bytes of the table of colours that a GIF's flags announce."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0
