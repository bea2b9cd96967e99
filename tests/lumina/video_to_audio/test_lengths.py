"""Lengths of what a clip of some seconds has."""

from __future__ import annotations

import pytest

from lumina.video_to_audio.lengths import lengths, sync_segments, sync_token_times


def test_eight_seconds() -> None:
    found = lengths(8)
    assert (found.samples, found.mel_frames, found.latents) == (128_000, 800, 200)
    assert (found.visual_frames, found.sync_frames, found.sync_tokens) == (64, 200, 192)


def test_lengths_are_whole_steps() -> None:
    found = lengths(2.5)
    assert (found.samples, found.latents, found.visual_frames) == (39_680, 62, 20)
    # 1.16 and 9.6 are no binary fractions: 58 frames of 50 fps have 28.999... latent steps.
    assert (lengths(1.16).latents, lengths(9.6).visual_frames) == (29, 76)


def test_a_clip_shorter_than_a_segment_has_no_sound() -> None:
    assert lengths(0.64).sync_tokens == 8
    with pytest.raises(ValueError, match=r"a clip of 0.64 s or longer, got 0.6 s"):
        lengths(0.6)
    with pytest.raises(ValueError, match="16 frames"):
        sync_segments(15)


def test_segments_overlap() -> None:
    assert sync_segments(40) == [0, 8, 16, 24]
    assert sync_token_times(9) == pytest.approx([0.04, 0.12, 0.2, 0.28, 0.36, 0.44, 0.52, 0.6, 0.36])
