"""The choice follows its rule on hand-made tables, says why in a sentence, and refuses what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from jobs.choose import ChooseConfig, run
from jobs.context import InputRef, JobContext, JobResult
from jobs.runtime import RuntimeConfig
from lumina.evaluation.metrics import METRICS
from lumina.evaluation.selection import SELECTION_FILE
from lumina.randomness import generator
from pipelines.config import load_config

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


def _context(
    root: Path, config: ChooseConfig, *inputs: InputRef, files: Mapping[str, Path] | None = None, **latents: InputRef
) -> JobContext:
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
        files=files or {},
    )


def _choose(
    root: Path, config: ChooseConfig, *inputs: InputRef, files: Mapping[str, Path] | None = None, **latents: InputRef
) -> tuple[dict, JobResult]:
    result = run(_context(root, config, *inputs, files=files, **latents))
    return json.loads((root / "out" / SELECTION_FILE).read_text()), result


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


STABILITY, MOTION = "offline/temporal_flicker", "offline/dynamic_degree_dis"


def _measured(root: Path, source: str, flicker: float, dynamic: float, constant: float = 0.0) -> InputRef:
    """Forty prompts of an evaluation: a stability that hardly varies, and shares of clips that move or are flat."""
    rng = generator(0, "measured", source)
    rows = [
        {
            "prompt_id": f"p{p:02d}",
            "sample": 0,
            STABILITY: flicker + 0.01 * float(rng.uniform(-1, 1)),
            MOTION: float(p < 40 * dynamic),
            "offline/constant_rate": float(p < 40 * constant),
        }
        for p in range(40)
    ]
    path = root / f"evaluate-{source}"
    (path / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path / "data" / "rows.parquet")
    (path / "metrics.json").write_text(json.dumps({"metrics": {name: {} for name in METRICS}}))
    return InputRef(f"evaluate@{source}", path, "")


@pytest.mark.parametrize("name", ["paper", "folder"])
def test_the_shipped_rules_are_not_won_by_noise(tmp_path: Path, name: str) -> None:
    rule = load_config(name, needs_clips=False).choose.model_copy(update={"resamples": 500})
    watchable, noise = _measured(tmp_path, "watchable", 0.97, 0.60), _measured(tmp_path, "noise", 0.75, 1.0)
    found, _ = _choose(tmp_path, rule, watchable, noise)
    assert found["chosen"] == "watchable"
    assert found["best_set"] == ["watchable"]
    scales = found["standardised"]
    assert scales[STABILITY]["spread"] == pytest.approx(0.11, abs=0.01)
    assert scales[MOTION] == {"mean": 0.8, "spread": 0.4}
    assert scales["offline/constant_rate"] == {"mean": 0, "spread": 0}
    # The figures stay what they are.
    assert found["table"][0]["metrics"][MOTION]["value"] == pytest.approx(0.6)
    # Nor by several that are noise, nor by a source whose clips are flat and therefore stable.
    others = [_measured(tmp_path, f"noise{k}", 0.75, 1.0) for k in range(3)]
    flat = _measured(tmp_path, "flat", 0.985, 0.0, constant=0.9)
    assert _choose(tmp_path, rule, watchable, noise, flat, *others)[0]["chosen"] == "watchable"
    # A flicker that is nearly equal decides little against motion that is not.
    calm = _measured(tmp_path, "calm", 0.968, 0.1)
    assert _choose(tmp_path, rule, watchable, calm)[0]["chosen"] == "watchable"


def test_shares_alone_are_weighed_as_they_are(tmp_path: Path) -> None:
    found, _ = _choose(tmp_path, CONFIG, *(_evaluation(tmp_path, s, r) for s, r in (("a", 0.7), ("b", 0.6))))
    assert "standardised" not in found
    assert set(found["rule"]) == {"score", "on_tie", "confidence", "resamples", "seed"}
    with pytest.raises(ValidationError, match="shapes/speed_rank_corr is a correlation over all prompts: it cannot be"):
        ChooseConfig(score={"shapes/speed_rank_corr": 1, STABILITY: 1})
    ChooseConfig(score={"shapes/speed_rank_corr": 1, ACCURACY: 1})


def test_a_person_decides_and_is_quoted(tmp_path: Path) -> None:
    inputs = [_evaluation(tmp_path, s, r) for s, r in (("web", 0.9), ("synthetic", 0.3), ("phone", 0.2))]
    config = CONFIG.model_copy(update={"sources": ("synthetic", "phone"), "reason": "Steadier in 30 of 40 pairs."})
    found, result = _choose(tmp_path, config, *inputs)
    assert (found["chosen"], found["sources"], found["decided_by"]) == ("synthetic", ["synthetic", "phone"], "hand")
    assert found["reason"].startswith(
        "Chosen by hand: Steadier in 30 of 40 pairs. Of the scores: web scores highest (0.8"
    )
    assert "is chosen" not in found["reason"]
    assert found["rule"]["sources"] == ["synthetic", "phone"]
    assert found["table"][0]["source"] == "web"
    assert result.metrics["choose/score"] == found["table"][1]["score"]["value"]
    latents = _latents(tmp_path, "a", ("web", "video", "ok", "train"))
    with pytest.raises(ValueError, match=r"choose.sources: none of phone, synthetic has a clip to fine-tune on in"):
        _choose(tmp_path, config, *inputs, **dict([latents]))


def _scored(root: Path, text: str, name: str = "scores.csv") -> dict[str, Path]:
    (root / name).write_text(text)
    return {"scores": root / name}


def test_scores_of_clips_from_elsewhere_are_compared_as_own_ones(tmp_path: Path) -> None:
    inputs = [_evaluation(tmp_path, s, r) for s, r in (("web", 0.9), ("synthetic", 0.3))]
    rng = generator(0, "elsewhere")
    rows = [
        f"{source},p{p},0,{level + 0.1 * rng.random():.4f},{1 - p % 2}"
        for source, level in (("web", 0.2), ("synthetic", 0.6), ("unasked", 0.9))
        for p in range(12)
    ]
    files = _scored(tmp_path, "source,prompt,sample,quality,moves\n" + "\n".join(rows))
    config = ChooseConfig(score={"quality": 1.0, "moves": 0.5}, resamples=300, scores=files["scores"])
    found, _ = _choose(tmp_path, config.model_copy(update={"scores": None}), *inputs, files=files)
    assert found["chosen"] == "synthetic"
    assert found["best_set"] == ["synthetic"]
    assert (found["prompts"], found["samples"]) == (12, 1)
    assert found["scores"]["per_clip"] is True
    assert found["scores"]["files"]["scores"].startswith("sha256:")
    assert set(found["standardised"]) == {"quality", "moves"}
    gap = found["table"][1]["below_best"]
    assert 0 < gap["low"] < gap["value"] < gap["high"]


def test_scores_of_whole_sources_have_no_error_bars_and_say_so(tmp_path: Path) -> None:
    inputs = [_evaluation(tmp_path, s, r) for s, r in (("web", 0.9), ("synthetic", 0.3))]
    files = _scored(tmp_path, "source,quality,moves\nweb,80.1,0.2\nsynthetic,82.5,0.3\n")
    rule = ChooseConfig(score={"quality": 1.0}, scores=files["scores"]).model_copy(update={"scores": None})
    found, result = _choose(tmp_path, rule, *inputs, files=files)
    assert (found["chosen"], found["sources"]) == ("synthetic", ["synthetic"])
    assert found["table"][0]["score"] == {"value": 82.5, "low": None, "high": None}
    assert found["table"][1]["below_best"]["value"] == pytest.approx(2.4)
    assert "web lies 2.400 below it; scores of whole sources have no error bars" in found["reason"]
    again = tmp_path / "again"
    again.mkdir()
    for name in ("web", "synthetic"):
        (again / f"{name}.json").write_text(json.dumps({"quality": [82.5 if name == "synthetic" else 80.1]}))
    apart = {f"scores@{name}": again / f"{name}.json" for name in ("web", "synthetic")}
    assert _choose(tmp_path, rule, *inputs, files=apart)[0]["table"] == found["table"]
    with pytest.raises(ValueError, match=r"choose.on_tie is union, but scores of whole sources do not tell"):
        _choose(tmp_path, rule.model_copy(update={"on_tie": "union"}), *inputs, files=files)
    assert result.counts == {"in": 2, "ok": 2}


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
    with pytest.raises(ValidationError, match="unknown metric 'fvd/total'"):
        ChooseConfig(score={"fvd/total": 1.0})


def test_a_weight_below_zero_prefers_the_lower_value(tmp_path: Path) -> None:
    inputs = [_evaluation(tmp_path, s, r) for s, r in (("low", 0.1), ("high", 0.9))]
    found, _ = _choose(tmp_path, CONFIG.model_copy(update={"score": {ACCURACY: -1.0}}), *inputs)
    assert found["chosen"] == "low"
    assert np.isclose(found["table"][0]["score"]["value"], -found["table"][0]["metrics"][ACCURACY]["value"])
