"""Prompts for captioning: an instruction for each style, templates with place-holders, languages and their scripts."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any, Literal

Style = Literal["short", "dense", "per_event"]
Language = Literal["en", "de", "es", "fr", "it", "pt", "ru", "zh", "ja", "ko", "ar", "hi"]

STYLES: Mapping[Style, str] = {
    "short": "Describe what is shown and how it moves in one plain sentence of at most 30 words.",
    "dense": (
        "Describe what is shown in one paragraph of three to six plain sentences: the subjects and how they look, what "
        "they do and how they move, the setting, the light, and how the camera moves."
    ),
    "per_event": (
        "List what happens, one event a line and nothing else, in the order of time, each line as "
        "`start-end: sentence` with times in seconds, such as `0.0-1.5: A dog runs to the left.`"
    ),
}
"""What is asked for."""
LANGUAGES: Mapping[Language, tuple[str, tuple[str, ...]]] = {
    "en": ("English", ("LATIN",)),
    "de": ("German", ("LATIN",)),
    "es": ("Spanish", ("LATIN",)),
    "fr": ("French", ("LATIN",)),
    "it": ("Italian", ("LATIN",)),
    "pt": ("Portuguese", ("LATIN",)),
    "ru": ("Russian", ("CYRILLIC",)),
    "zh": ("Chinese", ("CJK",)),
    "ja": ("Japanese", ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA")),
    "ko": ("Korean", ("HANGUL",)),
    "ar": ("Arabic", ("ARABIC",)),
    "hi": ("Hindi", ("DEVANAGARI",)),
}
"""Language -> its English name, and the first words of the Unicode names of its letters."""
TEMPLATE = "These are frames of one {media}, in the order of time. {style} Say only what can be seen. {language}"
"""The prompt, unless the config has another."""
PLACE_HOLDERS = ("style", "language", "caption", "source", "media", "duration_s")
"""What a template may name: the instruction of the style, that of the language, the caption that the clip has, its
source, `video` or `image`, and its length in seconds."""


def check_template(template: str) -> str:
    """The template; ValueError if it names what there is not."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{template!r:.80} is no template: {error}; braces that are none are written twice") from error
    for _, name, spec, conversion in parts:
        if name is not None and (name not in PLACE_HOLDERS or spec or conversion):
            told = ", ".join(f"{{{one}}}" for one in PLACE_HOLDERS)
            raise ValueError(
                f"a template names {{{name}}}; there are {told}, and braces that are none are written twice"
            )
    return template


def prompt_of(template: str, style: Style, language: Language | None, row: Mapping[str, Any]) -> str:
    """The prompt for a probed row."""
    return template.format(
        style=STYLES[style],
        language="" if language is None else f"Answer in {LANGUAGES[language][0]}.",
        caption=row["caption"] or "",
        source=row["source"],
        media=row["media"],
        duration_s=f"{row['duration_s'] or 0:.2f}",
    ).strip()
