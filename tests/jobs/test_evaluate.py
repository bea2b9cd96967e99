"""The whole way from a tiny random checkpoint to figures: repeatable, paired and resumable."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from jobs import clips
from jobs.choose import ChooseConfig
from jobs.clips import Batch, ClipWorker
from jobs.evaluate import EvaluateConfig, EvaluateFinalConfig, EvaluationConfig
from jobs.runtime import RuntimeConfig
from lumina import clip_frames
from lumina.evaluation.generation import ClipGenerator
from lumina.evaluation.noise import NoiseAddress, evaluation_noise
from lumina.evaluation.prompts import CaptionSuite, ListSuite, ShapesSuite, build
from lumina.evaluation.summary import pivot
from lumina.flow_matching.schedules import SamplerConfig
from lumina.models import attention_kernels
from lumina.system_prompts import PROMPT_START
from lumina.video import read_frames, write_h264
from tests.jobs.evaluated import make_stages, run_evaluation
from tests.jobs.here import PoolHere

SMALL = {
    "suite": ShapesSuite(count=3),
    "sampler": SamplerConfig(steps=2, time_shift=2.0, guidance=((0.0, 1.0),)),
    "num_frames": 8,
    "height": 32,
    "width": 32,
    "samples": 2,
    "batch_size": 4,
    "resamples": 200,
}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `make_stages`."""
    return make_stages(tmp_path_factory.mktemp("stages"))


