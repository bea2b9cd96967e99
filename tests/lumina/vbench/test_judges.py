"""Clips of files judged by networks of files: tiny ones, so that scores mean nothing beyond their arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lumina.faults import MachineError
from lumina.vbench import reading
from lumina.vbench.clip_score import ClipScore
from lumina.vbench.judges import Judges, action_names, key
from lumina.vbench.networks.raft import Raft
from lumina.vbench.reading import (
    ClipFrames,
    ClipShape,
    UnreadableClipError,
    clip_files,
    clip_shape,
    differing,
    read_clip,
)
from lumina.vbench.suite_config import NATIVE, VBenchWeights, missing_weights
from lumina.video import write_h264


def _clip(frames: int = 4, size: int = 32, fps: float = 8.0) -> ClipFrames:
    levels = np.arange(frames, dtype=np.uint8)[:, None, None, None] * 10
    return ClipFrames(np.broadcast_to(levels, (frames, size, size, 3)).copy(), fps)


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a tiny network in the layout of facebook/dino-vitb16."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    config = ViTConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def raft(tmp_path_factory: pytest.TempPathFactory) -> str:
    """File of RAFT's names with small numbers."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft-things.pth"
    torch.save({f"module.{name}": value for name, value in Raft().state_dict().items()}, path)
    return str(path)


def test_flicker_needs_no_weights_and_says_nothing_of_the_static_filter() -> None:
    verdict = Judges(VBenchWeights()).judge("temporal_flickering", _clip(), None, "a-0.mp4")
    assert verdict.score is not None
    assert verdict.score.value == pytest.approx((255 - 10) / 255)
    assert (verdict.is_static, verdict.reason) == (None, None)


def test_a_clip_that_a_dimension_cannot_judge_has_a_reason(raft: str, dino: str) -> None:
    judges = Judges(VBenchWeights(raft=raft, dino=dino))
    for dimension, clip, reason in [
        ("temporal_flickering", _clip(4, 64), "128"),
        ("subject_consistency", _clip(1), "two frames"),
        ("dynamic_degree", _clip(2, 128), "needs 3 frames at 8 a second, the clip has 2"),
        ("dynamic_degree", _clip(6, 128, fps=24.0), "the clip has 2"),
        ("dynamic_degree", _clip(4, 64), "128"),
    ]:
        verdict = judges.judge(dimension, clip, None, "a-0.mp4")
        assert verdict.score is None
        assert reason in str(verdict.reason)


def test_one_frame_does_not_flicker() -> None:
    verdict = Judges(VBenchWeights()).judge("temporal_flickering", _clip(1), None, "a-0.mp4")
    assert (verdict.score, verdict.reason) == (None, "temporal flickering needs two frames, the clip has 1")


def test_the_static_filter_and_the_dynamic_degree_look_at_the_flow(raft: str) -> None:
    judges = Judges(VBenchWeights(raft=raft))
    still = ClipFrames(np.full((3, 128, 128, 3), 90, np.uint8), 8.0)
    moved = judges.judge("dynamic_degree", still, None, "a-0.mp4")
    assert moved.score in (ClipScore(0.0, 1), ClipScore(1.0, 1))
    assert judges.judge("temporal_flickering", still, None, "a-0.mp4").is_static in (True, False)


def test_features_become_consistency(dino: str) -> None:
    judges = Judges(VBenchWeights(dino=dino))
    still = ClipFrames(np.full((3, 32, 32, 3), 90, np.uint8), 8.0)
    score = judges.judge("subject_consistency", still, None, "a-0.mp4").score
    assert score is not None
    assert (score.total, score.count) == (pytest.approx(2.0), 2)


def test_keys_change_with_weights_and_types(dino: str, raft: str) -> None:
    keys = {
        key("subject_consistency", VBenchWeights(dino=dino), "float32"),
        key("subject_consistency", VBenchWeights(dino=dino), "bfloat16"),
        key("subject_consistency", VBenchWeights(dino=raft), "float32"),
        key("temporal_flickering", VBenchWeights(), "float32"),
        key("temporal_flickering", VBenchWeights(raft=raft), "float32"),
    }
    assert len(keys) == 5
    assert key("temporal_flickering", VBenchWeights(dino=dino), "float32") in keys
    with pytest.raises(FileNotFoundError, match="nowhere"):
        key("dynamic_degree", VBenchWeights(raft="nowhere"), "float32")


