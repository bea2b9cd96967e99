"""Identity of clips: by content and span, wherever a file lies; as an export states it, where it is trusted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from curation.schema import Reason, RowError


def clip_id(sha256: str, span_start_s: float | None, span_end_s: float | None, occurrence: int = 0) -> str:
    """Identity of a span of a file's content, wherever the file lies; later occurrences of it get ids of their own."""
    span = "|".join("" if value is None else repr(float(value)) for value in (span_start_s, span_end_s))
    first = digest_of(f"content|{sha256}|{span}")
    return beside(first, f"content|{sha256}|{span}|{occurrence}") if occurrence else first


def stated_id(row: Mapping[str, Any], sha256: str) -> str | None:
    """The id of the span that a clip was cut from, as its export states it; None for a clip that was not cut.

    RowError if the file is not the one that the export wrote, or the id not that of the span.
    """
    told = json.loads(row["extra"])
    start, end = (told.get(f"origin_{name}_s") for name in ("start", "end"))
    if told.get("clip_how") not in ("copied", "encoded") or start in (None, "") or end in (None, ""):
        return None
    if told.get("clip_sha256") != sha256:
        detail = f"{row['uri']}: the file is not the one that the export wrote: its SHA-256 is another"
        raise RowError(Reason.UNREADABLE_FILE, detail)
    try:
        span = float(start), float(end)
    except (TypeError, ValueError):
        detail = f"{row['uri']}: origin_start_s and origin_end_s are {start!r:.40} and {end!r:.40}, expected seconds"
        raise RowError(Reason.UNREADABLE_FILE, detail) from None
    name = clip_id(str(told.get("origin_sha256")), *span)
    if told.get("clip_id") != name:
        raise RowError(Reason.UNREADABLE_FILE, f"{row['uri']}: its clip_id is not that of the span it was cut from")
    return name


def beside(first: str, text: str) -> str:
    """An id in the same range as another, so that both are always in one shard."""
    return first[:8] + digest_of(text)[8:]


def digest_of(text: str) -> str:
    """BLAKE2b-128 of a text, in hex."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
