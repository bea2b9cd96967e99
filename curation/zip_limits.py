"""How much a member of a zip archive may unpack to, as its directory states it; nothing beyond that is unpacked."""

from __future__ import annotations

import zipfile

_FREE_BYTES = 16 << 20
_RATIO = 100
"""Films are compressed already, raw ones by a tenth of this. Deflate reaches 1032."""


def check_member(member: zipfile.ZipInfo) -> None:
    """zipfile.BadZipFile for a member of so few bytes that stand for so many."""
    most = _FREE_BYTES + _RATIO * member.compress_size
    if member.file_size > most:
        raise zipfile.BadZipFile(
            f"the member has {member.compress_size:,} bytes and unpacks to {member.file_size:,}; at most {most:,} are "
            "unpacked of so few"
        )
