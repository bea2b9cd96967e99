"""The stages of the video-to-audio model by the row executor: the rows of an operator alone, and none lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from curation.caption_features import EncodeCaptionsConfig
from curation.sound_latents import ENCODE_SOUND_OPERATOR, STATS_FILE, EncodeSoundConfig
from curation.sync_features import ENCODE_SYNC_OPERATOR, EncodeSyncConfig
from curation.visual_features import ENCODE_VISUAL_OPERATOR, EncodeVisualConfig
from jobs.context import InputRef
from lumina.training.data.index import CAPTIONS, FEATURES, SOUNDS, Index
from pipelines.base_config import ZOO
from tests.curation.audible import Heard, noise, write
from tests.curation.selected import encoded, select_all
from tests.jobs.chain import Chain

WEIGHTS = {name: str(ZOO / name) for name in ("audio_codec", "clip", "synchformer")}
STAGES = {
    "encode_sound": ("curation.sound_latents:ENCODE_SOUND_OPERATOR", EncodeSoundConfig(), SOUNDS),
    "encode_visual": ("curation.visual_features:ENCODE_VISUAL_OPERATOR", EncodeVisualConfig(), FEATURES),
    "encode_sync": ("curation.sync_features:ENCODE_SYNC_OPERATOR", EncodeSyncConfig(), FEATURES),
    "encode_captions": ("curation.caption_features:ENCODE_CAPTIONS_OPERATOR", EncodeCaptionsConfig(), CAPTIONS),
}


@pytest.mark.ray
def test_sounds_and_features_are_made_of_selected_clips(tmp_path: Path, ray_cluster: None) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(3):
        write(clips / f"{number}.mkv", Heard(noise(number, 32000), codec="flac", rate=16000))
    write(clips / "none.mkv", Heard())
    select = select_all(tmp_path)
    chain = Chain(tmp_path / "run", clips, WEIGHTS)
    chain.refs["select"] = InputRef("select", select.path, "")
    results = {name: chain.run(name, *stage[:2], select="select") for name, stage in STAGES.items()}
    assert {name: result.counts for name, result in results.items()} == {
        "encode_sound": {"in": 4, "ok": 3, "filtered/no_audio_stream": 1},
        "encode_visual": {"in": 4, "ok": 4},
        "encode_sync": {"in": 4, "ok": 4},
        "encode_captions": {"in": 5, "ok": 5},
    }
    for operator in (ENCODE_SOUND_OPERATOR, ENCODE_VISUAL_OPERATOR, ENCODE_SYNC_OPERATOR):
        alone = encoded(operator, select, operator.config(), WEIGHTS)
        assert {row["clip_id"]: row for row in chain.rows(operator.name)} == {
            row["clip_id"]: row for row in alone.values()
        }
    for name, (*_, layout) in STAGES.items():
        assert len(Index([chain.refs[name].path], layout)) == results[name].counts["ok"]
    assert (chain.refs["encode_sound"].path / STATS_FILE).is_file()
    # Text and sound meet by the caption's key.
    texts = {row["text_id"] for row in chain.rows("encode_captions")}
    assert {row["text_id"] for row in chain.rows("encode_sound")} <= texts
    shapes = {row["audio_latent_shape"][2] for row in chain.rows("encode_sound") if row["status"] == "ok"}
    assert shapes == {50}
