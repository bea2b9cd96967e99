"""Answers of vision-language models: which are captions, and which are refusals, nonsense or another language.

What is no caption is never one: its row is quarantined with the reason, and keeps the answer.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter

from curation.caption_config import CaptionConfig
from curation.caption_prompts import LANGUAGES
from curation.schema import Reason, RowError
from curation.texts import TextError, caption_of

_REFUSAL = re.compile(
    r"^\W*((i['’]?m|i am|we['’]?re|my) (so |very )?(sorry|apolog\w+|unable|not able)|(sorry|apologies)\b|as an ai\b|"
    r"(unfortunately,? )?i (can['’]?t|cannot|can not|am unable to|won['’]?t|do(n['’]?t| not) (see|have access))|"
    r"(there (is|are)|i see) no (images?|videos?|frames?)\b|"
    r"(please )?(provide|upload|share) (the|an?|your) (images?|videos?|frames?))",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"<(!doctype|/?[a-z][a-z0-9]*)[\s>/]|^\s*```", re.IGNORECASE)
_PREFIX = re.compile(r"^(caption|description)\s*:\s*", re.IGNORECASE)
_QUOTES = {'"': '"', "“": "”", "'": "'", "«": "»", "`": "`"}
_EVENT = re.compile(r"^\W{0,4}(\d+(?:\.\d+)?)\s*s?\s*[-–—]\s*(\d+(?:\.\d+)?)\s*s?\W{0,3}:\s*(\S.*)$")
_OF_SCRIPT = 0.8
"""Share of the letters that are of the language's script, at least: names may be of another."""
_REPEATED = 0.5
"""Share of a long answer's words that one phrase of four may take."""
_SHOWN = 120


def accepted(answer: str, config: CaptionConfig) -> str:
    """The caption that an answer is: without blanks, quotes or `Caption:` around it.

    RowError says why it is none.
    """
    try:
        text = _PREFIX.sub("", caption_of(answer))
    except TextError as error:
        raise _nonsense(str(error), answer) from error
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    if not text:
        raise RowError(Reason.CAPTION_NONSENSE, "the answer is empty")
    if _REFUSAL.search(text):
        raise RowError(Reason.CAPTION_REFUSED, f"the model refuses: {_short(text)}")
    if "\ufffd" in text:
        raise _nonsense("the answer is damaged: it has a character that is none", text)
    if _MARKUP.search(text):
        raise _nonsense("the answer is markup", text)
    if _is_json(text):
        raise _nonsense("the answer is JSON", text)
    if config.style == "per_event":
        text = _events(text)
    text = " ".join(text.split())
    if not config.min_chars <= len(text) <= config.max_chars:
        limits = f"caption.min_chars {config.min_chars}, caption.max_chars {config.max_chars}"
        raise _nonsense(f"the answer has {len(text)} characters ({limits})", text)
    if phrase := _repeated(text):
        raise _nonsense(f"the answer repeats {phrase!r}", text)
    if config.language is not None and not _is_in(text, LANGUAGES[config.language][1]):
        raise _nonsense(f"the answer is not in {LANGUAGES[config.language][0]}", text)
    return text


def _events(text: str) -> str:
    lines = [line for line in text.split("\n") if line.strip()]
    found = [_EVENT.match(line.strip()) for line in lines]
    events = [match for match in found if match is not None]
    if len(events) < len(lines):
        raise _nonsense("a line is no event such as `0.0-1.5: A dog runs.`", text)
    if any(float(match[1]) > float(match[2]) for match in events):
        raise _nonsense("an event ends before it begins", text)
    return " ".join(match[3] for match in events)


def _repeated(text: str) -> str:
    """A phrase of four words that takes most of a long text; of scripts without blanks, four characters."""
    words = text.casefold().split()
    words = list(text) if len(words) < len(text) / 20 else words
    if len(words) < 16:
        return ""
    phrases = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    phrase, count = phrases.most_common(1)[0]
    # A loop of many words shows as few different phrases.
    is_loop = 4 * count > _REPEATED * len(words) or len(phrases) < _REPEATED * (len(words) - 3)
    return " ".join(phrase) if is_loop else ""


def _is_in(text: str, scripts: tuple[str, ...]) -> bool:
    letters = [unicodedata.name(one, "").split(" ")[0] for one in text if one.isalpha()]
    return bool(letters) and sum(name in scripts for name in letters) >= _OF_SCRIPT * len(letters)


def _is_json(text: str) -> bool:
    if text[0] not in "{[":
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _nonsense(what: str, text: str) -> RowError:
    return RowError(Reason.CAPTION_NONSENSE, f"{what}: {_short(text)}")


def _short(text: str) -> str:
    return " ".join(text.split())[:_SHOWN]
