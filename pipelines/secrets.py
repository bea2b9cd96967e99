"""Credentials in text: taken out wherever text leaves the process, for addresses hold them in many places.

What goes out goes through `scrub` (terminal, log, page) or `scrubbed` (what is written as a record, or told MLflow).
The place keeps its name and loses its user and password; an option of an address that is a secret loses its value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# SQLAlchemy takes a password with slashes; what looks like a port and a path is none. Every part has a longest length,
# for a caption of "://" a million times is text too.
_USER = re.compile(r"(?<=://)(?!anonymous@)(?:[^/\s\"'`<>]{0,1024}|[^:/\s\"'`<>]{0,256}:(?!\d+/)[^@\s\"'`<>]{0,512})@")
_OPTION = re.compile(
    r"(?i)([?&;][\w.\-]{0,64}?(?:password|passwd|pwd|secret|token|access_key|accesskey|api_?key|signature|credential)"
    r"[\w.\-]{0,64}=)(?!\*\*\*)[^&;\s\"'`<>)]+"
)
HIDDEN = "***"


def scrub(text: str) -> str:
    """Text without what stands between `://` and `@` of an address, and with `***` for options such as `password=`."""
    return _OPTION.sub(rf"\1{HIDDEN}", _USER.sub("", text))


def scrubbed(value: Any) -> Any:
    """Plain data with every text of it `scrub`bed, those that are keys included."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {scrubbed(key): scrubbed(one) for key, one in value.items()}
    return [scrubbed(one) for one in value] if isinstance(value, list | tuple) else value
