"""Frames that are resized in the decoding process are those that would be resized here, bit for bit, in less memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from curation.backends import probe, read
from curation.decode import READ_COLUMNS
from curation.decode_limits import DecodeLimits
from curation.decoder import Decoder
from curation.fitting import Fit
from curation.latents import _PLANNED, ENCODE_LATENTS_OPERATOR, EncodeLatentsConfig, plan_row
from curation.motion_scores import MOTION_OPERATOR, MotionConfig
from curation.operator import Env, apply
from curation.schema import PROBE, STATUS_COLUMNS, Reason, RowError, to_table
from curation.tensors import unpack
from lumina import zoo
from lumina.models.autoencoder import VideoAutoencoder
from lumina.motion import DISFlow, motion_score, prepare_frames, prepare_grey
from lumina.sizes import resize_crop
from lumina.video import write_h264
from tests.curation.test_decode import probed

VAE = Path(zoo.__file__).parent / "vae"
MOTION_ROWS = pa.schema([PROBE.field(name) for name in ("clip_id", *READ_COLUMNS, *STATUS_COLUMNS)])
NOISE = np.random.Generator(np.random.Philox(3))


def _film(path: Path, width: int, height: int, frames: int = 10) -> Path:
    texture = NOISE.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    write_h264(path, np.stack([np.roll(texture, 5 * t, axis=1) for t in range(frames)]), fps=8)
    return path


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    made = Decoder(DecodeLimits())
    yield made
    made.close()


@pytest.mark.parametrize(("width", "height"), [(208, 120), (120, 208)])
@pytest.mark.parametrize(
    ("function", "size"), [(resize_crop, (64, 32)), (prepare_frames, (32, 64)), (prepare_grey, (32, 64))]
)
def test_frames_are_resized_as_they_would_be_here(
    tmp_path: Path, decoder: Decoder, width: int, height: int, function: Callable[..., Any], size: tuple[int, int]
) -> None:
    path, times = _film(tmp_path / "film.mp4", width, height), [0.0, 0.25, 0.25, 1.0]
    track = probe(path, "video").track
    whole, fitted = read(path, "video", track, times), decoder.frames(path, "video", track, times, Fit(function, size))
    expected = function(whole.pixels, size)
    assert fitted.pixels.dtype == expected.dtype
    np.testing.assert_array_equal(fitted.pixels, expected)
    assert (fitted.stamps_s, fitted.shown) == (whole.stamps_s, (width, height))
    still = tmp_path / "still.png"
    Image.fromarray(whole.pixels[0]).save(still)
    fitted = decoder.frames(still, "image", None, [0.0], Fit(function, size))
    np.testing.assert_array_equal(fitted.pixels, expected[:1])
    assert fitted.shown == (width, height)


def test_no_clip_is_held_in_its_own_size(tmp_path: Path) -> None:
    path = _film(tmp_path / "film.mp4", 640, 360, frames=40)
    track, times = probe(path, "video").track, [step / 8 for step in range(40)]
    tracemalloc.start()
    try:
        fitted = read(path, "video", track, times, Fit(resize_crop, (64, 32)))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        whole = read(path, "video", track, times)
        assert tracemalloc.get_traced_memory()[1] < 1.3 * whole.pixels.nbytes  # once, not twice
    finally:
        tracemalloc.stop()
    assert fitted.pixels.nbytes < most < whole.pixels.nbytes / 5


def test_a_large_clip_is_read_in_little_memory(tmp_path: Path) -> None:
    path, times = tmp_path / "film.mp4", [step / 8 for step in range(64)]
    write_h264(path, np.broadcast_to(np.uint8(90), (64, 1088, 1920, 3)), fps=8)
    track = probe(path, "video").track
    small = Decoder(DecodeLimits(memory_bytes=500 << 20))
    try:
        with pytest.raises(RowError) as caught:
            small.frames(path, "video", track, times)
        assert caught.value.reason == Reason.DECODE_MEMORY
        fitted = small.frames(path, "video", track, times, Fit(resize_crop, (256, 128)))
    finally:
        small.close()
    assert fitted.pixels.shape == (64, 128, 256, 3)


def test_only_functions_of_our_own_are_called(tmp_path: Path, decoder: Decoder) -> None:
    path = _film(tmp_path / "film.mp4", 64, 48)
    with pytest.raises(RowError, match=r"'numpy:zeros_like' is none of the functions of curation\. and lumina\."):
        decoder.frames(path, "video", probe(path, "video").track, [0.0], Fit(_foreign(), (8, 8)))


def _foreign() -> Any:
    def function(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return frames

    function.__module__, function.__qualname__ = "numpy", "zeros_like"
    return function


def test_rows_are_those_of_whole_frames(tmp_path: Path) -> None:
    """Encode and motion against decoding, then resizing, then computing."""
    sizes = {"wide.mp4": (208, 120), "tall.mp4": (120, 208)}
    for name, size in sizes.items():
        _film(tmp_path / name, *size)
    rows = probed(tmp_path, [(name, (None, None)) for name in sizes])
    env = Env(str(tmp_path), {"vae": str(VAE)})
    config = EncodeLatentsConfig(resolution=64, num_frames=5, fps=4, dtype="float32")
    common = {"stages": None, "stage_failed": None, "system_prompt_id": "s", "motion_score": 1.0, "split": "train"}
    planned = [row | common | plan_row(row | common, config, config.sizes) for row in rows]
    assert ENCODE_LATENTS_OPERATOR.map is not None
    assert MOTION_OPERATOR.map is not None
    encode = ENCODE_LATENTS_OPERATOR.map(config, env)
    vae, decoded = VideoAutoencoder.from_pretrained(VAE), {}
    for row in planned:
        decoded[row["uri"]] = read(tmp_path / row["uri"], "video", row["track"], row["times_s"]).pixels
        [made] = encode(to_table([row], _PLANNED)).to_pylist()
        latent = vae.encode(torch.from_numpy(resize_crop(decoded[row["uri"]], tuple(row["size"]))))[0]
        assert torch.equal(unpack(made["vae_latent_bytes"], made["vae_latent_shape"], made["vae_latent_dtype"]), latent)

    motion = MotionConfig(estimator="dis", height=32, width=64, interval_s=0.25, samples=5)
    score = MOTION_OPERATOR.map(motion, env)
    table = to_table(rows, MOTION_ROWS)
    for made in apply(MOTION_OPERATOR, score, table).to_pylist():
        [row] = [row for row in rows if row["clip_id"] == made["clip_id"]]
        frames = read(tmp_path / row["uri"], "video", row["track"], [0, 0.25, 0.5, 0.75, 1]).pixels
        expected = motion_score(frames, DISFlow(), (32, 64))
        assert made["transposed"] == expected.transposed == (row["uri"] == "tall.mp4")
        assert tuple(made["pair_scores"]) == pytest.approx(expected.pair_scores, rel=1e-6)
        assert made["flow_mag_p90"] == pytest.approx(expected.flow_mag_p90, rel=1e-6)
