"""Encode text: what is encoded, and what is said of prompts that are cut."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curation.operator import Env, Input, apply, dataset
from curation.prompts import ENCODE_TEXT_OPERATOR, EncodeTextConfig
from curation.schema import TEXT, status_ok, to_table
from curation.sources import SYSTEM_PROMPTS_FILE
from curation.tensors import unpack
from lumina.prompt_length import MAX_TOKENS
from lumina.system_prompts import SystemPrompt, write_system_prompts
from tests.curation.in_memory import planned
from tests.lumina import tiny


def _encoded(folder: Path, config: EncodeTextConfig, prompts: list[str]) -> pa.Table:
    rows = [
        {"text_id": str(n), "system_prompt_id": "s", "prompt": text} | status_ok() for n, text in enumerate(prompts)
    ]
    assert ENCODE_TEXT_OPERATOR.map is not None
    encode = ENCODE_TEXT_OPERATOR.map(config, Env("", {"text_encoder": str(folder)}))
    return apply(ENCODE_TEXT_OPERATOR, encode, to_table(rows, TEXT))


def test_gpus_read_many_in_half_precision_and_cpus_one_as_before(tmp_path: Path) -> None:
    cpu, gpu = (EncodeTextConfig().on(device) for device in ("cpu", "cuda"))
    assert (cpu.dtype, cpu.compute_dtype, cpu.batch_size) == ("float32", "float32", 1)
    assert (gpu.dtype, gpu.compute_dtype, gpu.batch_size) == ("bfloat16", "bfloat16", 64)
    named = EncodeTextConfig(dtype="float32", batch_size=7)
    assert [(one.dtype, one.batch_size) for one in (named.on("cpu"), named.on("cuda:1"))] == [("float32", 7)] * 2
    assert [ENCODE_TEXT_OPERATOR.rows_per_batch(one) for one in (EncodeTextConfig(), cpu, gpu)] == [1, 1, 64]

    # What a GPU would do, on a CPU.
    tiny.text_encoder().save_pretrained(tmp_path)
    prompts = ["x" * length for length in (9, 40, 2, 200)]
    alone, together = (_encoded(tmp_path, one, prompts).to_pylist() for one in (EncodeTextConfig(), gpu))
    for one, other in zip(alone, together, strict=True):
        assert (one["text_feature_dtype"], other["text_feature_dtype"]) == ("float32", "bfloat16")
        features, near = (
            unpack(row["text_feature_bytes"], row["text_feature_shape"], row["text_feature_dtype"]).float()
            for row in (one, other)
        )
        assert features.shape == near.shape == (one["tokens"], tiny.text_encoder().feature_dim)
        assert (features - near).norm() < 0.05 * features.norm()


def test_neighbours_are_of_like_length_where_they_are_read_together(tmp_path: Path) -> None:
    captions = ["a long caption of many words", "short", "of middle length", "tiny", "a very long caption " * 4]
    tag, select = tmp_path / "tag", tmp_path / "select"
    (select / "data").mkdir(parents=True)
    tag.mkdir()
    write_system_prompts(tag / SYSTEM_PROMPTS_FILE, [SystemPrompt("web", "From the web. <Prompt Start> ")])
    kept = {"source": ["web"] * 5, "caption": captions, "keep": [True] * 4 + [False]}
    pq.write_table(pa.table(kept), select / "data" / "a.parquet")
    inputs = {"tag": Input(tag), "select": Input(select)}
    alone, together = (
        planned(ENCODE_TEXT_OPERATOR, inputs, EncodeTextConfig(batch_size=size), Env("")).to_pylist()
        for size in (None, 2)
    )
    assert [row["text_id"] for row in alone] == sorted(row["text_id"] for row in alone)
    assert sorted(together, key=lambda row: row["text_id"]) == alone
    found = [row["prompt"].removeprefix("From the web. <Prompt Start> ") for row in together]
    assert found == ["", "tiny", "short", "of middle length", "a long caption of many words"]


def test_prompts_that_are_cut_are_counted_and_said(tmp_path: Path) -> None:
    encoder, config = tiny.text_encoder(), EncodeTextConfig()
    encoder.save_pretrained(tmp_path / "encoder")
    prompts = ["x", "x" * (MAX_TOKENS - 1), "x" * MAX_TOKENS, "x" * 1300]
    table = _encoded(tmp_path / "encoder", config, prompts)
    assert table["tokens"].to_pylist() == [2, MAX_TOKENS, MAX_TOKENS, MAX_TOKENS]
    assert table["tokens_cut"].to_pylist() == [0, 0, 1, 1301 - MAX_TOKENS]

    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "a.parquet")
    report = ENCODE_TEXT_OPERATOR.report(dataset(tmp_path / "data"), config, tmp_path)
    assert report.metrics == {"prompts_cut": 2}
    assert report.warnings == (
        "2 of 4 prompts are longer than the 256 tokens that the text encoder takes, system prompt "
        "included; what is over is cut off (1,045 tokens of the longest): shorten them, or set "
        "select.max_caption_chars",
    )
    pq.write_table(table.slice(0, 2), tmp_path / "data" / "a.parquet")
    report = ENCODE_TEXT_OPERATOR.report(dataset(tmp_path / "data"), config, tmp_path)
    assert (report.metrics, report.warnings) == ({"prompts_cut": 0}, ())
