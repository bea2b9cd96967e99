"""Hand-written values of VBench's rules, for machines without the official fixtures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lumina.vbench import clip_files, detections, dynamic_degree, flicker, frame_choice, recognition, smoothness
from lumina.vbench.clip_score import ClipScore, dimension_score, of_clip, of_frames
from lumina.vbench.consistency import consistency
from lumina.vbench.flow_length import longest_mean


def _clip(*levels: int) -> np.ndarray:
    return np.stack([np.full((4, 5, 3), level, np.uint8) for level in levels])


@pytest.mark.parametrize(
    ("count", "frames", "expected"),
    [
        (16, 16, list(range(16))),
        (8, 16, [0, 2, 4, 6, 8, 10, 12, 14]),
        (8, 17, [0, 2, 4, 6, 8, 10, 12, 15]),
        (4, 3, [0, 1, 2, 2]),
        (16, 1, [0] * 16),
    ],
)
def test_middle_frames(count: int, frames: int, expected: list[int]) -> None:
    assert frame_choice.middle_frames(count, frames) == expected


def test_a_clip_without_frames_has_no_middle() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        frame_choice.middle_frames(8, 0)


@pytest.mark.parametrize(("fps", "stride"), [(4, 1), (8, 1), (12, 2), (20, 2), (23.976, 3), (28, 4), (60, 8)])
def test_strides_round_halves_to_even(fps: float, stride: int) -> None:
    assert frame_choice.eight_a_second(fps) == stride


@pytest.mark.parametrize("fps", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(fps: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        frame_choice.eight_a_second(fps)


def test_flicker_is_the_mean_difference_of_neighbours() -> None:
    # 10 and 30 levels: mean 20 of 255. Differences of unsigned bytes would wrap around.
    assert flicker.flicker(_clip(100, 90, 120)) == pytest.approx((255 - 20) / 255)
    with pytest.raises(ValueError, match="two frames, the clip has 1"):
        flicker.flicker(_clip(3))


def test_longest_vectors_are_those_of_largest_length() -> None:
    flow = np.zeros((2, 10, 10), np.float32)
    flow[0, 0, :3], flow[1, 0, :3] = [3, 6, 9], [4, 8, 12]
    assert longest_mean(flow, 0.02) == pytest.approx((15 + 10) / 2)
    assert longest_mean(flow, 0.05) == pytest.approx(30 / 5)
    assert math.isnan(longest_mean(flow[:, :3, :3], 0.05))


@pytest.mark.parametrize(
    ("neighbours", "ends", "static"),
    [
        ([0.0] * 13 + [4.0] * 2, [0.0, 12.0], True),
        ([0.0] * 12 + [4.0] * 3, [0.0, 0.0], False),
        ([3.0] * 15, [0.0, 0.0], True),
        ([0.0] * 15, [0.0, 12.01], False),
    ],
)
def test_static_clips(neighbours: list[float], ends: list[float], static: bool) -> None:
    # 256 pixels: 3 pixels a pair, 2 of 16 frames may move, ends at most 2 * 2 * 3.
    assert flicker.is_static(neighbours, ends, 256, 16) is static


def test_the_first_static_clips_are_first_by_name_as_text() -> None:
    clips = {f"a-{number}.mp4": number != 1 for number in range(12)}
    assert flicker.first_static(clips) == ["a-0.mp4", "a-10.mp4", "a-11.mp4", "a-2.mp4", "a-3.mp4"]
    assert len(flicker.first_static(clips, None)) == 11


def test_enough_pairs_must_exceed_the_threshold() -> None:
    # 512 pixels: 12 pixels a pair; 32 frames: 8 pairs.
    assert dynamic_degree.thresholds(512, 32) == (12.0, 8)
    assert dynamic_degree.is_dynamic([12.1] * 8 + [0.0] * 23, 512, 32)
    assert not dynamic_degree.is_dynamic([12.1] * 7 + [12.0] * 24, 512, 32)
    assert not dynamic_degree.is_dynamic([], 512, 1)
    with pytest.raises(ValueError, match="says nothing"):
        dynamic_degree.is_dynamic([0.0], 512, 2)


def test_consistency_compares_with_the_frame_before_and_the_first() -> None:
    # cos with the one before: 0, -1 -> 0; with the first: 0, 0.
    score = consistency(np.array([[2, 0], [0, 3], [0, -1]], np.float32))
    assert score == ClipScore(0.0, 2)
    turned = consistency(np.array([[1, 0], [1, 1]], np.float32))
    assert turned.value == pytest.approx(math.sqrt(0.5))
    with pytest.raises(ValueError, match="two frames"):
        consistency(np.ones((1, 2), np.float32))


def test_smoothness_leaves_the_last_odd_frame_out() -> None:
    assert smoothness.smoothness(_clip(0, 10, 0, 99), _clip(40)) == pytest.approx((255 - 30) / 255)
    with pytest.raises(ValueError, match="expected 1 predicted frames"):
        smoothness.smoothness(_clip(0, 10, 0), _clip(1, 2))
    with pytest.raises(ValueError, match="three frames"):
        smoothness.smoothness(_clip(0, 10), _clip(0)[:0])
    assert smoothness.quantised(np.array([-0.1, 0.5, 0.999, 1.2], np.float32)).tolist() == [0, 127, 254, 255]


def _frame(*names: str, texts: tuple[str, ...] = ()) -> list[detections.Instance]:
    return [detections.Instance(name, text, (0, 0, 10, 10)) for name, text in zip(names, texts or names, strict=True)]


def test_objects_are_found_by_their_exact_class() -> None:
    frames = [_frame("dog", "cat"), _frame("hot dog"), None, _frame()]
    assert detections.object_class(frames, "dog") == ClipScore(1.0, 4)
    assert detections.multiple_objects([_frame("dog", "cat"), _frame("dog", "dog")], "cat and dog") == ClipScore(1.0, 2)
    with pytest.raises(ValueError, match='"A and B"'):
        detections.multiple_objects([], "a dog")


def test_a_caption_of_something_else_may_colour_the_object_unless_captions_are_their_own() -> None:
    frames = [
        _frame("car", "person", texts=("a dirty car", "a man in red")),
        _frame("person", "car", texts=("a man", "a red car")),
        _frame("car", texts=("a blue car",)),
    ]
    assert detections.color(frames, "red", "car") == ClipScore(1 / 2, 1)
    assert detections.color(frames, "red", "car", "own") == ClipScore(1 / 2, 1)
    assert detections.color(frames[:2], "red", "car") == ClipScore(1.0, 1)
    assert detections.color(frames[:1], "red", "car", "own") == ClipScore(0.0, 0)
    assert detections.colored_object("a red car", "red") == "car"


def test_relations_look_at_the_axis_but_not_at_the_direction() -> None:
    left, right = (0, 0, 10, 10), (40, 2, 50, 12)
    assert detections.relation_score("on the left of", left, right) == 1.0
    assert detections.relation_score("on the right of", left, right) == 1.0
    assert detections.relation_score("on the top of", left, right) == 0.0
    assert detections.relation_score("near", left, right) == 0.0
    # IoU 5 x 10 / 150.
    assert detections.relation_score("on the left of", left, (5, 0, 15, 10)) == pytest.approx(0.1 * 3)
    with pytest.raises(ValueError, match="no area"):
        detections.relation_score("on the left of", (5, 5, 5, 5), (9, 9, 9, 9))


def test_every_word_of_a_scene_must_be_in_the_caption() -> None:
    captions = ["platform of a train station", "a train", "trainstation platform"]
    assert recognition.scene(captions, "train station platform") == ClipScore(2.0, 3)
    assert recognition.scene(["a valley"], "alley") == ClipScore(1.0, 1)


@pytest.mark.parametrize(
    ("likelihood", "rank", "right"), [(0.85, 0, True), (0.84996, 4, True), (0.84994, 0, False), (0.9, 5, False)]
)
def test_an_action_must_be_likely_and_among_the_first_five(likelihood: float, rank: int, right: bool) -> None:
    logits = np.full(400, -9.0, np.float32)
    logits[100 : 100 + rank] = 9.0
    logits[7] = math.log(likelihood / (1 - likelihood))
    found = recognition.human_action(logits, {7: "playing harp", 100: "other"}, "/x/A person is playing harp-3.mp4")
    assert found == ClipScore(float(right), 1)


def test_names_of_clips() -> None:
    assert clip_files.clip_name("a red car", 4) == "a red car-4.mp4"
    assert clip_files.prompt_of("/x/T-shirt-2-11.mp4") == "T-shirt-2"
    assert clip_files.index_of("T-shirt.mp4") is None
    assert clip_files.arranged(["b-1.mp4", "b-0.mp4", "a.mp4"]) == {
        "a": {0: "a.mp4"},
        "b": {0: "b-0.mp4", 1: "b-1.mp4"},
    }
    with pytest.raises(ValueError, match="keep one"):
        clip_files.arranged(["a-0.mp4", "a-0.gif"])
    for prompt in ("a/b", "x" * 300, "a\0b"):
        with pytest.raises(ValueError, match="no file can be named"):
            clip_files.clip_name(prompt, 0)


def test_frames_weigh_clips_only_where_the_dimension_says_so() -> None:
    long, short = [1.0, 1.0, 1.0, 1.0], [0.0]
    assert dimension_score([of_frames(long), of_frames(short)]) == 0.8
    assert dimension_score([of_clip(long), of_clip(short)]) == 0.5
    assert dimension_score([ClipScore(1.0, 1), ClipScore(0.0, 0)]) == 1.0
    with pytest.raises(ValueError, match="none of 1 clips"):
        dimension_score([ClipScore(0.0, 0)])
