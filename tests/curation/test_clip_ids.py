"""Identity of clips: what an export states is checked, whatever a manifest holds in its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from curation.clip_ids import clip_id, stated_id
from curation.schema import RowError

TOLD = {"clip_how": "copied", "clip_sha256": "a", "origin_sha256": "b", "origin_start_s": 0.5, "origin_end_s": "1.5"}


def _stated(**changes: Any) -> str | None:
    told = {**TOLD, "clip_id": clip_id("b", 0.5, 1.5), **changes}
    return stated_id({"uri": "a.mp4", "extra": json.dumps(told)}, "a")


def test_the_id_is_that_of_the_span() -> None:
    assert _stated() == clip_id("b", 0.5, 1.5)
    assert _stated(clip_how="whole") is None
    assert _stated(origin_start_s="") is None


@pytest.mark.parametrize("span", [{"origin_start_s": "soon"}, {"origin_end_s": [1]}])
def test_a_span_that_is_none_is_the_fault_of_its_row(span: dict[str, Any]) -> None:
    with pytest.raises(RowError, match=r"origin_start_s and origin_end_s are .*, expected seconds"):
        _stated(**span)
