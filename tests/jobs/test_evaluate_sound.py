"""From a tiny checkpoint to figures of its sounds: paired, repeatable, resumable, and compared with another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from jobs import sounds
from jobs.context import JobContext, JobResult
from jobs.evaluate_sound import SoundCompareConfig, SoundEvaluateConfig
from jobs.sounds import SoundWorker
from lumina.video_to_audio.config import SoundSamplerConfig
from lumina.video_to_audio.evaluation.conditions import CONDITIONS
from lumina.video_to_audio.sound_sheet import SHEET_FILE
from lumina.video_to_audio.wav_files import read_wav
from tests.jobs.here import PoolHere
from tests.jobs.sounded import CLIPS, make_sound_stages, run_sound_job
from tests.lumina.video_to_audio import reference_numbers

SMALL: dict[str, Any] = {
    "sampler": SoundSamplerConfig(steps=2),
    "batch_size": 3,
    "resamples": 200,
    "shown": 2,
    "short_side": 48,
    "most_fps": 12.5,
}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `make_sound_stages`."""
    root = tmp_path_factory.mktemp("sounded")
    (root / "published").mkdir()
    return make_sound_stages(root, reference_numbers.save_weights(root / "published")["codec"])


@pytest.fixture(scope="module")
def evaluated(stages: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[JobContext, JobResult, list[int]]:
    """One evaluation of all conditions, made in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sounds, "hand_out", PoolHere())
        return run_sound_job(stages, tmp_path_factory.mktemp("evaluated"), SoundEvaluateConfig(**SMALL))


def _rows(context: JobContext) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["condition"], row["clip_id"]): row for row in pq.read_table(context.out / "data").to_pylist()}


def test_rows_are_of_all_clips_and_conditions(evaluated: tuple[JobContext, JobResult, list[int]]) -> None:
    context, result, done = evaluated
    rows = _rows(context)
    expected = {(one, clip) for one in (*CONDITIONS, "truth", "codec") for clip in CLIPS}
    # There is no other clip of its length whose features it could get.
    assert set(rows) == expected - {("sync_shuffled", "alone"), ("visual_shuffled", "alone")}
    assert result.counts == {"in": len(rows), "ok": len(rows)}
    assert done[-1] == len(CLIPS)
    for (condition, clip), row in rows.items():
        kept = condition in ("given", "truth") or clip in sorted(CLIPS)[:2]
        assert row["sound"] == (f"sounds/{condition}/{clip}.wav" if kept else None)
        assert (row["donor"] is not None) == (condition in ("sync_shuffled", "visual_shuffled"))
        assert (row["events"] is None) == (clip == "foreign")
        assert row["rms_dbfs"] <= 0
        assert row["mel_l1"] >= 0
        if kept:
            samples, rate = read_wav(context.out / row["sound"])
            assert (rate, len(samples) / rate) == (16_000, row["duration_s"])
            assert hashlib.sha256(samples.tobytes()).hexdigest() == row["wave_sha256"]
    truth = rows["truth", "a"]
    assert (truth["mel_l1"], truth["hits"], truth["events"]) == (0, len(truth["event_times_s"]), truth["onsets"])
    assert truth["found_pitch_hz"] == truth["event_pitch_hz"]
    assert truth["peak_times_s"]
    # Each condition is heard, from the same noise.
    assert len({row["wave_sha256"] for row in rows.values() if row["clip_id"] == "a"}) == 7


def test_figures_have_intervals_and_are_paired(evaluated: tuple[JobContext, JobResult, list[int]]) -> None:
    context, result, _ = evaluated
    found = json.loads((context.out / "metrics.json").read_text())
    assert (found["clips"], found["clips_known"]) == (len(CLIPS), len(CLIPS) - 1)
    assert found["clips_by_condition"]["sync_shuffled"] == len(CLIPS) - 1
    best = found["conditions"]["truth"]
    assert [best[name]["value"] for name in ("onset_f1_50ms", "class_acc_all")] == [1, 1]
    assert best["rfd_mel64"]["value"] == pytest.approx(0, abs=1e-6)
    assert best["onset_f1_50ms"]["low"] < 1
    given, minus = found["conditions"]["given"], found["given_minus"]
    assert given["rfd_mel64"]["value"] > 0
    assert set(found["meaning"]) >= set(given)
    assert set(minus) == {*CONDITIONS, "truth", "codec"} - {"given"}
    for name in ("onset_f1_50ms", "mel_l1"):
        one = minus["truth"][name]
        assert one["value"] == pytest.approx(given[name]["value"] - best[name]["value"])
        assert one["low"] <= one["value"] <= one["high"]
    names = [one.name for one in result.evaluations]
    assert names == sorted(names)
    [evaluation] = [one for one in result.evaluations if one.name == "train@1 | given"]
    assert evaluation.params["condition"] == "given"
    assert evaluation.metrics["eval/mel_l1"] == pytest.approx(given["mel_l1"]["value"])
    assert all((context.out / artifact).is_file() for one in result.evaluations for artifact in one.artifacts)
    assert [one.name for one in result.evaluations if SHEET_FILE in one.artifacts] == ["train@1 | given"]
    assert result.metrics["eval/truth/onset_f1_50ms"] == 1


@pytest.mark.parametrize("fault", ["no record", "another key", "a sound cut short", "no moments"])
def test_a_killed_evaluation_ends_with_the_same_rows(
    evaluated: tuple[JobContext, JobResult, list[int]],
    stages: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    context, result, _ = evaluated
    copy = tmp_path / "work"
    for file in context.work.rglob("*"):
        if file.is_file():
            target = copy / file.relative_to(context.work)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    folders = sorted((copy / "sounds").glob("batch-*"))
    # Five clips of one length in batches of three and two, and one alone.
    assert len(folders) == 3
    record = folders[0] / "rows.json"
    if fault == "no record":
        record.unlink()
    elif fault == "another key":
        record.write_text(json.dumps(json.loads(record.read_text()) | {"key": "0" * 64}))
    elif fault == "a sound cut short":
        sound = next(folders[0].glob("given-*.wav"))
        sound.write_bytes(sound.read_bytes()[:-2])
    else:
        (folders[0] / "moments.npy").unlink()
    made: list[str] = []

    class Counted(SoundWorker):
        def make(self, batch: sounds.SoundBatch) -> None:
            made.append(Path(batch.folder).name)
            super().make(batch)

    monkeypatch.setattr(sounds, "SoundWorker", Counted)
    monkeypatch.setattr(sounds, "hand_out", PoolHere())
    again, repeated, _ = run_sound_job(stages, tmp_path, SoundEvaluateConfig(**SMALL))
    assert made == [folders[0].name]
    assert repeated.digest == result.digest
    assert (again.out / "metrics.json").read_bytes() == (context.out / "metrics.json").read_bytes()


@pytest.mark.ray
def test_workers_of_ray_make_the_same(
    evaluated: tuple[JobContext, JobResult, list[int]], stages: Path, tmp_path: Path, ray_cluster: None
) -> None:
    _, result, done = run_sound_job(stages, tmp_path, SoundEvaluateConfig(**SMALL))
    assert result.digest == evaluated[1].digest
    assert done[-1] == len(CLIPS)


def test_two_checkpoints_are_compared(
    evaluated: tuple[JobContext, JobResult, list[int]], stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sounds, "hand_out", PoolHere())
    few = SoundEvaluateConfig(**(SMALL | {"conditions": ("given",)}))
    second, _, _ = run_sound_job(stages, tmp_path / "second", few, checkpoint=stages / "train2")
    rows = _rows(second)
    assert {condition for condition, _ in rows} == {"given", "truth", "codec"}
    # The truth, and what is left of it in the codec, do not depend on the checkpoint.
    assert all(rows[key]["wave_sha256"] == row["wave_sha256"] for key, row in _rows(evaluated[0]).items()
               if key[0] in ("truth", "codec"))  # fmt: skip
    sides = {"before": evaluated[0].out, "after": second.out}
    context, result, _ = run_sound_job(stages, tmp_path / "compare", SoundCompareConfig(resamples=200), **sides)
    found = json.loads((context.out / "comparison.json").read_text())
    assert found["clips"] == len(CLIPS)
    assert (found["before"]["checkpoint"], found["after"]["checkpoint"]) == ("train@1", "train@2")
    for figure in found["figures"].values():
        change = figure["after"]["value"] - figure["before"]["value"]
        assert figure["difference"]["value"] == pytest.approx(change, abs=1e-8)
    assert found["found"].startswith(f"train@2 against train@1 on the same {len(CLIPS)} clips and noises")
    assert result.metrics["difference/mel_l1"] == pytest.approx(found["figures"]["mel_l1"]["difference"]["value"])
    assert result.digest.startswith("sha256:")

    metrics = second.out / "metrics.json"
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"seed": 1}))
    with pytest.raises(ValueError, match=r"evaluate@1 and evaluate@2 were evaluated with another seed"):
        run_sound_job(stages, tmp_path / "unlike", SoundCompareConfig(), **sides)


def test_clips_are_drawn_by_the_seed_each_by_itself(
    stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []

    def stop(work: Any, runtime: Any, progress: Any) -> None:
        asked.append({request.clip_id for batch in work for request in batch.requests})
        raise InterruptedError

    monkeypatch.setattr(sounds, "measure_sounds", stop)
    for number, (seed, clips) in enumerate([(0, 2), (0, 3), (3, 3), (0, 64)]):
        with pytest.raises(InterruptedError):
            run_sound_job(
                stages, tmp_path / str(number), SoundEvaluateConfig(**(SMALL | {"seed": seed, "clips": clips}))
            )
    assert [len(one) for one in asked] == [2, 3, 3, len(CLIPS)]
    assert asked[0] < asked[1]
    assert asked[1] != asked[2]


def test_what_cannot_be_evaluated_is_one_clear_error(stages: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="conditions hold `given` and each of its ablations once"):
        SoundEvaluateConfig(conditions=("nothing",))
    lacking = pq.read_table(stages / "clips" / "data").slice(1)
    (tmp_path / "clips" / "data").mkdir(parents=True)
    pq.write_table(lacking, tmp_path / "clips" / "data" / "rows.parquet")
    with pytest.raises(ValueError, match=r"clips does not know clip a, whose sound is held out"):
        run_sound_job(stages, tmp_path / "lacking", SoundEvaluateConfig(**SMALL), clips=tmp_path / "clips")
