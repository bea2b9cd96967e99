"""Encode text: what is encoded, and what is said of prompts that are cut."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curation.operator import Env, apply, dataset
from curation.prompts import ENCODE_TEXT_OPERATOR, EncodeTextConfig
from curation.schema import TEXT, status_ok, to_table
from lumina.prompt_length import MAX_TOKENS
from tests.lumina import tiny


def test_prompts_that_are_cut_are_counted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder, config = tiny.text_encoder(), EncodeTextConfig()
    encoder.save_pretrained(tmp_path / "encoder")
    prompts = ["x", "x" * (MAX_TOKENS - 1), "x" * MAX_TOKENS, "x" * 1300]
    rows = [
        {"text_id": str(n), "system_prompt_id": "s", "prompt": text} | status_ok() for n, text in enumerate(prompts)
    ]
    assert ENCODE_TEXT_OPERATOR.make is not None
    encode = ENCODE_TEXT_OPERATOR.make(config, Env("", {"text_encoder": str(tmp_path / "encoder")}))
    table = apply(ENCODE_TEXT_OPERATOR, encode, to_table(rows, TEXT))
    assert table["tokens"].to_pylist() == [2, MAX_TOKENS, MAX_TOKENS, MAX_TOKENS]
    assert table["tokens_cut"].to_pylist() == [0, 0, 1, 1301 - MAX_TOKENS]

    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "a.parquet")
    report = ENCODE_TEXT_OPERATOR.report(dataset(tmp_path / "data"), config, tmp_path)
    assert report.metrics == {"prompts_cut": 2}
    assert caplog.messages == [
        "encode_text: 2 of 4 prompts are longer than the 256 tokens that the text encoder takes, system prompt "
        "included; what is over is cut off (1,045 tokens of the longest): shorten them, or set select.max_caption_chars"
    ]
    caplog.clear()
    pq.write_table(table.slice(0, 2), tmp_path / "data" / "a.parquet")
    assert ENCODE_TEXT_OPERATOR.report(dataset(tmp_path / "data"), config, tmp_path).metrics == {"prompts_cut": 0}
    assert not caplog.messages
