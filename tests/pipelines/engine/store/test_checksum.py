from __future__ import annotations

import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.store.checksum import check_seal, seal

RECORD = {"schema": "x/1", "text": "Kaffee ☕", "n": [1, 2.5, None], "deep": {"a": {}}}


def test_a_sealed_record_is_whole_and_still_json() -> None:
    text = seal(json.dumps(RECORD, indent=1, ensure_ascii=False))
    assert check_seal(text) == "whole"
    content = json.loads(text)
    assert content.pop("checksum").startswith("sha256:")
    assert content == RECORD
    assert check_seal(json.dumps(RECORD, indent=1)) == "none"


@given(st.data())
def test_any_changed_byte_breaks_it(data: st.DataObject) -> None:
    raw = bytearray(seal(json.dumps(RECORD, indent=1, ensure_ascii=False)).encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ValueError):
        assert check_seal(raw.decode()) == "broken"
