"""Choice between captions: the clip's own, a model's, the longer one or a mix; and how far two of them say the same."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Literal

from lumina.config import Config
from lumina.randomness import generator

Use = Literal["original", "new", "longest", "mix"]
_UNSPACED = "[\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
"""Chinese and Japanese letters."""
_WORD = re.compile(rf"{_UNSPACED}+|(?:(?!{_UNSPACED})\w)+")
_ASCII = re.compile(r"\w+")
AGREEMENT = "caption_agreement"
"""Name of the score that `agreement` is."""
_STOP_WORDS = frozenset(
    {
        "a", "an", "and", "as", "at", "by", "camera", "clip", "frame", "frames", "from", "image", "in", "is", "it",
        "its", "of", "on", "scene", "shows", "showing", "that", "the", "then", "there", "this", "to", "towards",
        "toward", "video", "where", "while", "with",
    }
)  # fmt: skip


class CaptionChoice(Config):
    """Which caption of a clip trains."""

    use: Use
    """See `curation.caption_config.CaptionConfig`."""
    mix_share: float
    """See there."""
    seed: int
    """See there."""

    def of(self, row: Mapping[str, Any]) -> str | None:
        """The caption of a row with `clip_id`, `caption` and `caption_new`; None where it would be one that failed.

        `longest` and `mix` take the caption that there is where the other one is missing.
        """
        old, new = row["caption"] or "", row["caption_new"]
        if self.use == "original":
            return old
        if self.use == "new" or new is None:
            return None if new is None and (self.use == "new" or not old.strip()) else new or old
        if not old.strip():
            return str(new)
        if self.use == "longest":
            return str(max((new, old), key=len))
        draw = generator(self.seed, "caption mix", row["clip_id"]).random()
        return str(new) if draw < self.mix_share else old


def agreement(old: str, new: str) -> float | None:
    """How far two captions say the same, 0 to 1: F1 of their words without the commonest; None where one has none.

    Of Chinese and Japanese, which have no blanks, pairs of neighbouring letters stand for words.
    """
    a, b = _words(old), _words(new)
    if not a or not b:
        return None
    return 2 * len(a & b) / (len(a) + len(b))


def _words(text: str) -> set[str]:
    # Pages and selections compare captions by the hundred thousand.
    found = _ASCII.findall(text.lower()) if text.isascii() else _WORD.findall(_folded(text))
    return {part for word in set(found) - _STOP_WORDS for part in _parts(word)}


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


@functools.lru_cache(1 << 14)
def _parts(word: str) -> tuple[str, ...]:
    """The word's stem; of a run of letters that are written without blanks, each two neighbours."""
    if not re.match(_UNSPACED, word):
        return (_stem(word),)
    return tuple(word[at : at + 2] for at in range(max(1, len(word) - 1)))


def _stem(word: str) -> str:
    """Without an ending that tells no other thing: `moves`, `moving`, `upwards`, `slowly`."""
    for ending in ("wards", "ward", "ing", "ly", "ed", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= (2 if ending.startswith("ward") else 4):
            return word.removesuffix(ending)
    return word
