"""RGB of decoded frames by their colour tags: matrix and range, and HDR mapped to what an SDR screen shows."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import av

SDR_WHITE = 203.0
"""Nits of an SDR screen's white: the diffuse white of HDR (BT.2408)."""
HDR_PEAK = 1000.0
"""Nits of the brightest that tone mapping keeps apart, and of the screen that HLG is rendered for; more is white."""
_UNSPECIFIED = 2
_BT2020, _P3_D65 = 9, 12
_PQ, _HLG = 16, 18

# Numbers and names of ITU-T H.273, as ffprobe prints them.
MATRICES = {
    0: "gbr", 1: "bt709", 3: "reserved", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco",
    9: "bt2020nc", 10: "bt2020c", 11: "smpte2085", 12: "chroma-derived-nc", 13: "chroma-derived-c", 14: "ictcp",
    15: "ipt-c2", 16: "ycgco-re", 17: "ycgco-ro",
}  # fmt: skip
PRIMARIES = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020", 10: "smpte428",
    11: "smpte431", 12: "smpte432", 22: "ebu3213",
}  # fmt: skip
TRANSFERS = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "linear", 9: "log100", 10: "log316",
    11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084",
    17: "smpte428", 18: "arib-std-b67",
}  # fmt: skip
RANGES = {1: "tv", 2: "pc"}

_READ_AS = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
"""swscale's number of a matrix."""
_BY_PRIMARIES = {1: 1, 5: 5, 6: 5, 7: 7, 9: 9}

# White is D65 for all.
_CHROMATICITIES = {
    1: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    _BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    _P3_D65: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
}
_WHITE = (0.3127, 0.3290)
_WIDE = (_BT2020, _P3_D65)

_of_thread = threading.local()


def to_rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """The picture [H, W, 3] of a frame in BT.709, as it is stored: neither turned nor resampled.

    Untagged YUV is of limited range, and BT.709 from 1280 columns or 577 lines on, else BT.601, as players have it. PQ
    and HLG are mapped to SDR, and BT.2020 and P3 to the primaries of BT.709; see `sdr`.

    Raises ValueError if the frame's matrix cannot be read, `av.FFmpegError` if its pixel format cannot.
    """
    matrix = None if frame.format.is_rgb else _matrix(frame)
    if is_wide(frame):
        return sdr(_reformat(frame, "rgb48le", matrix), frame.color_trc, frame.color_primaries)
    rgb = _reformat(frame, "rgb24", matrix)
    return _limited_grey()[rgb] if _is_limited_grey(frame) else rgb


def is_wide(frame: av.VideoFrame) -> bool:
    """Whether a frame is HDR or of a wide gamut, so that it would look pale or dull on an SDR screen."""
    return frame.color_trc in (_PQ, _HLG) or frame.color_primaries in _WIDE


def tags(source: Any) -> dict[str, str | None]:
    """The colour tags of a frame or a codec context by ffprobe's keys and names; None is unspecified."""
    return {
        "color_space": MATRICES.get(source.colorspace),
        "color_primaries": PRIMARIES.get(source.color_primaries),
        "color_transfer": TRANSFERS.get(source.color_trc),
        "color_range": RANGES.get(source.color_range),
    }


def sdr(signal: NDArray[np.uint16], transfer: int, primaries: int) -> NDArray[np.uint8]:
    """Map R'G'B' [H, W, 3] (full range, 16 bits) of HDR or of a wide gamut to R'G'B' of BT.709 in 8 bits.

    What shines equally bright is shown equally: light comes from the signal by the EOTF (PQ; HLG with its OOTF for a
    screen of `HDR_PEAK`; BT.1886 for SDR), and goes back by that of BT.1886 with `SDR_WHITE` at 1. In between it is
    taken to the primaries of BT.709; HDR is rolled off from about 90 nits on by the curve of BT.2390 (5.4.1) for the
    largest of the three, whose ratio stays; and what is outside BT.709 is clipped.
    """
    # A channel after the other: numpy is several times slower over a last axis of three.
    channels = [signal[..., i] for i in range(3)]
    if transfer == _HLG:
        scene = [_hlg_scene()[channel] for channel in channels]
        (luminance,) = _mixed(scene, np.array([[0.2627, 0.6780, 0.0593]]))
        system = HDR_PEAK * luminance**0.2  # 1.2, the gamma at 1000 nits, less 1
        light = [channel * system for channel in scene]
    else:
        light = [(_pq_light() if transfer == _PQ else _sdr_light())[channel] for channel in channels]
    if transfer in (_PQ, _HLG):
        light = _mixed(light, _to_bt709(primaries if primaries in _CHROMATICITIES else _BT2020))
        steps = _tone_gain()
        brightest = np.clip(np.maximum.reduce(light), 0, HDR_PEAK)
        gain = steps[np.rint(brightest * ((len(steps) - 1) / HDR_PEAK)).astype(np.intp)]
        light = [channel * gain for channel in light]
    else:
        light = _mixed(light, _to_bt709(primaries))
    # Steps of equal square root are fine enough in the dark.
    codes = _sdr_codes()
    out = np.empty(signal.shape, np.uint8)
    for i, channel in enumerate(light):
        root = np.sqrt(np.clip(channel / SDR_WHITE, 0, 1))
        out[..., i] = codes[np.rint(root * (len(codes) - 1)).astype(np.intp)]
    return out


