"""Encode captions: each once, the text that is none with its padding, and what is said of captions that are cut."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from curation.caption_features import ENCODE_CAPTIONS_OPERATOR, EncodeCaptionsConfig
from curation.operator import Env, Input, dataset
from curation.tensors import unpack
from lumina.system_prompts import text_id
from lumina.training.data.index import CAPTIONS, Index
from lumina.video_to_audio.networks.clip import load_clip_features
from pipelines.base_config import ZOO
from tests.curation.in_memory import computed, planned
from tests.curation.selected import write_rows

LONG = "a blue circle hops " * 40
HOSTILE = "<|endoftext|> ../../etc {{7*7}} \N{SNOWMAN}\u202e"


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Input]:
    captions = ["a red circle", "a red circle", LONG, HOSTILE, "left out", "of an image", ""]
    kept = [True, True, True, True, False, True, True]
    media = ["video"] * 5 + ["image", "video"]
    table = pa.table({"caption": captions, "keep": kept, "media": media})
    return {"select": Input(write_rows(tmp_path / "select", table))}


def test_every_caption_is_encoded_once(inputs: dict[str, Input], tmp_path: Path) -> None:
    config, env = EncodeCaptionsConfig(), Env("", {"clip": str(ZOO / "clip")})
    table = computed(ENCODE_CAPTIONS_OPERATOR, inputs, config, env)
    rows = {row["text"]: row for row in table.to_pylist()}
    assert sorted(rows) == sorted({"", "a red circle", LONG, HOSTILE})
    assert len(table) == 4
    assert all(row["text_id"] == text_id(text) for text, row in rows.items())

    clip = load_clip_features(ZOO / "clip")
    most = clip.most_tokens
    features = {
        text: unpack(row["feature_bytes"], row["feature_shape"], row["feature_dtype"]) for text, row in rows.items()
    }
    for text in ("a red circle", LONG, HOSTILE):
        assert torch.equal(features[text], clip.text([text])[0])
    assert features[""].shape == (most, clip.text_width)
    torch.testing.assert_close(features[""][:2], clip.text([""])[0])
    assert (rows[""]["tokens"], rows[""]["tokens_cut"]) == (most, 0)
    assert rows["a red circle"]["tokens"] == len(clip.token_ids("a red circle")) < most
    assert (rows[LONG]["tokens"], rows[LONG]["tokens_cut"] > 0) == (most, True)

    data = tmp_path / "out" / "data"
    write_rows(tmp_path / "out", table)
    report = ENCODE_CAPTIONS_OPERATOR.report(dataset(data), config, tmp_path / "out")
    assert report.metrics == {"captions_cut": 1}
    assert report.warnings == (
        f"1 of 3 captions is longer than the {most} tokens that CLIP takes; what is over is cut off "
        f"({rows[LONG]['tokens_cut']:,} tokens of the longest): shorten them, or set select.max_caption_chars",
    )
    assert len(Index([tmp_path / "out"], CAPTIONS)) == 4
    pq.write_table(table.filter(pa.compute.equal(table["tokens_cut"], 0)), data / "part.parquet")
    report = ENCODE_CAPTIONS_OPERATOR.report(dataset(data), config, tmp_path / "out")
    assert (report.metrics, report.warnings) == ({"captions_cut": 0}, ())


def test_the_empty_text_is_there_without_any_clip(tmp_path: Path) -> None:
    nothing = pa.table(
        {"caption": pa.array([], pa.string()), "keep": pa.array([], pa.bool_()), "media": pa.array([], pa.string())}
    )
    inputs = {"select": Input(write_rows(tmp_path, nothing))}
    plan = planned(ENCODE_CAPTIONS_OPERATOR, inputs, EncodeCaptionsConfig(), Env(""))
    assert plan["text"].to_pylist() == [""]
    gpu = EncodeCaptionsConfig().on("cuda")
    assert (gpu.dtype, gpu.compute_dtype) == ("bfloat16", "bfloat16")
