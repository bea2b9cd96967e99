"""Scores of new captions, beside those of the clips' own."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.caption_scores import NEW_CAPTION_MATCH, NEW_CAPTION_MATCH_OPERATOR
from curation.operator import Env, Input
from curation.schema import CAPTION, Reason, Status, status_not_ok, status_ok, to_table
from curation.scores import CAPTION_MATCH_OPERATOR, CaptionMatchConfig, ScoresConfig
from lumina import zoo
from lumina.video import write_h264
from tests.curation.in_memory import computed
from tests.curation.scored import panned, probed, scored, texture

CONFIG = ScoresConfig(caption_match=CaptionMatchConfig(), samples=2)
WEIGHTS = {"caption_match.weights": str(Path(zoo.__file__).parent / "clip")}
NAMES = ["a.mp4", "b.mp4"]


def test_new_captions_are_scored_as_the_clips_own_are(tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        write_h264(tmp_path / name, panned(texture(number, 64, 64), 8, 2), 8)
    new = {"a.mp4": "A red circle moves left.", "b.mp4": None}
    captions = [{"clip_id": name, "caption": "What was said before.", "caption_new": new[name]} for name in NAMES]
    captions[0] |= status_ok()
    captions[1] |= status_not_ok("caption", Status.QUARANTINED, Reason.CAPTION_REFUSED, "I cannot")
    tables = {"clips": probed(tmp_path, NAMES, dict.fromkeys(NAMES, "Old.")), "caption": to_table(captions, CAPTION)}
    for name, table in tables.items():
        (tmp_path / name / "data").mkdir(parents=True)
        pq.write_table(table, tmp_path / name / "data" / "part.parquet")
    inputs = {name: Input(tmp_path / name) for name in tables}
    rows = computed(NEW_CAPTION_MATCH_OPERATOR, inputs, CONFIG, Env(str(tmp_path), WEIGHTS))
    assert rows.schema == NEW_CAPTION_MATCH
    one, other = rows.sort_by("clip_id").to_pylist()
    alike = scored(tmp_path, NAMES, CONFIG, WEIGHTS, {"a.mp4": "A red circle moves left."}, CAPTION_MATCH_OPERATOR)
    assert one["caption_match_new"] == alike["a.mp4"]["caption_match"] is not None
    assert one["caption_match_new_min"] == alike["a.mp4"]["caption_match_min"]
    # That a model refused is no fault of the clip.
    assert (other["caption_match_new"], other["status"], other["frames_scored"]) == (None, "ok", 2)
    pq.write_table(tables["caption"].slice(1), tmp_path / "caption" / "data" / "part.parquet")
    with pytest.raises(ValueError, match="caption has 1 rows and probe 2, or their clip ids differ"):
        computed(NEW_CAPTION_MATCH_OPERATOR, inputs, CONFIG, Env(str(tmp_path), WEIGHTS))
    assert isinstance(rows, pa.Table)
