"""The choice follows its rule on hand-made tables, says why in a sentence, and refuses what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from jobs.choose import FILE, ChooseConfig, run
from jobs.context import InputRef, JobContext, JobResult
from jobs.runtime import RuntimeConfig
from lumina.randomness import generator

ACCURACY = "shapes/colour_acc"


def _evaluation(root: Path, source: str, rate: float, prompts: int = 40, metric: str = ACCURACY) -> InputRef:
    """Two clips of each prompt; the same draw decides for every source, so that sources are paired."""
    draw = generator(0, "test").random((prompts, 2))
    rows = [
        {"prompt_id": f"p{p:02d}", "sample": s, metric: float(draw[p, s] < rate)}
        for p in range(prompts)
        for s in range(2)
    ]
    rows.reverse()
    path = root / f"evaluate-{source}"
    (path / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path / "data" / "rows.parquet")
    (path / "metrics.json").write_text(json.dumps({"metrics": {metric: {}}}))
    return InputRef(f"evaluate@{source}", path, "")


def _context(root: Path, config: ChooseConfig, *inputs: InputRef, **latents: InputRef) -> JobContext:
    out, work = root / "out", root / "work"
    out.mkdir(exist_ok=True)
    return JobContext(
        stage="choose",
        fingerprint="f" * 64,
        operator="",
        config=config,
        runtime=RuntimeConfig(),
        inputs={ref.stage: ref for ref in inputs} | latents,
        weights={},
        media_root="",
        out=out,
        work=work,
        progress=lambda done, total, unit: None,
        log_metrics=lambda metrics, step: None,
    )


def _choose(root: Path, config: ChooseConfig, *inputs: InputRef, **latents: InputRef) -> tuple[dict, JobResult]:
    result = run(_context(root, config, *inputs, **latents))
    return json.loads((root / "out" / FILE).read_text()), result


CONFIG = ChooseConfig(score={ACCURACY: 1.0}, resamples=1000)


def test_a_clear_winner_is_chosen_alone_and_the_reason_has_the_numbers(tmp_path: Path) -> None:
    inputs = [_evaluation(tmp_path, s, r) for s, r in (("web", 0.3), ("synthetic", 0.9), ("handheld", 0.5))]
    for on_tie in ("best", "union"):
        found, result = _choose(tmp_path, CONFIG.model_copy(update={"on_tie": on_tie}), *inputs)
        assert found["chosen"] == "synthetic"
        assert found["sources"] == found["best_set"] == ["synthetic"]
    assert [row["source"] for row in found["table"]] == ["synthetic", "handheld", "web"]
    score = found["table"][0]["score"]
    assert score["low"] < score["value"] < score["high"]
    assert f"synthetic scores highest ({score['value']:.3f}" in found["reason"]
    assert "every other source is significantly worse" in found["reason"].lower()
    assert found["rule"]["score"] == {ACCURACY: 1.0}
    assert result.digest.startswith("sha256:")


def test_a_tie_follows_the_rule(tmp_path: Path) -> None:
    inputs = [_evaluation(tmp_path, s, r) for s, r in (("a", 0.88), ("b", 0.9), ("c", 0.1))]
    best, _ = _choose(tmp_path, CONFIG, *inputs)
    assert best["chosen"] == "b"
    assert best["sources"] == ["b"]
    assert set(best["best_set"]) == {"a", "b"}
    union, _ = _choose(tmp_path, CONFIG.model_copy(update={"on_tie": "union"}), *inputs)
    assert union["sources"] == ["a", "b"]
    assert "takes all that are not significantly worse: a, b" in union["reason"]


def test_the_file_is_the_same_whatever_the_order_of_inputs(tmp_path: Path) -> None:
    inputs = [_evaluation(tmp_path, s, r) for s, r in (("a", 0.7), ("b", 0.6))]
    assert _choose(tmp_path, CONFIG, *inputs)[1].digest == _choose(tmp_path, CONFIG, *reversed(inputs))[1].digest


def _latents(root: Path, name: str, *rows: tuple[str, str, str, str], read: str = "video") -> tuple[str, InputRef]:
    """Rows of (source, media, status, split)."""
    path = root / f"latents-{name}"
    (path / "data").mkdir(parents=True)
    columns = ("source", "media", "status", "split")
    pq.write_table(
        pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows]), path / "data" / "rows.parquet"
    )
    return f"{read}@{name}", InputRef(f"encode_latents@{name}", path, "")


def test_a_source_without_videos_to_train_on_cannot_win(tmp_path: Path) -> None:
    ok = ("ok", "train")
    rates = {"empty": 0.95, "held": 0.9, "pictures": 0.85, "synthetic": 0.8, "web": 0.3}
    evaluations = [_evaluation(tmp_path, source, rate) for source, rate in rates.items()]
    a = _latents(tmp_path, "a", ("web", "video", *ok), ("held", "video", "ok", "heldout"), ("pictures", "image", *ok))
    b = _latents(tmp_path, "b", ("synthetic", "video", *ok), ("empty", "video", "filtered", "train"))
    found, result = _choose(tmp_path, CONFIG, *evaluations, **dict([a, b]))
    # The images of web make it no better, and synthetic needs none.
    assert (found["chosen"], found["left_out"]) == ("synthetic", ["empty", "held", "pictures"])
    assert found["reason"].endswith("Left out, having no clips to fine-tune on: empty, held, pictures.")
    assert result.counts == {"in": 5, "ok": 2, "filtered/no_clips": 3}
    with pytest.raises(ValueError, match=r"none of .* empty, held, pictures has a clip to fine-tune on in .*@a, .*@b"):
        _choose(tmp_path, CONFIG, *evaluations[:3], **dict([a, b]))
    found, _ = _choose(tmp_path, CONFIG, *evaluations, **{"image@a": a[1]})
    assert found["chosen"] == "pictures"


def test_one_source_is_chosen_even_on_one_prompt(tmp_path: Path) -> None:
    found, _ = _choose(tmp_path, CONFIG, _evaluation(tmp_path, "only", 0.5, prompts=1))
    assert found["chosen"] == "only"
    assert "it is the only source" in found["reason"]
    assert found["table"][0]["score"]["low"] is None


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    a, b = _evaluation(tmp_path, "a", 0.5), _evaluation(tmp_path, "b", 0.5, prompts=39)
    with pytest.raises(ValueError, match="a and b were evaluated on different prompts"):
        _choose(tmp_path, CONFIG, a, b)
    other = _evaluation(tmp_path, "other", 0.5, metric="shapes/shape_acc")
    with pytest.raises(ValueError, match="evaluate@other did not measure shapes/colour_acc"):
        _choose(tmp_path, CONFIG, other)
    with pytest.raises(ValueError, match="no input evaluate@<source>"):
        _choose(tmp_path, CONFIG)
    with pytest.raises(ValidationError, match="unknown metric 'vbench/total'"):
        ChooseConfig(score={"vbench/total": 1.0})


def test_a_weight_below_zero_prefers_the_lower_value(tmp_path: Path) -> None:
    inputs = [_evaluation(tmp_path, s, r) for s, r in (("low", 0.1), ("high", 0.9))]
    found, _ = _choose(tmp_path, CONFIG.model_copy(update={"score": {ACCURACY: -1.0}}), *inputs)
    assert found["chosen"] == "low"
    assert np.isclose(found["table"][0]["score"]["value"], -found["table"][0]["metrics"][ACCURACY]["value"])
