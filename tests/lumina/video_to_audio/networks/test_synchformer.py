"""Synchformer's visual tower: its files, and that a token knows when things move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lumina.video_to_audio.frames import sync_frames
from lumina.video_to_audio.networks.synchformer import Synchformer, SynchformerVisual, load_synchformer
from tests.lumina.reference_numbers import draw
from tests.lumina.vbench.networks.reference_numbers import frames
from tests.lumina.video_to_audio.reference_numbers import SYNC


@pytest.fixture(scope="module")
def network(published: dict[str, Path]) -> Synchformer:
    return load_synchformer(published["sync"], SYNC)


def test_a_segment_sees_its_own_frames_alone(network: Synchformer) -> None:
    clip = frames(32, 64, 64)
    other = clip.copy()
    other[24:] = 0
    one, two = network.features(clip), network.features(other)
    assert one.shape == (24, 32)
    assert torch.equal(one[:16], two[:16])
    assert not torch.isclose(one[16:], two[16:]).all(1).any()
    torch.testing.assert_close(network.features(clip, batch=1), one)


def test_frames_in_another_order_are_another_motion(network: Synchformer) -> None:
    clip = frames(16, 64, 64)
    assert not torch.allclose(network.features(clip), network.features(np.ascontiguousarray(clip[::-1])).flip(0))


def test_a_directory_is_the_same_network(network: Synchformer, tmp_path: Path) -> None:
    save_file(network.model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(SYNC.model_dump_json())
    again = load_synchformer(tmp_path)
    assert again.digest == network.digest
    assert torch.equal(again.features(frames(16, 64, 64)), network.features(frames(16, 64, 64)))
    (tmp_path / "config.json").write_text('{"width": 33}')
    with pytest.raises(ValueError, match=r"config.json is no config of Synchformer's visual tower"):
        load_synchformer(tmp_path)


def test_frames_are_prepared_at_its_own_side(tmp_path: Path) -> None:
    small = SYNC.model_copy(update={"image_size": 64, "patch": 32})
    with torch.device("meta"):
        wanted = SynchformerVisual(small).state_dict()
    save_file({name: draw(name, *value.shape) for name, value in wanted.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(small.model_dump_json())
    network, clip = load_synchformer(tmp_path), frames(16, 64, 64)
    tokens = network.features(clip)
    assert tokens.shape == (8, 32)
    assert torch.equal(network.video(sync_frames(clip, 64)[None])[0], tokens)


def test_names_are_strict(published: dict[str, Path], tmp_path: Path) -> None:
    tensors = torch.load(published["sync"], weights_only=True)
    wrapped = tmp_path / "wrapped.pth"
    torch.save({"module": {f"module.{name}": value for name, value in tensors.items()}}, wrapped)
    assert load_synchformer(wrapped, SYNC).digest == load_synchformer(published["sync"], SYNC).digest
    lacking = tmp_path / "lacking.pth"
    torch.save({name: value for name, value in tensors.items() if "norm3" not in name}, lacking)
    with pytest.raises(ValueError, match=r"does not fit Synchformer's visual tower.*norm3"):
        load_synchformer(lacking, SYNC)
    torch.save(tensors | {"vfeat_extractor.head.weight": torch.ones(2, 2)}, lacking)
    with pytest.raises(ValueError, match=r"vfeat_extractor.head.weight \[2, 2\]: unexpected"):
        load_synchformer(lacking, SYNC)
    with pytest.raises(FileNotFoundError, match=r"give synchformer_state_dict.pth"):
        load_synchformer(tmp_path / "none.pth")


def test_too_few_frames_are_named(network: Synchformer) -> None:
    with pytest.raises(ValueError, match=r"needs 16 frames at 25 fps, 0.64 s, got 15"):
        network.features(frames(15, 64, 64))
