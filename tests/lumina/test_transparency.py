from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from lumina.transparency import alpha_of, over_white


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(4))))
def test_it_is_mixed_with_white(layers: NDArray[np.uint8]) -> None:
    alpha = layers[..., 3:] / 255
    found = over_white(layers[..., :3], layers[..., 3])
    assert np.abs(found - (layers[..., :3] * alpha + 255 * (1 - alpha))).max() <= 0.5 + 1e-9
    assert np.array_equal(over_white(layers[..., :3], None), layers[..., :3])


@pytest.mark.parametrize("name", ["x.apng", "x.gif", "x.mkv", "x.mov"])
def test_what_animations_and_films_hide_is_white(name: str, tmp_path: Path) -> None:
    noise = np.random.Generator(np.random.Philox(4)).integers(0, 255, (3, 48, 64, 4), dtype=np.uint8)
    noise[..., 3] = 0
    noise[:, 16:32, 16:32] = [255, 0, 0, 255]
    path = tmp_path / name
    if name in ("x.apng", "x.gif"):
        first, *rest = (Image.fromarray(one) for one in noise)
        first.save(path, "PNG" if name == "x.apng" else "GIF", save_all=True, append_images=rest, duration=100)
    else:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("prores_ks" if name == "x.mov" else "ffv1", rate=8)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = "yuva444p10le" if name == "x.mov" else "bgra"
            for one in noise:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(one, format="rgba")))
            container.mux(stream.encode())
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.video[0]):
            shown = over_white(frame.to_ndarray(format="rgb24"), alpha_of(frame)).astype(int)
            assert np.abs(shown[20:28, 20:28] - [255, 0, 0]).max() < 12
            assert shown[:12, :, :].min() > 250


def test_what_is_opaque_has_no_alpha() -> None:
    for form in ("yuv420p", "gray", "rgb24"):
        assert alpha_of(av.VideoFrame(16, 16, form)) is None
    opaque = np.full((8, 8, 4), 255, np.uint8)
    assert alpha_of(av.VideoFrame.from_ndarray(opaque, format="rgba")) is None