def test_missing_weights_are_named_by_their_settings() -> None:
    assert missing_weights("aesthetic_quality", VBenchWeights(aesthetic="x")) == ("clip_l14",)
    assert missing_weights("temporal_flickering", VBenchWeights()) == ()
    assert len(NATIVE) == 7


def test_names_of_actions_come_from_a_file_of_400(tmp_path: Path) -> None:
    path = tmp_path / "kinetics_400_categories.txt"
    path.write_text("\n".join(f"action {number}" for number in range(400)) + "\n")
    assert action_names(VBenchWeights(actions=str(path)))[399] == "action 399"
    path.write_text("abseiling\n")
    with pytest.raises(ValueError, match="400 names of actions"):
        action_names(VBenchWeights(actions=str(path)))
    with pytest.raises(FileNotFoundError, match="wheel of vbench"):
        action_names(VBenchWeights())


def test_clips_are_read_whole(tmp_path: Path) -> None:
    write_h264(tmp_path / "b-0.mp4", _clip(5).pixels, 12.5)
    Image.fromarray(np.full((16, 16, 3), 9, np.uint8)).save(
        tmp_path / "a-0.GIF", save_all=True, append_images=[Image.new("RGB", (16, 16), "red")], duration=100
    )
    (tmp_path / "manifest.jsonl").touch()
    assert [path.name for path in clip_files(tmp_path)] == ["a-0.GIF", "b-0.mp4"]
    film = read_clip(tmp_path / "b-0.mp4")
    assert (film.pixels.shape, film.fps) == ((5, 32, 32, 3), 12.5)
    assert np.abs(film.pixels.mean((1, 2, 3)) - [0, 10, 20, 30, 40]).max() < 2
    assert read_clip(tmp_path / "a-0.GIF").pixels[1, 0, 0].tolist() == [255, 0, 0]


def test_a_clip_beyond_the_memory_for_one_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_h264(tmp_path / "a-0.mp4", _clip(5).pixels, 8)
    monkeypatch.setattr(reading, "MOST_BYTES", 4 * 32 * 32 * 3)
    with pytest.raises(UnreadableClipError, match="more than 4 frames of 32x32: VBench judges clips below 5 s"):
        read_clip(tmp_path / "a-0.mp4")
    monkeypatch.setattr(reading, "MOST_BYTES", 5 * 32 * 32 * 3)
    assert len(read_clip(tmp_path / "a-0.mp4").pixels) == 5


def test_a_mount_that_is_away_is_not_the_clips_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    def away(*_: object, **__: object) -> None:
        raise av.error.PermissionError(13, "Permission denied")

    monkeypatch.setattr(av, "open", away)
    with pytest.raises(MachineError, match=r"a-0\.mp4: Permission denied"):
        read_clip(tmp_path / "a-0.mp4")


def test_clips_that_are_not_alike_are_told_in_a_line(tmp_path: Path) -> None:
    write_h264(tmp_path / "a-0.mp4", _clip(5).pixels, 8)
    (tmp_path / "b-0.mp4").write_bytes(b"nothing")
    shape = clip_shape(tmp_path / "a-0.mp4")
    assert shape == ClipShape(32, 32, 5, 8.0)
    assert clip_shape(tmp_path / "b-0.mp4") is None
    assert differing({"a": shape, "b": None, "c": shape}) is None
    others = {"d": ClipShape(64, 32, 5, 8.0), "e": ClipShape(32, 32, 5, 12.5), "f": ClipShape(32, 32, 0, 8.0)}
    assert differing({"a": shape, "c": shape, **others}) == (
        "the clips are not alike, and figures depend on all of it: 2 of 32x32 at 8 fps, 5 frames (a, ...), "
        "1 of 32x32 at 8 fps (f), 1 of 32x32 at 12.5 fps, 5 frames (e), and 1 other kind"
    )


def test_weights_of_another_network_are_no_clips_fault(dino: str, raft: str) -> None:
    for judges, dimension in (
        (Judges(VBenchWeights(dino=raft)), "subject_consistency"),
        (Judges(VBenchWeights(raft=raft + "x")), "temporal_flickering"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match="raft-things"):
            judges.judge(dimension, _clip(), None, "a-0.mp4")


def test_files_that_are_no_clips_are_named(tmp_path: Path) -> None:
    (tmp_path / "a-0.mp4").write_bytes(b"nothing")
    with pytest.raises(UnreadableClipError, match=r"a-0\.mp4"):
        read_clip(tmp_path / "a-0.mp4")
    (tmp_path / "a-0.mp4").unlink()
    with pytest.raises(ValueError, match="holds no clip"):
        clip_files(tmp_path)
