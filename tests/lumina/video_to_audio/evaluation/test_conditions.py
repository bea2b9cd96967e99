"""Ablations: who gives to whom, and what the network then sees."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumina.video_to_audio.evaluation.conditions import CONDITIONS, donors, media_under
from lumina.video_to_audio.networks.dit import Media


@given(st.dictionaries(st.text("abcdef", min_size=1), st.sampled_from(["25", "50", "100"])), st.integers(0, 5))
def test_every_clip_takes_anothers_of_its_length_once(buckets: dict[str, str], seed: int) -> None:
    found = donors(buckets, seed, "sync_shuffled")
    assert sorted(found) == sorted(found.values())
    assert all(clip != donor and buckets[clip] == buckets[donor] for clip, donor in found.items())
    alone = {clip for clip in buckets if list(buckets.values()).count(buckets[clip]) == 1}
    assert set(buckets) - set(found) == alone
    assert donors(dict(reversed(buckets.items())), seed, "sync_shuffled") == found


def test_conditions_and_seeds_shuffle_each_in_their_way() -> None:
    buckets = {str(number): "100" for number in range(12)}
    ways = [donors(buckets, seed, one) for seed in (0, 1) for one in ("sync_shuffled", "visual_shuffled")]
    assert len({tuple(sorted(way.items())) for way in ways}) == 4


def test_what_the_network_is_given() -> None:
    own, other = (Media(*(torch.full((8, 2), value + part) for part in range(3))) for value in (0.0, 10.0))
    seen = {one: media_under(one, own, other) for one in CONDITIONS}
    assert seen["given"] is own
    for condition, expected in {
        "sync_shuffled": (own.visual, own.text, other.sync),
        "visual_shuffled": (other.visual, own.text, own.sync),
        "text_dropped": (own.visual, None, own.sync),
        "nothing": (None, None, None),
    }.items():
        one = seen[condition]  # type: ignore[index]
        assert all(a is b for a, b in zip((one.visual, one.text, one.sync), expected, strict=True))
    with pytest.raises(ValueError, match="visual_shuffled needs the features of another clip"):
        media_under("visual_shuffled", own, None)
