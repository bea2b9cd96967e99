"""Clips of a training stage as the driver sees them: a step is told of when it is whole, with its figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import train
from jobs.context import InputRef, JobContext
from jobs.runtime import RuntimeConfig
from jobs.train_samples import SampleFollower
from lumina.files import read_json
from lumina.training.sample_config import FOLDER, STEP_FILE, SamplePlan
from lumina.training.samples import batch_record
from tests.lumina.training.test_samples import config, plan, write_data


def _context(root: Path, aside: SamplePlan | None, told: list[Any]) -> JobContext:
    (root / "out").mkdir(parents=True)
    return JobContext(
        stage="train@1",
        fingerprint="f" * 64,
        operator="",
        config=None,
        runtime=RuntimeConfig(),
        inputs={},
        weights={},
        media_root="",
        out=root / "out",
        work=root / "work",
        progress=lambda *_: None,
        log_metrics=lambda values, step: told.append((step, dict(values))),
        aside=aside,
        log_image=lambda key, file, step: told.append((step, key, file)),
    )


def _write(work: Path, made: SamplePlan, step: int, numbers: tuple[int, ...]) -> None:
    """Batches as workers leave them: the first prompt of each is drawn right, and no speed can be measured."""
    for number in numbers:
        rows = []
        for place, clip in enumerate(made.batches()[number]):
            files = {"strip": f"{clip.name}.png", "video": f"{clip.name}.mp4"}
            values = {f"shapes/{name}_acc": float(not place) for name in ("colour", "shape", "direction")}
            values |= {"shapes/measured_speed": float("nan"), "shapes/asked_speed": 0.3}
            values |= {"shapes/unmeasured_rate": 0.0, "offline/flow_abs_mean_dis": 0.5}
            values |= {f"offline/{name}": 0.5 for name in ("temporal_flicker", "frame_sim_rgbhist", "constant_rate")}
            values |= {"offline/laplacian_sharpness": 3.0, "offline/dynamic_degree_dis": 1.0}
            told = {"source": clip.source, "prompt_id": clip.prompt.prompt_id, "prompt": clip.prompt.caption}
            rows.append({**told, "seed": clip.seed, **files, "frames_sha256": "0", **values})
            for name in files.values():
                path = batch_record(work / FOLDER, step, number).with_name(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x")
        batch_record(work / FOLDER, step, number).write_text(json.dumps({"key": made.key, "rows": rows}))


def test_a_step_is_told_of_once_it_is_whole_and_kept_with_the_output(tmp_path: Path) -> None:
    told: list[Any] = []
    ctx = _context(tmp_path, plan(), told)
    follower = SampleFollower(ctx)
    follower.tell()
    _write(ctx.work, plan(), 3, (0,))
    follower.tell()
    assert told == []
    _write(ctx.work, plan(), 3, (1,))
    _write(ctx.work, plan(), 6, (1,))
    follower.tell()
    follower.tell()
    (step, curves), *pictures = told
    assert step == 3
    assert curves["sample/shapes/shape_acc/web"] == curves["sample/shapes/shape_acc/clean"] == 0.5
    low, high = (curves[f"sample_interval/shapes/shape_acc_{end}/web"] for end in ("low", "high"))
    assert 0 <= low < 0.5 < high <= 1
    texts = [prompt.caption for prompt in plan().prompts]
    assert [key for _, key, _ in pictures] == [f"{source}/{text}" for source in ("web", "clean") for text in texts]
    assert all((ctx.work / file).is_file() for _, _, file in pictures)
    # The next attempt tells it all again, to a run of its own, of the same figures.
    SampleFollower(ctx).tell()
    assert told[len(told) // 2 :] == told[: len(told) // 2]
    follower.publish()
    kept = sorted(path.name for path in (ctx.out / FOLDER / "step-00000003").iterdir())
    assert STEP_FILE in kept
    assert len(kept) == 9
    assert [path.name for path in (ctx.out / FOLDER).iterdir()] == ["step-00000003"]
    record = read_json(ctx.out / FOLDER / "step-00000003" / STEP_FILE)
    assert record["rows"][0]["shapes/measured_speed"] is None
    assert record["figures"]["web"]["shapes/shape_acc"]["low"] == pytest.approx(low)


def test_clips_of_other_settings_are_not_taken_for_these(tmp_path: Path) -> None:
    told: list[Any] = []
    ctx = _context(tmp_path, plan(), told)
    _write(ctx.work, plan(fps=4.0), 3, (0, 1))
    SampleFollower(ctx).tell()
    assert told == []


def test_a_stage_without_samples_has_none(tmp_path: Path) -> None:
    ctx = _context(tmp_path, None, [])
    _write(ctx.work, plan(), 3, (0, 1))
    follower = SampleFollower(replace(ctx, aside=None))
    follower.tell()
    follower.publish()
    assert not (ctx.out / FOLDER).exists()


def test_a_worker_makes_what_its_stage_is_to_show(tmp_path: Path) -> None:
    told: list[Any] = []
    made = plan(every=1, system_prompts={"web": "Web. <Prompt Start> "})
    data = write_data(tmp_path / "toy")
    latents, text = (InputRef(name, path, "") for name, path in zip(("latents", "text"), data, strict=True))
    ctx = replace(_context(tmp_path, made, told), config=config(steps=1), inputs={"latents": latents, "text": text})
    ctx.work.mkdir()
    train._worker(train._spec(ctx))
    assert not list(ctx.work.glob("stopped-*"))
    SampleFollower(ctx).tell()
    assert [step for step, *_ in told] == 3 * [0] + 3 * [1]
    (_, curves), *pictures = told[3:]
    assert {"sample/shapes/shape_acc/web", "sample/offline/temporal_flicker/web"} <= curves.keys()
    assert len(pictures) == 2
    assert all((ctx.work / file).read_bytes().startswith(b"\x89PNG") for _, _, file in pictures)
