from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image, ImageCms

from curation.images import read_image
from curation.schema import Reason, RowError
from tests.conftest import SHARED

LOSSLESS = ("png", "bmp", "tiff", "ppm", "tga", "webp", "jp2", "pcx", "sgi", "dds", "qoi")


def _sizes(least: int = 1) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(least, 9), st.integers(least, 9))


def _pixels(path: Path) -> NDArray[np.int64]:
    return read_image(path).pixels.astype(np.int64)


def _refused(path: Path) -> str:
    with pytest.raises(RowError) as caught:
        read_image(path)
    assert caught.value.reason == Reason.DECODE_ERROR
    assert str(path.parent) not in caught.value.detail
    return caught.value.detail


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@settings(max_examples=40)
@given(st.sampled_from(LOSSLESS), arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_eight_bit_colours_stay_what_they_are(folder: Path, kind: str, colours: NDArray[np.uint8]) -> None:
    path = folder / f"colours.{kind}"
    Image.fromarray(colours).save(path, **({"lossless": True} if kind == "webp" else {}))
    assert np.array_equal(read_image(path).pixels, colours)


@settings(max_examples=40)
@given(st.sampled_from(["png", "tiff", "pgm"]), arrays.arrays(np.uint16, _sizes()))
def test_sixteen_bits_are_scaled(folder: Path, kind: str, grey: NDArray[np.uint16]) -> None:
    path = folder / f"grey.{kind}"
    cv2.imwrite(str(path), grey)
    assert np.abs(_pixels(path) - grey[..., None] / 257).max() <= 0.5
    colours = np.stack([grey, grey[::-1], 65535 - grey], axis=-1)
    path = folder / f"colours.{'ppm' if kind == 'pgm' else kind}"
    cv2.imwrite(str(path), np.ascontiguousarray(colours[..., ::-1]))
    assert np.abs(_pixels(path) - colours / 257).max() <= 1


@settings(max_examples=40)
@given(
    st.sampled_from(["png", "tiff", "webp"]), arrays.arrays(np.uint8, st.tuples(*[st.integers(1, 9)] * 2, st.just(4)))
)
def test_transparency_is_laid_over_white(folder: Path, kind: str, layers: NDArray[np.uint8]) -> None:
    options = {"lossless": True, "exact": True} if kind == "webp" else {}
    alpha = layers[..., 3:] / 255
    Image.fromarray(layers).save(folder / f"layers.{kind}", **options)
    assert np.abs(_pixels(folder / f"layers.{kind}") - (layers[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1
    Image.fromarray(np.ascontiguousarray(layers[..., 2:])).save(folder / "grey.png")
    assert np.abs(_pixels(folder / "grey.png") - (layers[..., 2:3] * alpha + 255 * (1 - alpha))).max() <= 1


def test_one_transparent_value_is_white(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 1))
    palette.putpalette([200, 0, 0, 0, 200, 0])
    palette.putdata([0, 1, 0, 1])
    palette.save(tmp_path / "palette.png", transparency=1)
    assert _pixels(tmp_path / "palette.png")[0].tolist() == [[200, 0, 0], [255] * 3] * 2
    palette.save(tmp_path / "palette.gif", transparency=0)
    assert _pixels(tmp_path / "palette.gif")[0].tolist() == [[255] * 3, [0, 200, 0]] * 2
    palette.save(tmp_path / "alphas.png", transparency=bytes([255, 51]))
    assert _pixels(tmp_path / "alphas.png")[0].tolist() == [[200, 0, 0], [204, 244, 204]] * 2
    for mode, hidden, shown in (("L", 7, 9), ("RGB", (1, 2, 3), (3, 2, 1)), ("1", 0, 255), ("I;16", 700, 0)):
        image = Image.new(mode, (2, 1), hidden)
        image.putpixel((1, 0), shown)
        path = tmp_path / f"{mode[0]}.png"
        image.save(path, transparency=hidden)
        expected = shown if isinstance(shown, tuple) else (shown,) * 3
        assert _pixels(path)[0].tolist() == [[255] * 3, list(expected)], mode


@settings(max_examples=30)
@given(arrays.arrays(np.float32, _sizes(), elements=st.floats(-0.25, 1.25, width=32)))
def test_floats_are_from_zero_to_one_or_refused(folder: Path, values: NDArray[np.float32]) -> None:
    for path in (folder / "values.tiff", folder / "values.pfm"):
        cv2.imwrite(str(path), values)
        if values.min() < 0 or values.max() > 1:
            assert "floating-point samples from" in _refused(path)
        else:
            assert np.abs(_pixels(path) - values[..., None] * 255).max() <= 0.5 + 1e-4
    cv2.imwrite(str(folder / "nan.tiff"), np.full((2, 2), np.nan, np.float32))
    assert "from nan to nan, expected 0 to 1" in _refused(folder / "nan.tiff")


def test_integers_beyond_sixteen_bits_are_refused(tmp_path: Path) -> None:
    for low, high in ((0, 70_000), (-1, 5)):
        Image.fromarray(np.array([[low, high]], np.int32)).save(tmp_path / "values.tiff")
        assert f"integer samples from {low} to {high}, expected 0 to 65535" in _refused(tmp_path / "values.tiff")


def _tiff(pages: list[dict[int, int]], data: bytes = b"\0\xff") -> bytes:
    """A TIFF by hand: for each page the tags in which it differs from one row of two grey pixels in `data`."""
    text, at = b"II*\0" + struct.pack("<I", 8), 8
    for number, page in enumerate(pages):
        usual = {256: 2, 257: 1, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1, 279: len(data)}
        tags = {**usual, **page, 273: at + 2 + 12 * 9 + 12 * (254 in page) + 4}
        entries = b"".join(struct.pack("<HHII", key, 4, 1, value) for key, value in sorted(tags.items()))
        at = tags[273] + len(data)
        text += struct.pack("<H", len(tags)) + entries + struct.pack("<I", at if number + 1 < len(pages) else 0) + data
    return text


def test_white_is_zero_and_twelve_bits(tmp_path: Path) -> None:
    path = tmp_path / "x.tiff"
    path.write_bytes(_tiff([{258: 16, 262: 0}], struct.pack("<2H", 0, 0xFFFF)))
    assert _pixels(path)[0, :, 0].tolist() == [255, 0]
    path.write_bytes(_tiff([{258: 12}], bytes([0x80, 0x0F, 0xFF])))
    assert _pixels(path)[0, :, 0].tolist() == [128, 255]


def test_no_page_of_several_is_taken_for_all(tmp_path: Path) -> None:
    path = tmp_path / "x.tiff"
    path.write_bytes(_tiff([{}, {}]))
    assert "a TIFF of 2 pages" in _refused(path)
    path.write_bytes(_tiff([{254: 0}, {254: 1}, {254: 4}]))  # with a small one and a mask behind it
    assert _pixels(path)[0, :, 0].tolist() == [0, 255]
    path.write_bytes(_tiff([{254: 1}, {254: 0}]))
    assert "a mere preview (a raw photo?)" in _refused(path)
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "phone.mpo", save_all=True, append_images=[second])
    assert read_image(tmp_path / "phone.mpo").pixels[0, 0].tolist() == [254, 0, 0]


@pytest.mark.parametrize("kind", ["webp", "png", "gif", "avif"])
def test_an_animation_is_no_still(kind: str, tmp_path: Path) -> None:
    first, *rest = (Image.new("RGB", (16, 16), (60 * number, 0, 0)) for number in range(3))
    first.save(tmp_path / f"x.{kind}", save_all=True, append_images=rest, duration=100)
    assert "an animation of 3 frames" in _refused(tmp_path / f"x.{kind}")
    first.save(tmp_path / f"one.{kind}")
    assert read_image(tmp_path / f"one.{kind}").pixels.shape == (16, 16, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "I;16", "RGBA"])
def test_every_orientation_is_upright(orientation: int, mode: str, tmp_path: Path) -> None:
    upright = np.arange(6).reshape(2, 3) * 40
    turned: dict[int, Any] = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
        6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    stored = np.ascontiguousarray(turned[orientation](upright))
    if mode == "I;16":
        image = Image.fromarray((stored * 257).astype(np.uint16))
    else:
        image = Image.fromarray(stored.astype(np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(_pixels(tmp_path / "x.png")[..., 0], upright)


def _swapped_profile() -> bytes:
    """A profile like sRGB, whose red is green."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")
    return profile.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))


def test_an_embedded_profile_is_applied(tmp_path: Path) -> None:
    for name, image in {
        "x.png": Image.new("RGB", (8, 8), (255, 0, 0)),
        "x.jpg": Image.new("RGB", (8, 8), (255, 0, 0)),
        "x.webp": Image.new("RGB", (8, 8), (255, 0, 0)),
        "x.tiff": Image.new("RGBA", (8, 8), (255, 0, 0, 255)),
        "p.png": Image.new("RGB", (8, 8), (255, 0, 0)).quantize(2),
    }.items():
        image.save(tmp_path / name, icc_profile=_swapped_profile())
        assert np.abs(_pixels(tmp_path / name)[4, 4] - [0, 255, 0]).max() <= 3, name


def test_a_profile_that_does_not_fit_is_ignored(tmp_path: Path) -> None:
    for name, profile in (("damaged.png", b"no profile"), ("short.png", _swapped_profile()[:200])):
        Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / name, icc_profile=profile)
        assert _pixels(tmp_path / name)[0, 0].tolist() == [255, 0, 0]
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png", icc_profile=_swapped_profile())
    assert _pixels(tmp_path / "grey.png")[0, 0].tolist() == [77, 77, 77]


def test_other_colour_spaces(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "ink.jpg", quality=95)
    assert np.abs(_pixels(tmp_path / "ink.jpg")[8, 8] - [255, 0, 0]).max() <= 3
    Image.new("CMYK", (16, 16), (0, 0, 0, 128)).save(tmp_path / "ink.tiff")
    assert np.abs(_pixels(tmp_path / "ink.tiff")[8, 8] - 127).max() <= 1
    red = ImageCms.profileToProfile(
        Image.new("RGB", (8, 8), (200, 30, 40)),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    assert red is not None
    red.save(tmp_path / "lab.tiff")
    assert np.abs(_pixels(tmp_path / "lab.tiff")[0, 0] - [200, 30, 40]).max() <= 3
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "fax.tiff", compression="group4")
    assert _pixels(tmp_path / "fax.tiff")[0, :, 1].tolist() == [0, 255]


def test_what_is_no_image_says_what_it_is(tmp_path: Path) -> None:
    for name, content, said in (
        (
            "photo.heic",
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
            "no decoder here for this kind of HEIF: convert it to PNG",
        ),
        ("scene.exr", b"\x76\x2f\x31\x01\2\0\0\0", "this kind of OpenEXR"),
        ("scene.hdr", b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n", "this kind of Radiance HDR"),
        ("x.jxl", b"\xff\x0a\0\0", "this kind of JPEG XL"),
        ("x.jpg", b"<html>404</html>", "no image of a kind that it knows"),
        ("x.eps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image of a kind that it knows"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "pillow: "),
    ):
        (tmp_path / name).write_bytes(content)
        assert said in _refused(tmp_path / name)
    Image.new("L", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert "DecompressionBombError" in _refused(tmp_path / "bomb.png")


@pytest.mark.skipif(not (SHARED / "inputs").is_dir(), reason="no inputs in shared")
def test_inputs_that_showed_faults() -> None:
    ramp = _pixels(SHARED / "inputs" / "grey16.png")
    assert (ramp[:, 0] == 0).all()
    assert (ramp[:, -1] == 255).all()
    assert np.abs(ramp[:, 128] - 127.5).max() <= 1
    disc = _pixels(SHARED / "inputs" / "alpha.png")
    assert (disc[0] == 255).all()
    red = disc[disc.shape[0] // 2, disc.shape[1] // 2]
    assert red[0] > 2 * max(red[1], red[2])
    assert read_image(SHARED / "inputs" / "pic.jfif").codec == "jpeg"
