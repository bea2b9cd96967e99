"""Ablations: what a sound is made of when one of its conditions is another clip's, or none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

from lumina.randomness import generator

if TYPE_CHECKING:
    from lumina.video_to_audio.networks.dit import Media

Condition = Literal["given", "sync_shuffled", "visual_shuffled", "text_dropped", "nothing"]
"""All that belongs to the clip; Synchformer's features, or CLIP's, of another clip of that length; no text; nothing at
all, which is chance."""
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
SHUFFLED: tuple[Condition, ...] = ("sync_shuffled", "visual_shuffled")


def donors(buckets: Mapping[str, str], seed: int, condition: Condition) -> dict[str, str]:
    """Clip to the clip of the same bucket whose features it gets: every clip gives once, and none to itself.

    Clips are drawn into a circle by the seed and the condition, and each takes the next one's. A bucket of one clip has
    nothing to give: its clip is left out.
    """
    members = defaultdict(list)
    for clip in sorted(buckets):
        members[buckets[clip]].append(clip)
    found: dict[str, str] = {}
    for bucket, clips in members.items():
        if len(clips) > 1:
            order = generator(seed, "donors", condition, bucket).permutation(len(clips))
            circle = [clips[index] for index in order]
            found |= dict(zip(circle, [*circle[1:], circle[0]], strict=True))
    return found


def media_under(condition: Condition, own: Media, donor: Media | None) -> Media:
    """What the network is given; `donor` is the other clip's where features are shuffled. ValueError without it."""
    if condition in SHUFFLED and donor is None:
        raise ValueError(f"{condition} needs the features of another clip")
    if condition == "sync_shuffled" and donor is not None:
        return replace(own, sync=donor.sync)
    if condition == "visual_shuffled" and donor is not None:
        return replace(own, visual=donor.visual)
    if condition == "text_dropped":
        return replace(own, text=None)
    return type(own)() if condition == "nothing" else own