def pq(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """The PQ signal (SMPTE ST 2084), 0 to 1, of light in nits."""
    power = (light / 10000) ** (1305 / 8192)
    return ((107 / 128 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def pq_light(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nits of a PQ signal; the inverse of `pq`."""
    power = signal ** (32 / 2523)
    return 10000 * (np.maximum(power - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * power)) ** (8192 / 1305)


def tone_map(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nits on a screen of `SDR_WHITE` of nits up to `HDR_PEAK`, by the EETF of BT.2390 with black at 0."""
    peak, white = (float(pq(np.array(nits))) for nits in (HDR_PEAK, SDR_WHITE))
    top = white / peak
    knee = 1.5 * top - 0.5
    signal = pq(light) / peak
    t = np.clip((signal - knee) / (1 - knee), 0, 1)
    bent = (
        (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * top
    )  # a Hermite spline
    return np.where(signal < knee, light, pq_light(bent * peak))


def _mixed(light: list[NDArray[np.float32]], matrix: NDArray[np.float64]) -> list[NDArray[np.float32]]:
    """The products of a matrix [n, 3] with three channels; a BLAS would round them in another order on each CPU."""
    red, green, blue = light
    return [red * a + green * b + blue * c for a, b, c in matrix.astype(np.float32)]


def _matrix(frame: av.VideoFrame) -> int:
    tag = frame.colorspace
    if tag in _READ_AS:
        return _READ_AS[tag]
    derived = _BY_PRIMARIES.get(frame.color_primaries)
    if tag == 12 and derived is not None:
        return derived
    if tag not in (0, _UNSPECIFIED, 3):  # GBR is no matrix of YUV
        raise ValueError(
            f"the colours are coded by the matrix {MATRICES.get(tag, tag)}, which cannot be read; convert it to bt709"
        )
    if frame.color_trc in (_PQ, _HLG):
        return 9
    return derived or (1 if frame.width >= 1280 or frame.height > 576 else 5)


def _is_limited_grey(frame: av.VideoFrame) -> bool:
    """Whether a frame has no colours, and the range that swscale does not know of such."""
    return frame.format.name.startswith(("gray", "ya")) and frame.color_range == 1


def _reformat(frame: av.VideoFrame, form: str, matrix: int | None) -> NDArray[Any]:
    from av.video.reformatter import VideoReformatter

    # One for each thread and form: it is set up anew whenever anything changes, which costs more than a small frame.
    if form not in _of_thread.__dict__:
        _of_thread.__dict__[form] = VideoReformatter()
    reformatter: VideoReformatter = _of_thread.__dict__[form]
    return np.asarray(reformatter.reformat(frame, format=form, src_colorspace=matrix, threads=1).to_ndarray())


@lru_cache
def _limited_grey() -> NDArray[np.uint8]:
    return np.rint(np.clip((np.arange(256) - 16) * 255 / 219, 0, 255)).astype(np.uint8)


@lru_cache
def _pq_light() -> NDArray[np.float32]:
    return pq_light(np.arange(65536) / 65535).astype(np.float32)


@lru_cache
def _hlg_scene() -> NDArray[np.float32]:
    """Light of the scene, 0 to 1, by the inverse OETF of BT.2100."""
    signal = np.arange(65536) / 65535
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(np.float32)


@lru_cache
def _sdr_light() -> NDArray[np.float32]:
    return (SDR_WHITE * (np.arange(65536) / 65535) ** 2.4).astype(np.float32)


@lru_cache
def _sdr_codes() -> NDArray[np.uint8]:
    """8-bit signal by the square root of light, both from 0 to the white."""
    return np.rint(255 * np.linspace(0, 1, 8192) ** (2 / 2.4)).astype(np.uint8)


@lru_cache
def _tone_gain() -> NDArray[np.float32]:
    """What light from 0 to `HDR_PEAK`, in equal steps, is multiplied by."""
    light = np.linspace(0, HDR_PEAK, 8001)
    return np.divide(tone_map(light), light, out=np.ones_like(light), where=light > 0).astype(np.float32)


@lru_cache
def _to_bt709(primaries: int) -> NDArray[np.float64]:
    """The matrix from linear RGB of these primaries to that of BT.709."""
    return np.asarray(np.linalg.inv(_to_xyz(1)) @ _to_xyz(primaries))


def _to_xyz(primaries: int) -> NDArray[np.float64]:
    columns = np.array([_xyz(*one) for one in _CHROMATICITIES[primaries]]).T
    return np.asarray(columns * np.linalg.solve(columns, _xyz(*_WHITE)))


def _xyz(x: float, y: float) -> NDArray[np.float64]:
    return np.array([x / y, 1, (1 - x - y) / y])
