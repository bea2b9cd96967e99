"""Optical flow of clips: pairs, batches, sizes that RAFT cannot take, and torchvision's names."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lumina.vbench.networks.flow import FlowNetwork, load_raft
from lumina.vbench.networks.raft import correlation_pyramid, look_up, upsample
from tests.conftest import SHARED
from tests.lumina.vbench.networks.reference_numbers import draw, frames

TORCHVISION = (
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"_encoder\.conv1\.", "_encoder.convnormrelu.0."),
    (r"_encoder\.norm1\.", "_encoder.convnormrelu.1."),
    (r"_encoder\.conv2\.", "_encoder.conv."),
    (r"(layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
    (r"(layer\d\.\d)\.norm(\d)\.", r"\1.convnormrelu\2.1."),
    (r"^update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"^update_block\.mask\.2\.", "mask_predictor.conv."),
    (r"\.encoder\.conv\.", ".motion_encoder.conv.0."),
    (r"\.encoder\.convc(\d)\.", r".motion_encoder.convcorr\1.0."),
    (r"\.encoder\.convf(\d)\.", r".motion_encoder.convflow\1.0."),
    (r"\.gru\.conv([zrq])(\d)\.", r".recurrent_block.convgru\2.conv\1."),
)


@pytest.fixture(scope="module")
def raft(files: dict[str, Path]) -> FlowNetwork:
    return load_raft(files["raft"])


def torchvision_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file of raft_large as torchvision writes it."""
    found = {}
    for name, value in tensors.items():
        if ".norm3." not in name:
            for pattern, replacement in TORCHVISION:
                name = re.sub(pattern, replacement, name)
            found[name] = value
    return found


def test_batches_and_pairs_change_no_flow(raft: FlowNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft.model, "forward", partial(raft.model.forward, iterations=2))
    clip = frames(4, 128, 136)
    together = np.stack(list(raft.flows(clip)))
    assert together.shape == (3, 2, 128, 136)
    alone = np.stack(list(raft.flows(clip, [(2, 3), (0, 1), (1, 2)], batch=1)))[[1, 2, 0]]
    np.testing.assert_allclose(together, alone, atol=1e-4)
    [back] = raft.flows(clip, [(1, 0)])
    assert np.abs(back - together[0]).max() > 0.1


def test_each_frame_is_encoded_once(raft: FlowNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    monkeypatch.setattr(raft.model, "features", lambda images: encoded.append(len(images)) or images[:, :1, ::8, ::8])
    monkeypatch.setattr(raft.model, "forward", lambda first, features: first[:, :2])
    assert len(list(raft.flows(frames(6, 128, 128), batch=2))) == 5
    assert encoded == [3, 2, 1]


def test_large_frames_go_one_by_one(raft: FlowNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft.model, "features", lambda images: images[:, :1, ::8, ::8])
    sizes: list[int] = []
    monkeypatch.setattr(raft.model, "forward", lambda first, features: sizes.append(len(first)) or first[:, :2])
    for height, width in ((512, 512), (720, 1280), (128, 128)):
        list(raft.flows(np.zeros((10, height, width, 3), np.uint8)))
    assert sizes == [4, 4, 1, *[1] * 9, 8, 1]


@pytest.mark.parametrize(("height", "width"), [(120, 256), (256, 112), (64, 64)])
def test_sides_that_give_nan_are_refused(raft: FlowNetwork, height: int, width: int) -> None:
    message = rf"RAFT needs sides of 128 pixels or more after padding, got {width}x{height}: .*not defined"
    with pytest.raises(ValueError, match=message):
        next(raft.flows(frames(2, height, width)))


def test_the_smallest_side_is_one_after_padding(raft: FlowNetwork) -> None:
    [flow] = raft.flows(frames(2, 121, 128))
    assert flow.shape == (2, 128, 128)
    assert np.isfinite(flow).all()


def test_one_frame_has_no_flow(raft: FlowNetwork) -> None:
    with pytest.raises(ValueError, match="optical flow is between frames, and the clip has 1"):
        next(raft.flows(frames(1, 128, 128)))


def test_names_of_torchvision_give_the_same_network(files: dict[str, Path], raft: FlowNetwork, tmp_path: Path) -> None:
    renamed = torchvision_names(torch.load(files["raft"]))
    torch.save(renamed, tmp_path / "raft_large.pth")
    found = load_raft(tmp_path / "raft_large.pth")
    assert found.digest == raft.digest
    if (SHARED / "golden_vbench").is_dir():
        names = json.loads((SHARED / "golden_vbench" / "W_dynamic.json").read_text())["raft"]["torchvision_key_map"]
        assert set(renamed) == {name for name in names.values() if name}


def test_correlations_are_read_around_a_point_columns_first() -> None:
    first, second = draw("one", 1, 4, 16, 16), draw("other", 1, 4, 16, 16)
    pyramid = correlation_pyramid(first, second)
    point = torch.tensor([9.0, 5.0]).reshape(1, 2, 1, 1).expand(1, 2, 16, 16)
    found = look_up(pyramid, point)[0, :, 2, 3]
    products = torch.einsum("c,chw->hw", first[0, :, 2, 3], second[0]) / 2
    # Window [-4, 4] around x = 9, y = 5: x is the slower number.
    torch.testing.assert_close(found[:81].reshape(9, 9), products[1:10, 5:14].t())
    halves = products.reshape(8, 2, 8, 2).mean((1, 3))
    want = torch.nn.functional.pad(halves, (4, 4, 4, 4))
    between = (want[2:12, 4:14] + want[3:13, 4:14]) / 2
    between = (between[:9, :9] + between[:9, 1:]) / 2
    torch.testing.assert_close(found[81:162].reshape(9, 9), between.t())


def test_an_even_mask_averages_nine_neighbours() -> None:
    flow = draw("flow", 1, 2, 4, 5)
    found = upsample(flow, torch.zeros(1, 576, 4, 5))
    assert found.shape == (1, 2, 32, 40)
    want = 8 * torch.nn.functional.avg_pool2d(flow, 3, 1, 1)
    torch.testing.assert_close(found, want.repeat_interleave(8, 2).repeat_interleave(8, 3))
