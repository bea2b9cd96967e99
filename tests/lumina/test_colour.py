from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from lumina import colour
from lumina.colour import is_wide, pq, pq_light, sdr, tags, to_rgb, tone_map

BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)  # weights of red and blue
COLOURS = np.array([
    [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 255, 255], [0, 0, 0], [200, 100, 50], [20, 90, 160],
])  # fmt: skip
TAGGED = [(1, BT709), (5, BT601), (6, BT601), (9, BT2020)]


def coded(rgb: NDArray[np.float64], weights: tuple[float, float], bits: int = 8, full: bool = False) -> list[int]:
    """Y, Cb and Cr of R'G'B' from 0 to 1, by the formulas of H.273."""
    red, blue = weights
    y = red * rgb[0] + (1 - red - blue) * rgb[1] + blue * rgb[2]
    chroma = np.array([(rgb[2] - y) / (2 - 2 * blue), (rgb[0] - y) / (2 - 2 * red)])
    scale, top = 1 << (bits - 8), (1 << bits) - 1
    luma = y * top if full else (16 + 219 * y) * scale
    offsets = chroma * (top if full else 224 * scale) + (128 << (bits - 8))
    return [min(round(float(value)), top) for value in (luma, *offsets)]


def picture(values: list[int], form: str = "yuv420p", size: tuple[int, int] = (64, 48), **tagged: int) -> av.VideoFrame:
    """A frame of one colour, given by the value in each plane."""
    frame = av.VideoFrame(*size, form)
    dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    for plane, value in zip(frame.planes, values, strict=True):
        plane.update(np.full(plane.buffer_size // np.dtype(dtype).itemsize, value, dtype).tobytes())
    for name, tag in tagged.items():
        setattr(frame, name, tag)
    return frame


def shown(frame: av.VideoFrame) -> NDArray[np.int64]:
    rgb = to_rgb(frame)
    assert rgb.shape == (frame.height, frame.width, 3)
    assert rgb.dtype == np.uint8
    assert (rgb == rgb[0, 0]).all()
    return rgb[0, 0].astype(np.int64)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("tag", "weights"), TAGGED)
def test_a_tagged_frame_has_the_colours_of_its_matrix_and_range(
    tag: int, weights: tuple[float, float], full: bool
) -> None:
    for rgb in COLOURS:
        frame = picture(coded(rgb / 255, weights, full=full), colorspace=tag, color_range=2 if full else 1)
        assert np.abs(shown(frame) - rgb).max() <= 3


@pytest.mark.parametrize(
    ("size", "weights"),
    [((640, 480), BT601), ((720, 576), BT601), ((1280, 720), BT709), ((1280, 544), BT709), ((720, 1280), BT709)],
)
@pytest.mark.parametrize("tag", [0, 2, 3])
def test_untagged_video_is_bt601_up_to_the_size_of_a_dvd(
    size: tuple[int, int], weights: tuple[float, float], tag: int
) -> None:
    frame = picture(coded(np.array([1, 0, 0]), weights), size=size, colorspace=tag)
    assert np.abs(shown(frame) - [255, 0, 0]).max() <= 3


def test_what_else_is_tagged_tells_the_matrix() -> None:
    red = np.array([1, 0, 0])
    assert np.abs(shown(picture(coded(red, BT709), color_primaries=1)) - [255, 0, 0]).max() <= 3
    assert np.abs(shown(picture(coded(red, BT601), size=(1280, 720), color_primaries=6)) - [255, 0, 0]).max() <= 3
    derived = picture(coded(red, BT709), color_primaries=1, colorspace=12)
    assert np.abs(shown(derived) - [255, 0, 0]).max() <= 3


def test_frames_that_are_rgb_or_of_full_range_by_their_form_are_as_they_are() -> None:
    assert shown(picture([10, 200, 30], "gbrp")).tolist() == [30, 10, 200]
    assert shown(picture([10, 200, 30], "gbrp", colorspace=0, color_range=2)).tolist() == [30, 10, 200]
    assert shown(picture([77], "gray")).tolist() == [77] * 3
    assert shown(picture([235], "gray", color_range=1)).tolist() == [255] * 3
    assert shown(picture([16], "gray", color_range=1)).tolist() == [0] * 3
    rgb = np.array([200, 100, 50])
    assert np.abs(shown(picture(coded(rgb / 255, BT601, full=True), "yuvj420p")) - rgb).max() <= 3
    ten = picture(coded(rgb / 255, BT709, bits=10), "yuv444p10le", colorspace=1)
    assert np.abs(shown(ten) - rgb).max() <= 3


@pytest.mark.parametrize(("tag", "name"), [(8, "ycgco"), (14, "ictcp"), (99, "99")])
def test_a_matrix_that_cannot_be_read_is_named(tag: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"the matrix {name}, which cannot be read; convert it to bt709"):
        to_rgb(picture([100, 100, 100], colorspace=tag))


def test_pq_has_the_values_of_its_standard() -> None:
    assert pq(np.array([0.0, 100.0, 203.0, 1000.0, 10000.0])) == pytest.approx([0, 0.508, 0.581, 0.752, 1], abs=5e-4)
    nits = np.geomspace(0.01, 10000, 50)
    assert pq_light(pq(nits)) == pytest.approx(nits)


def test_tone_mapping_leaves_the_dark_and_rolls_off_to_white() -> None:
    nits = np.linspace(0, 1000, 2001)
    mapped = tone_map(nits)
    assert mapped[nits <= 85] == pytest.approx(nits[nits <= 85])
    assert (np.diff(mapped) > 0).all()
    assert (np.diff(mapped) <= np.diff(nits) + 1e-6).all()
    assert mapped[-1] == pytest.approx(203)
    # By hand: 203 nits are .7724 of the peak's signal, and the knee is at .6586; so t = .3333, and the spline .7387.
    assert mapped[nits == 203] == pytest.approx([pq_light(np.array(0.7387 * 0.7518))], rel=0.01)


def test_primaries_are_changed_as_in_bt2087() -> None:
    matrix = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
    assert colour._to_bt709(9) == pytest.approx(np.array(matrix), abs=1e-4)
    assert colour._to_bt709(12).sum(axis=1) == pytest.approx([1, 1, 1])


def hlg(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """The HLG signal of light that a screen of 1000 nits shows, by BT.2100."""
    scene = light / 1000 * (light @ [0.2627, 0.6780, 0.0593] / 1000) ** (1 / 1.2 - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


@pytest.mark.parametrize(("transfer", "signal"), [(16, pq), (18, hlg)])
def test_hdr_below_the_knee_shines_on_an_sdr_screen_as_bright_and_as_coloured(transfer: int, signal: object) -> None:
    assert callable(signal)
    another = VideoReformatter()
    for light in np.random.default_rng(0).uniform(2, 80, (40, 3)):  # nits, in the primaries of BT.709
        wide = np.linalg.inv(colour._to_bt709(9)) @ light
        values = coded(signal(wide), BT2020, bits=10)
        frame = picture(values, "yuv420p10le", colorspace=9, color_primaries=9, color_trc=transfer, color_range=1)
        assert is_wide(frame)
        assert np.abs(shown(frame) - 255 * (light / 203) ** (1 / 2.4)).max() <= 5
        # Another implementation; its table is coarse.
        theirs = another.reformat(frame, format="rgb24", dst_color_trc=1, dst_color_primaries=1)
        assert np.abs(shown(frame) - theirs.to_ndarray()[0, 0]).max() <= 20


def test_hdr_keeps_what_is_brighter_than_the_white_apart() -> None:
    greys = [
        int(shown(picture(coded(np.full(3, pq(np.array(nits))), BT2020, bits=10), "yuv420p10le", color_trc=16))[0])
        for nits in (0.0, 1.0, 100.0, 203.0, 400.0, 1000.0, 4000.0)
    ]
    assert greys[0] == 0
    assert np.diff(greys[:-1]).min() >= 4
    assert greys[3] == pytest.approx(255 * (tone_map(np.array(203.0)) / 203) ** (1 / 2.4), abs=2)
    assert greys[-1] >= 253


def test_a_bright_colour_keeps_its_hue() -> None:
    dim, bright = np.array([60.0, 30.0, 15.0]), np.array([600.0, 300.0, 150.0])
    ratios = []
    for light in (dim, bright):
        signal = np.rint(65535 * pq(np.linalg.inv(colour._to_bt709(9)) @ light)).astype(np.uint16)
        linear = (sdr(signal[None, None], 16, 9)[0, 0] / 255) ** 2.4
        ratios.append(linear[:2] / linear[2])
    assert ratios[0] == pytest.approx(ratios[1], rel=0.05)


def test_sdr_of_a_wide_gamut_is_not_shown_pale() -> None:
    light = np.array([0.6, 0.2, 0.1])
    wide = (np.linalg.inv(colour._to_bt709(9)) @ light) ** (1 / 2.4)
    frame = picture(coded(wide, BT2020), colorspace=9, color_primaries=9, color_trc=14, color_range=1)
    assert np.abs(shown(frame) - 255 * light ** (1 / 2.4)).max() <= 4


def test_tags_have_the_names_of_ffprobe(tmp_path: Path) -> None:
    frame = picture([1, 2, 3], colorspace=9, color_primaries=9, color_trc=16, color_range=1)
    assert tags(frame) == {
        "color_space": "bt2020nc", "color_primaries": "bt2020", "color_transfer": "smpte2084", "color_range": "tv",
    }  # fmt: skip
    assert set(tags(picture([1, 2, 3])).values()) == {None}


def test_frames_of_many_forms_in_turn_do_not_mix() -> None:
    frames = [
        picture(coded(COLOURS[0] / 255, BT709), colorspace=1),
        picture(coded(COLOURS[1] / 255, BT601), size=(48, 64), colorspace=6),
        picture([10, 200, 30], "gbrp"),
    ]
    first = [shown(frame).tolist() for frame in frames]
    assert [shown(frame).tolist() for frame in frames * 3] == first * 3