@pytest.mark.ray
def test_evaluations_are_paired_repeatable_and_feed_the_choice(
    stages: Path, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    red_config = EvaluateConfig(source="red", **SMALL)
    context, red, done = run_evaluation(stages, tmp_path / "red", red_config)
    rows = pq.read_table(context.out / "data").to_pylist()
    assert red.counts == {"in": 6, "ok": 6}
    assert done[-1] == 6
    assert {row["model"] for row in rows} == {"train@2"}
    assert len({row["frames_sha256"] for row in rows}) == 6
    assert read_frames(context.out / rows[0]["video"]).shape == (8, 32, 32, 3)
    [evaluation] = red.evaluations
    assert evaluation.name == "red | train@2"
    assert evaluation.params["system_prompt"] == "red"
    value = evaluation.metrics["eval/offline/temporal_flicker"]
    low, high = (evaluation.metrics[f"interval/offline/temporal_flicker_{end}"] for end in ("low", "high"))
    assert low <= value <= high
    assert 0 <= evaluation.metrics["eval/shapes/unmeasured_rate"] <= 1
    assert all((context.out / artifact).is_file() for artifact in evaluation.artifacts)

    # A killed attempt: one batch is whole, another is lost. A new attempt has the same rows.
    batches = sorted((context.work / "train@2").glob("batch-*"))
    assert len(batches) == 2
    (batches[0] / "rows.json").unlink()
    assert not list(context.work.rglob("*.tmp"))
    (tmp_path / "again").mkdir()
    context.work.rename(tmp_path / "again" / "work")
    monkeypatch.setattr(clips, "hand_out", PoolHere())
    assert run_evaluation(stages, tmp_path / "again", red_config)[1].digest == red.digest

    _, circle, _ = run_evaluation(stages, tmp_path / "circle", EvaluateConfig(source="circle", **SMALL))
    assert circle.digest != red.digest
    chosen_context, _, _ = run_evaluation(
        stages,
        tmp_path / "choose",
        ChooseConfig(score={"offline/temporal_flicker": 1.0}, resamples=200),
        **{"evaluate@red": tmp_path / "red" / "out", "evaluate@circle": tmp_path / "circle" / "out"},
    )
    assert json.loads((chosen_context.out / "selection.json").read_text())["chosen"] in ("red", "circle")


def test_final_compares_before_and_after_on_other_prompts(
    stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "hand_out", PoolHere())
    (tmp_path / "selection").mkdir()
    (tmp_path / "selection" / "selection.json").write_text(json.dumps({"chosen": "circle", "sources": ["circle"]}))
    config = EvaluateFinalConfig(**SMALL)
    inputs = {"before": stages / "train", "after": stages / "finetune", "selection": tmp_path / "selection"}
    context, result, _ = run_evaluation(stages, tmp_path / "final", config, **inputs)
    found = json.loads((context.out / "metrics.json").read_text())
    assert found["system_prompt"] == "circle"
    assert found["split"] == "report"
    for name, difference in found["difference"].items():
        assert difference["value"] == pytest.approx(found["after"][name]["value"] - found["before"][name]["value"])
        assert difference["low"] <= difference["high"]
    assert [e.name for e in result.evaluations] == ["circle | before | train@2", "circle | after | finetune"]
    assert len(pq.read_table(context.out / "data")) == 12


def test_prompts_that_the_text_encoder_cuts_are_said_once(
    stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(clips, "hand_out", PoolHere())
    words = ListSuite(choose=("a cat", "a long cat " * 400), report=("a dog",))
    context, _, _ = run_evaluation(
        stages, tmp_path / "long", EvaluateConfig(source="red", **(SMALL | {"suite": words}))
    )
    assert json.loads((context.out / "metrics.json").read_text())["prompts_cut"] == 1
    [message] = [text for text in caplog.messages if "text encoder" in text]
    assert "1 of 2 prompts is longer than the 256 tokens that the text encoder takes" in message


@pytest.mark.parametrize("fault", ["another key", "cut short", "gone", "no JSON"])
def test_a_batch_is_taken_as_it_is_only_where_its_record_and_its_clips_are_whole(
    stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(clips, "hand_out", PoolHere())
    config = EvaluateConfig(source="red", **(SMALL | {"samples": 1, "batch_size": 1}))
    context, result, _ = run_evaluation(stages, tmp_path / "first", config)
    folder = context.work / "train@2" / "batch-00001"
    [clip] = folder.glob("*.mp4")
    whole = clip.read_bytes()
    if fault == "another key":
        record = json.loads((folder / "rows.json").read_text())
        (folder / "rows.json").write_text(json.dumps(record | {"key": "of another stage"}))
    elif fault == "cut short":
        clip.write_bytes(whole[:-9])
    elif fault == "gone":
        clip.unlink()
    else:
        (folder / "rows.json").write_text("{")
    (tmp_path / "again").mkdir()
    context.work.rename(tmp_path / "again" / "work")
    again, same, done = run_evaluation(stages, tmp_path / "again", config)
    assert done == [2, 3]
    assert same.digest == result.digest
    assert (again.out / "videos" / clip.name).read_bytes() == whole


def _made_up(monkeypatch: pytest.MonkeyPatch, value: Callable[[str, str, int], float]) -> list[clips.Batch]:
    """Clips that no network makes: `value(checkpoint's stage, prompt, sample)` is each one's flicker."""
    seen: list[clips.Batch] = []

    def make(work: Sequence[clips.Batch], runtime: RuntimeConfig, progress: object) -> list[dict[str, object]]:
        rows = []
        for batch in work:
            seen.append(batch)
            Path(batch.folder).mkdir(parents=True)
            for request in batch.requests:
                write_h264(Path(batch.folder) / request.file, np.zeros((2, 32, 32, 3), np.uint8), 8)
                prompt, sample = request.noise.address
                figure = value(Path(batch.job.checkpoint).parent.name, str(prompt), int(sample))
                named = {"file": request.file, "tokens_cut": 0, "frames_sha256": "0"}
                rows.append(named | {FLICKER: figure})
        return rows

    monkeypatch.setattr(clips, "make_clips", make)
    return seen


FLICKER = "offline/temporal_flicker"
ONE = {**SMALL, "metrics": (FLICKER,), "samples": 1}


def _final(stages: Path, out: Path) -> dict[str, Any]:
    (out / "selection").mkdir(parents=True)
    (out / "selection" / "selection.json").write_text(json.dumps({"chosen": "circle", "sources": ["circle"]}))
    inputs = {"before": stages / "train", "after": stages / "finetune", "selection": out / "selection"}
    context, _, _ = run_evaluation(stages, out / "final", EvaluateFinalConfig(**ONE), **inputs)
    found: dict[str, Any] = json.loads((context.out / "metrics.json").read_text())
    return found


def test_the_change_is_after_less_before_of_the_averages_under_the_chosen_prompt(
    stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _made_up(monkeypatch, lambda stage, prompt, _: (0.9 if stage == "finetune" else 0.2) + len(prompt) / 1e3)
    found = _final(stages, tmp_path)
    assert found["before"][FLICKER]["value"] < 0.3 < 0.8 < found["after"][FLICKER]["value"]
    assert found["difference"][FLICKER]["value"] == pytest.approx(0.7)
    assert found["checkpoints"] == {"before": "train@2", "after": "finetune"}
    assert {batch.job.checkpoint for batch in seen} == {
        str(stages / name / "transformer_ema") for name in ("train", "finetune")
    }
    assert {batch.job.system_prompt for batch in seen} == {f"You make circle videos.{PROMPT_START}"}
    # Both see the same prompts of the reporting half, and the same noises.
    asked = [{request.file for request in batch.requests} for batch in seen]
    assert asked[0] == asked[1]
    noises = {request.noise for batch in seen for request in batch.requests}
    assert {(noise.seed, noise.purpose) for noise in noises} == {(0, "eval-noise")}
    report = {prompt.prompt_id for prompt in build(SMALL["suite"], "report", 0, ()).prompts}  # type: ignore[arg-type]
    assert {noise.address[0] for noise in noises} == report


def _selected(root: Path, *rows: tuple[str, str, str, str]) -> Path:
    """A select table of (caption, source, split, media)."""
    (root / "select" / "data").mkdir(parents=True)
    columns = ("caption", "source", "split", "media")
    table = [dict(zip(columns, row, strict=True)) | {"status": "ok", "keep": True} for row in rows]
    table += [table[0] | {"caption": "set aside", "keep": False}, table[0] | {"caption": None}]
    pq.write_table(pa.Table.from_pylist(table), root / "select" / "data" / "rows.parquet")
    return root / "select"


def test_captions_are_of_videos_held_out_first_balanced_and_resampled_by_source(
    stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _made_up(monkeypatch, lambda _, prompt, __: int(prompt[-2:], 16) / 255)
    select = _selected(
        tmp_path,
        *((f"a large one {i}", "large", "heldout" if i < 40 else "train", "video") for i in range(400)),
        *((f"a small one {i}", "small", "train", "video") for i in range(20)),
        *((f"a picture {i}", "pictures", "heldout", "image") for i in range(50)),
    )
    config = EvaluateConfig(source="red", **(ONE | {"suite": CaptionSuite(count=16)}))
    context, result, _ = run_evaluation(stages, tmp_path / "red", config, select=select)
    asked = [request.prompt for batch in seen for request in batch.requests]
    assert Counter((prompt.split()[1], int(prompt.split()[-1]) < 40) for prompt in asked if "large" in prompt) == {
        ("large", True): 8
    }
    assert sum("small" in prompt for prompt in asked) == 8
    described = json.loads((context.out / "metrics.json").read_text())
    assert (described["prompts"], described["prompts_heldout"]) == (16, 8)
    assert result.evaluations[0].params["prompts_heldout"] == 8
    rows = pq.read_table(context.out / "data").to_pylist()
    assert {row["prompt"]: row["stratum"] for row in rows} == {prompt: prompt.split()[1] for prompt in asked}
    found = pivot(rows, [FLICKER], "here")
    assert found.strata is not None
    assert Counter(found.strata) == {"large": 8, "small": 8}
    assert pivot([row for row in rows if row != rows[0]], [FLICKER], "here").strata is None
    assert pivot([{**row, "stratum": None} for row in rows], [FLICKER], "here").strata is None
    again = _selected(tmp_path / "pictures", *((f"a picture {i}", "pictures", "train", "image") for i in range(9)))
    seen.clear()
    run_evaluation(stages, tmp_path / "still", config, select=again)
    assert len(seen[0].requests) == 4


class _Recorder:
    """A text encoder that keeps what it is asked to encode."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.model = torch.nn.Identity()

    def encode(self, prompts: list[str]) -> list[torch.Tensor]:
        self.asked.append(list(prompts))
        return [torch.full((2, 16), float(len(prompt))) for prompt in prompts]


def test_guidance_leads_away_from_the_system_prompt_alone(stages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip_generator = ClipGenerator.load(
        stages / "train" / "transformer_ema", str(stages / "vae"), str(stages / "text"), "cpu", torch.float32
    )
    encoder, given = _Recorder(), []

    def sample(
        model: object, noise: torch.Tensor, text: object, negative: object, *_: object, **__: object
    ) -> torch.Tensor:
        given.append((text, negative))
        return noise

    monkeypatch.setattr(clip_frames, "sample", sample)
    system = f"You make red videos.{PROMPT_START}"
    addresses = [evaluation_noise(0, "p", index) for index in range(2)]
    recording = dataclasses.replace(clip_generator, text_encoder=encoder)  # type: ignore[arg-type]
    size = {"num_frames": 8, "height": 32, "width": 32}
    recording.generate(system, ["a cat", "a dog"], addresses, SMALL["sampler"], **size)  # type: ignore[arg-type]
    assert encoder.asked == [[f"{system}a cat", f"{system}a dog"], [system]]
    [(text, negative)] = given
    assert [one[0, 0].item() for one in text] == [len(system) + 5] * 2
    assert [one[0, 0].item() for one in negative] == [len(system)] * 2


def test_noise_is_the_prompts_alone(stages: Path) -> None:
    generator = ClipGenerator.load(
        stages / "train" / "transformer_ema", str(stages / "vae"), str(stages / "text"), "cpu", torch.float32
    )
    system, address = f"You make red videos.{PROMPT_START}", evaluation_noise(0, "p", 0)
    size = {"num_frames": 8, "height": 32, "width": 32}

    def frames(captions: list[str], addresses: list[NoiseAddress]) -> np.ndarray:
        return generator.generate(system, captions, addresses, SMALL["sampler"], **size)  # type: ignore[arg-type]

    one = frames(["red circle"], [address])
    assert one.shape == (1, 8, 32, 32, 3)
    np.testing.assert_array_equal(one, frames(["red circle"], [address]))
    other = frames(["red circle"], [evaluation_noise(0, "p", 1)])
    assert np.abs(one.astype(int) - other).mean() > 1


@pytest.mark.parametrize(
    ("runtime", "settings", "device", "dtype"),
    [
        ({}, {}, "cpu", torch.float32),
        ({"use_gpu": True, "attention": "fa3"}, {}, "cuda", torch.bfloat16),
        ({"use_gpu": True}, {"dtype": "float32", "tiling": True}, "cuda", torch.float32),
    ],
)
def test_clips_are_made_by_the_average_as_the_config_says(
    stages: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runtime: dict[str, Any],
    settings: dict[str, Any],
    device: str,
    dtype: torch.dtype,
) -> None:
    class Asked(Exception):
        """Instead of making clips."""

    work: list[Batch] = []

    def asked(batches: list[Batch], *_: Any) -> None:
        work.extend(batches)
        raise Asked

    monkeypatch.setattr(clips, "make_clips", asked)
    config = EvaluateConfig(source="circle", **(SMALL | {"width": 48}), **settings)
    with pytest.raises(Asked):
        run_evaluation(stages, tmp_path, config, RuntimeConfig.model_validate(runtime))
    [job] = {batch.job for batch in work}
    assert Path(job.checkpoint) == stages / "train" / "transformer_ema"
    assert (job.vae, job.text_encoder) == (str(stages / "vae"), str(stages / "text"))
    assert job.system_prompt == f"You make circle videos.{PROMPT_START}"
    assert (job.num_frames, job.height, job.width, job.fps) == (8, 32, 48, 8)
    assert job.sampler == SMALL["sampler"]
    loaded: list[Any] = []
    made = SimpleNamespace(model=SimpleNamespace(config="shape"))
    kernels: list[Any] = []
    monkeypatch.setattr(attention_kernels, "use_kernel", lambda *given: kernels.append(given))
    monkeypatch.setattr(ClipGenerator, "load", lambda *given: loaded.append(given) or made)
    worker = ClipWorker()
    assert worker._generator(job) is worker._generator(job) is made
    assert loaded == [(Path(job.checkpoint), job.vae, job.text_encoder, device, dtype, None, 1.0)]
    assert (job.tiling, job.need, job.offload) == (config.tiling, None, "none")
    assert kernels == [(runtime.get("attention", "auto"), "shape", device, dtype)]


def test_an_unknown_source_is_named(stages: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source 'web' has no system prompt; there are circle, red"):
        run_evaluation(stages, tmp_path, EvaluateConfig(source="web", **SMALL))


def test_mistakes_in_the_config_are_found_before_any_work() -> None:
    words = ListSuite(choose=("a cat",), report=("a dog",))
    for wrong, message in (
        ({"metrics": ("vbench/total",)}, "unknown metric"),
        ({"metrics": ("shapes/shape_acc",), "suite": words}, "suite.kind must be shapes"),
        ({"num_frames": 8, "fps": 80.0}, "too short"),
        ({"height": 48, "sampler": SamplerConfig(patches=((0.0, (2, 4, 4)),))}, "does not divide"),
        ({"num_frames": 10}, "multiple of 4"),
    ):
        with pytest.raises(ValidationError, match=message):
            EvaluationConfig.model_validate(wrong)
    offline = EvaluationConfig(suite=CaptionSuite()).measured()
    assert offline
    assert all(name.startswith("offline/") for name in offline)
    assert EvaluationConfig(metrics=("shapes/shape_acc",)).measured() == ("shapes/shape_acc",)


def test_configs_import_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'cv2', 'diffusers', 'av', 'pyarrow'}"
    code = f"import sys, jobs.evaluate, jobs.choose; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
