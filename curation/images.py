"""Still images as one kind of pixels: 8-bit sRGB, upright, opaque.

Depth: 16-bit samples are scaled to 8 bits (0..65535 to 0..255), floating-point ones from 0..1; an image that holds
other values is refused, since what is white in it is not said. Transparency is laid over white, as a page does; colours
that it hides are never seen. An embedded ICC profile is applied; one that cannot be used (damaged, or of other
channels) is ignored, as viewers do, and the samples are taken for sRGB. No frame of an animation, no page of several
and no preview of a raw photo is taken for the whole: they are refused. A phone's picture with further ones behind it
(MPO) is the first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curation.media_kinds import HEAD_BYTES, format_of
from curation.schema import Reason, RowError
from lumina.faults import brief, is_of_machine, machine_error

if TYPE_CHECKING:
    from PIL import Image

# No format of Pillow's that runs another program (EPS) or holds no pixels of its own (WMF, HDF5).
_FORMATS = (
    "AVIF", "BMP", "DDS", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "PSD", "QOI", "SGI", "TGA",
    "TIFF", "WEBP",
)  # fmt: skip
_ANIMATED = frozenset({"AVIF", "GIF", "PNG", "WEBP"})
_BACKGROUND = (255, 255, 255)
_INTEGER = re.compile("I(;16.?)?")
_BITS, _PHOTOMETRIC, _SUBFILE, _WHITE_IS_ZERO = 258, 262, 254, 0
_REDUCED, _MASK = 1, 4
_CHANNELS = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}


@dataclass(frozen=True)
class Still:
    """What an image file shows."""

    pixels: NDArray[np.uint8]
    """[H, W, 3], sRGB, upright by its EXIF orientation."""
    codec: str
    """File format, in lower case."""
    pix_fmt: str
    """Pillow's mode of what is stored: `I;16`, `RGBA`, `P`, ..."""


def read_image(path: Path) -> Still:
    """Read a still image. RowError `decode_error` for what is none, is damaged, or does not say how it looks.

    MachineError if the system refuses to read it.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path, formats=_FORMATS) as image:
            _check_single(image)
            codec, mode = (image.format or "unknown").lower(), image.mode
            upright = _eight_bits(ImageOps.exif_transpose(image), image)
            return Still(np.asarray(_opaque(upright)), codec, mode)
    except (RowError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise RowError(Reason.DECODE_ERROR, _unidentified(path)) from error
    except Exception as error:  # plug-ins raise whatever a damaged file leads them to
        if is_of_machine(error):
            raise machine_error(error) from error
        raise RowError(Reason.DECODE_ERROR, f"pillow: {brief(error)}") from error


def _check_single(image: Image.Image) -> None:
    """RowError for a file whose first frame is not all that it shows."""
    frames: int = getattr(image, "n_frames", 1) if image.format in (*_ANIMATED, "TIFF") else 1
    if image.format in _ANIMATED and frames > 1:
        raise RowError(
            Reason.DECODE_ERROR,
            f"an animation of {frames} frames ({image.format}), which no video decoder here reads: convert it to MP4, "
            "GIF or APNG",
        )
    if image.format != "TIFF":
        return
    kinds = []
    for page in range(frames):
        image.seek(page)
        kinds.append(int(_tag(image, _SUBFILE, 0)))
    image.seek(0)
    if kinds[0] & _REDUCED:
        raise RowError(
            Reason.DECODE_ERROR, "the first picture in it is a mere preview (a raw photo?): convert it to PNG or JPEG"
        )
    pages = sum(not kind & (_REDUCED | _MASK) for kind in kinds)
    if pages > 1:
        raise RowError(Reason.DECODE_ERROR, f"a TIFF of {pages} pages: give each page as a file of its own")


def _eight_bits(image: Image.Image, file: Image.Image) -> Image.Image:
    """The upright image of a file in a mode of 8 bits a channel, its profile and transparency kept."""
    from PIL import Image

    if image.mode == "F":
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise RowError(
                Reason.DECODE_ERROR, f"floating-point samples from {low:.4g} to {high:.4g}, expected 0 to 1: scale them"
            )
        return _with_profile(Image.fromarray(np.rint(values * 255).astype(np.uint8)), image)
    if not _INTEGER.fullmatch(image.mode):
        return image
    samples = np.asarray(image)
    white = (1 << int(_tag(file, _BITS, 16))) - 1 if image.mode != "I" else 65535
    low, high = int(samples.min()), int(samples.max())
    if low < 0 or high > white:
        raise RowError(Reason.DECODE_ERROR, f"integer samples from {low} to {high}, expected 0 to {white}: scale them")
    if _tag(file, _PHOTOMETRIC, None) == _WHITE_IS_ZERO:
        samples = white - samples
    scaled = (samples.astype(np.int32) * 255 + white // 2) // white
    eight = _with_profile(Image.fromarray(scaled.astype(np.uint8)), image)
    hidden = image.info.get("transparency")
    if hidden is not None:
        eight.putalpha(Image.fromarray(np.where(samples == hidden, 0, 255).astype(np.uint8)))
    return eight


def _opaque(image: Image.Image) -> Image.Image:
    """The image in sRGB, laid over the background where it is transparent."""
    from PIL import Image

    if not image.has_transparency_data:
        return _srgb(image)
    layered = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    grey = image.mode in ("L", "LA", "La", "1")
    colours = _srgb(_with_profile(layered.convert("L" if grey else "RGB"), image))
    shown = Image.new("RGB", image.size, _BACKGROUND)
    shown.paste(colours, mask=layered.getchannel("A"))
    return shown


def _srgb(image: Image.Image) -> Image.Image:
    """An opaque image in sRGB, by its profile where it has one that fits."""
    from PIL import ImageCms

    target = ImageCms.createProfile("sRGB")
    if image.mode == "LAB":
        found: Any = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), target, outputMode="RGB")
        return found
    if image.mode not in _CHANNELS:
        image = _with_profile(image.convert("L" if image.mode == "1" else "RGB"), image)
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        known = source.profile
        if known.xcolor_space.strip() != _CHANNELS[image.mode] or "sRGB" in (known.profile_description or ""):
            return image.convert("RGB")
        found = ImageCms.profileToProfile(image, source, target, ImageCms.Intent(known.rendering_intent), "RGB")
    except (OSError, ImageCms.PyCMSError):
        return image.convert("RGB")  # see the module's docstring
    return found


def _with_profile(image: Image.Image, of: Image.Image) -> Image.Image:
    """`image` with the profile of `of`, and nothing else that a file says."""
    image.info = {"icc_profile": of.info.get("icc_profile")}
    return image


def _tag(image: Image.Image, number: int, default: Any) -> Any:
    """The first value of a TIFF tag."""
    tags = getattr(image, "tag_v2", None)
    value = default if tags is None else tags.get(number, default)
    return value[0] if isinstance(value, tuple) else value


def _unidentified(path: Path) -> str:
    with path.open("rb") as file:
        known = format_of(file.read(HEAD_BYTES))
    if known is None:
        return "pillow: no image of a kind that it knows"
    return f"pillow: no decoder here for this kind of {known}: convert it to PNG, JPEG or WebP"
