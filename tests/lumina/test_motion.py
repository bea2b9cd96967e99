from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lumina import zoo
from lumina.frame_times import pick_indices
from lumina.models.config import RELEASED_FLOW_MODELS
from lumina.models.unimatch import UniMatch
from lumina.motion import (
    RELEASED_TIMES_S,
    DISFlow,
    OpticalFlowEstimator,
    UniMatchFlow,
    motion_score,
    motion_scores,
    prepare_frames,
    prepare_grey,
)
from tests.lumina import golden as fixtures

ZOO = Path(zoo.__file__).parent


class ConstantFlow:
    """Every pixel moves by (3, -4)."""

    name = "constant/1"
    prepare = staticmethod(prepare_frames)

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.array([3.0, -4.0], np.float32)[None, :, None, None], (len(a), 2, *a.shape[1:3]))


def _moving(shift: int, count: int = 4) -> np.ndarray:
    texture = np.random.Generator(np.random.Philox(1)).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    texture = texture.repeat(8, axis=0).repeat(8, axis=1)
    return np.stack([np.roll(texture, shift * t, axis=1) for t in range(count)])[:, :96, 16:160]


def test_both_definitions() -> None:
    score = motion_score(_moving(0), ConstantFlow(), size=(32, 64), batch_pairs=2)
    assert score.flow_abs_mean == pytest.approx(3.5)
    assert score.flow_mag_mean == score.flow_mag_p90 == pytest.approx(5)
    assert score.pair_scores == pytest.approx((3.5, 3.5, 3.5))
    assert not score.transposed
    with pytest.raises(ValueError, match="at least 2 frames"):
        motion_score(_moving(0)[:1], ConstantFlow())


class OpposedFlow:
    """The left half of pair n moves by (3n, -4n), the right half by the opposite."""

    name = "opposed/1"
    prepare = staticmethod(prepare_frames)

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        flow = np.empty((len(a), 2, *a.shape[1:3]), np.float32)
        pair = a[:, 0, 0, 0, None, None]
        half = a.shape[2] // 2
        for channel, speed in enumerate((3.0, -4.0)):
            flow[:, channel, :, :half] = pair * speed
            flow[:, channel, :, half:] = -pair * speed
        return flow


def test_opposite_motions_do_not_cancel() -> None:
    frames = np.broadcast_to(np.arange(1, 5, dtype=np.uint8)[:, None, None, None], (4, 32, 64, 3))
    score = motion_score(np.ascontiguousarray(frames), OpposedFlow(), size=(16, 32), batch_pairs=2)
    assert score.pair_scores == pytest.approx((3.5, 7.0, 10.5))
    assert score.flow_abs_mean == pytest.approx(7.0)
    assert score.flow_mag_mean == pytest.approx(10.0)
    assert score.flow_mag_p90 == pytest.approx(15.0)


def test_dis_measures_a_shift_and_a_still() -> None:
    estimator = DISFlow()
    assert estimator.name.startswith("opencv-dis-medium/")
    moving = motion_score(_moving(3), estimator, size=(96, 144))
    still = motion_score(_moving(0), estimator, size=(96, 144))
    assert moving.flow_mag_mean == pytest.approx(3, abs=0.3)
    assert still.flow_mag_mean < 0.05
    again = motion_score(_moving(3), DISFlow(), size=(96, 144), batch_pairs=1)
    assert again == moving  # neither the batch nor the instance matters
    tall = motion_score(_moving(3).transpose(0, 2, 1, 3), estimator, size=(96, 144))
    assert tall.transposed
    assert tall.flow_abs_mean == moving.flow_abs_mean


def test_dis_sees_rounded_luminance() -> None:
    frames = _moving(3)
    prepared, seen = prepare_frames(frames, (80, 144)), prepare_grey(frames, (80, 144))
    red, green, blue = (np.rint(prepared[..., channel]) for channel in range(3))
    assert (seen.shape, seen.dtype) == ((4, 80, 144, 1), np.uint8)
    assert np.abs(0.299 * red + 0.587 * green + 0.114 * blue - seen[..., 0]).max() <= 0.51
    estimator = DISFlow()
    np.testing.assert_array_equal(estimator(seen[:-1], seen[1:]), estimator(prepared[:-1], prepared[1:]))


def test_frames_are_picked_as_released(golden: Path) -> None:
    cases = json.loads((golden / "G_motion.json").read_text())["frame_ids"]
    for fps, count, expected in cases:
        picked = pick_indices(RELEASED_TIMES_S, fps, count)
        assert (picked if len(picked) >= 2 else None) == expected


def test_frames_are_resized_as_released(golden: Path) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(golden / "G_motion.safetensors")
    for name in ("landscape", "portrait", "square"):
        resized = prepare_frames(tensors[f"{name}.frames_nhwc"]).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(resized[:, :, ::16, ::16], tensors[f"{name}.resized_every_16"], atol=1e-3)
        corner = tensors[f"{name}.resized_corner"]
        np.testing.assert_allclose(resized[:, :, -corner.shape[2] :, -corner.shape[3] :], corner, atol=1e-3)


def test_a_clip_is_scored_as_released(golden: Path) -> None:
    arrays, definitions = fixtures.read(golden, "G_motion")
    manifest = fixtures.read(golden, "E_unimatch")[1]["manifest"]["scale2_refine6"]
    model = UniMatch(RELEASED_FLOW_MODELS["gmflow-scale2-regrefine6"]).eval()
    model.load_state_dict(fixtures.weights(golden, definitions["landscape"] | {"manifest": manifest}))
    flows: list[np.ndarray] = []

    class Seen(UniMatchFlow):
        def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
            flows.append(super().__call__(a, b))
            return flows[-1]

    # One pair takes seconds; those after it are added up by what `test_both_definitions` looks at.
    score = motion_score(arrays["landscape.frames_nhwc"].numpy()[:2], Seen(model, "unimatch"), batch_pairs=2)
    [flow] = flows
    fixtures.assert_close(
        "landscape", torch.from_numpy(flow[:, :, ::8, ::8]), arrays["landscape.flow_every_8"][:1], "flow"
    )
    pairs = arrays["landscape.flow_mean_abs_per_pair_channel"].mean(1)
    assert score.pair_scores == pytest.approx([float(pairs[0])], rel=1e-3)
    assert float(pairs.mean()) == pytest.approx(definitions["landscape"]["score"], rel=1e-5)


@pytest.mark.parametrize("estimator", [ConstantFlow(), UniMatchFlow.from_pretrained(ZOO / "unimatch")])
def test_pairs_of_several_clips_are_estimated_together(estimator: OpticalFlowEstimator) -> None:
    clips = [_moving(1, 4), _moving(2, 2), _moving(0, 3).transpose(0, 2, 1, 3)]
    together = motion_scores(clips, estimator, (16, 24), batch_pairs=4)
    for clip, score in zip(clips, together, strict=True):
        alone = motion_score(clip, estimator, (16, 24), batch_pairs=1)
        assert score.pair_scores == pytest.approx(alone.pair_scores, rel=1e-4, abs=1e-5)
        assert (score.transposed, len(score.pair_scores)) == (alone.transposed, len(clip) - 1)
    assert motion_scores([], estimator) == []
